# SPDX-License-Identifier: Apache-2.0
"""Crops of frames for training, augmented."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import scipy.fft
import torch
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset, Sampler

from surgseg_ros.core.labels import BACKGROUND, CLASS_COUNT, NO_DECISION
from surgseg_ros.training.frame_cache import CachedFrames

_BLACK: Final = 3
"""A pixel is as black as the border of the endoscope's view if no channel is above this."""

_SURROUND_PX: Final = 7
"""A black area that does not contain a square of this side is a shadow, not the border."""

_TILE_MARGIN_PX: Final = 64
_TILE_DEVIATION: Final = 24.0

_LUMA: Final = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """
    The strengths of random changes of an image; with 0 everywhere, nothing changes.

    :param flip: probability of a mirror image.
    :param scale: greatest change of size, as a fraction; the range is symmetric in the logarithm.
    :param stretch: greatest change of the ratio of width to height, as `scale`; squeezed sources
        and other cameras differ in it.
    :param rotation_deg: greatest rotation in either direction.
    :param spectra: probability that the low frequencies get the amplitudes of another frame, which
        are its light and colours.
    :param colour: greatest change, as a fraction, of brightness, contrast, saturation and white
        balance.
    :param gamma: greatest exponent of the tone curve, as a fraction, as `scale`: dark and bright
        exposures.
    :param smoke: probability of smoke, as of an electrocautery.
    :param blur: probability of a blur.
    :param blur_px: the blur's greatest standard deviation in pixels of the crop; small sources
        that were enlarged are blurred by more than the optics do.
    :param apart: probability that instruments and background are recoloured independently, to
        imitate surfaces that are darker, brighter, or of other colours than in the data.
    :param noise: greatest standard deviation of added noise, in grey levels (0 to 255).
    :param focus: probability that a crop is drawn for a class; all classes of the data set are
        equally likely.
    """

    flip: float = 0.5
    scale: float = 0.25
    stretch: float = 0.0
    rotation_deg: float = 15.0
    spectra: float = 0.0
    colour: float = 0.15
    gamma: float = 0.0
    smoke: float = 0.1
    blur: float = 0.2
    blur_px: float = 1.2
    apart: float = 0.0
    noise: float = 6.0
    focus: float = 0.5

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        crop_size: tuple[int, int],
        rng: Generator,
        label: int | None = None,
        other: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Draw one crop.

        :param image: (h, w, 3) uint8 RGB, resized.
        :param mask: (h, w) uint8 class index; NO_DECISION where the image is padding.
        :param crop_size: (height, width) of the crop in pixels.
        :param rng: source of random numbers.
        :param label: a class to centre the crop on, if the image shows it; None for a crop of
            anything. The caller chooses class and image according to `focus`.
        :param other: (h', w', 3) uint8 RGB, the frame for `spectra`; None for none.
        :return: (*crop_size, 3) and (*crop_size); NO_DECISION outside the image.
        """
        matrix = self._placement(mask, crop_size, rng, label)
        size = (crop_size[1], crop_size[0])
        view = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
        truth = cv2.warpAffine(
            mask, matrix, size, flags=cv2.INTER_NEAREST, borderValue=(NO_DECISION,)
        )
        view, labels = _u8(view), _u8(truth)
        changed = view
        if other is not None and rng.random() < self.spectra:
            changed = _exchange_spectra(view, other, rng)
        changed = self._recolour(changed, labels, rng)
        if changed is not view:
            cv2.copyTo(view, _surround(view), changed)
        return changed, labels

    def _placement(
        self,
        mask: NDArray[np.uint8],
        crop_size: tuple[int, int],
        rng: Generator,
        label: int | None,
    ) -> NDArray[np.float64]:
        """Return the (2, 3) matrix from pixels of the image to pixels of the crop."""
        grow = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.scale)))
        turn = float(np.deg2rad(rng.uniform(-1, 1) * self.rotation_deg))
        mirror = -1.0 if rng.random() < self.flip else 1.0
        linear = grow * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear[:, 0] *= mirror
        ratio = float(np.exp(rng.uniform(-0.5, 0.5) * np.log1p(self.stretch)))
        linear = np.diag([ratio, 1 / ratio]) @ linear
        size = np.array(mask.shape[::-1], float)
        shown = np.array([crop_size[1] / ratio, crop_size[0] * ratio]) / grow
        half = np.minimum(shown, size) / 2
        centre = _centre(mask, half, rng, label)
        middle = (np.array(crop_size[::-1]) - 1) / 2
        return np.column_stack([linear, middle - linear @ centre])

    def _recolour(
        self, view: NDArray[np.uint8], truth: NDArray[np.uint8], rng: Generator
    ) -> NDArray[np.uint8]:
        """Change the part inside the endoscope's circle, in the order in which light passes."""
        changed = view
        if self.apart and rng.random() < self.apart:
            changed = _recolour_apart(changed, truth, rng)
        if rng.random() < self.smoke:
            changed = _smoke(changed, rng)
        if rng.random() < self.blur:
            changed = _u8(cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.3, self.blur_px)))
        if self.gamma:
            changed = _gamma(changed, self.gamma, rng)
        if self.colour:
            changed = _colour(changed, self.colour, rng)
        if self.noise:
            changed = _noise(changed, self.noise, rng)
        return changed


def _centre(
    mask: NDArray[np.uint8], half: NDArray[np.float64], rng: Generator, label: int | None
) -> NDArray[np.float64]:
    """Return (x, y) of the crop's centre in the image; avoid padding if possible."""
    shown = np.array([(line != NO_DECISION).sum() for line in (mask[0], mask[:, 0])])
    low = half - 0.5
    high = np.maximum(low, shown - half - 0.5)
    centre: NDArray[np.float64] = rng.uniform(low, high)
    pixels = np.flatnonzero(mask == label) if label is not None else ()
    if len(pixels):
        y, x = divmod(int(rng.choice(pixels)), mask.shape[1])
        centre = np.clip(rng.normal((x, y), half / 2), low, high)
    return centre


def _surround(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (h, w), 255 for the black around the endoscope's circle and for padding."""
    black = cv2.inRange(view, (0,) * 3, (_BLACK,) * 3)
    square = np.ones((_SURROUND_PX, _SURROUND_PX), np.uint8)
    return _u8(cv2.morphologyEx(black, cv2.MORPH_OPEN, square))


_LOW_FREQUENCIES: Final = (0.004, 0.05)
"""The limit between low and high frequencies is drawn from this range, in cycles per pixel."""


def _exchange_spectra(
    view: NDArray[np.uint8], other: NDArray[np.uint8], rng: Generator
) -> NDArray[np.uint8]:
    """
    Replace the amplitudes of low frequencies by those of another image; keep the phases.

    Yang and Soatto 2020, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR.
    """
    height, width = view.shape[:2]
    resized = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    spectrum, target = (
        scipy.fft.rfft2(image.astype(np.float32), axes=(0, 1)) for image in (view, resized)
    )
    limit = rng.uniform(*_LOW_FREQUENCIES)
    rows = np.flatnonzero(np.abs(scipy.fft.fftfreq(height)) <= limit)
    low = np.ix_(rows, np.flatnonzero(scipy.fft.rfftfreq(width) <= limit))
    spectrum[low] = np.abs(target[low]) * np.exp(1j * np.angle(spectrum[low]))
    image = scipy.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    return _u8(np.clip(np.rint(image), 0, 255))


_APART_COLOUR: Final = 0.5
_APART_GAMMA: Final = 0.8
_APART_EDGE_PX: Final = 1.0
"""Standard deviation with which the border between both parts is blurred."""


def _recolour_apart(
    view: NDArray[np.uint8], truth: NDArray[np.uint8], rng: Generator
) -> NDArray[np.uint8]:
    """Change the tone curves and colours of instruments and background independently."""
    instruments = ((truth != BACKGROUND) & (truth != NO_DECISION)).astype(np.float32)
    share = cv2.GaussianBlur(instruments, (0, 0), _APART_EDGE_PX).astype(np.float32)
    parts = [
        _colour(_gamma(view, _APART_GAMMA, rng), _APART_COLOUR, rng)
        if rng.random() < 0.7
        else view
        for _ in range(2)
    ]
    return _u8(cv2.blendLinear(parts[0], parts[1], share, 1 - share))


def _smoke(view: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Blend towards a light grey, by noise of a few octaves."""
    height, width = view.shape[:2]
    coarse = (width // 4 + 1, height // 4 + 1)
    veil = np.zeros(coarse[::-1], np.float32)
    for frequency, share in ((2, 0.55), (4, 0.3), (9, 0.15)):
        grid = rng.random((frequency + 1, frequency + 2), np.float32)
        veil += np.float32(share) * cv2.resize(grid, coarse, None, 0, 0, cv2.INTER_CUBIC)
    veil = (veil - veil.min()) / np.ptp(veil)
    densest, haze = rng.uniform(0.2, 0.6), rng.uniform(0, 0.08)
    # Squared, the noise leaves clear areas between swathes; the haze is everywhere.
    alpha = (np.square(veil) * (densest - haze) + haze).astype(np.float32)
    alpha = cv2.resize(alpha, (width, height)).astype(np.float32, copy=False)
    grey = np.full_like(view, rng.uniform(175, 225) + rng.uniform(-5, 5, 3))
    return _u8(cv2.blendLinear(view, grey, 1 - alpha, alpha))


def _colour(view: NDArray[np.uint8], maximum: float, rng: Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and white balance by one matrix."""
    brightness, contrast, saturation = rng.uniform(-1, 1, 3) * maximum
    gains = (1 + rng.uniform(-1, 1, 3) * maximum / 2) * (1 + contrast)
    matrix = gains[:, None] * ((1 + saturation) * np.eye(3) - saturation * _LUMA)
    offset = np.full(3, 127.5 * (brightness - contrast))
    return _u8(cv2.transform(view, np.column_stack([matrix, offset])))


def _noise(view: NDArray[np.uint8], maximum: float, rng: Generator) -> NDArray[np.uint8]:
    """Add a random part of a noise tile: drawing new noise would take longer than all the rest."""
    height, width = view.shape[:2]
    tile = _noise_tile(height + _TILE_MARGIN_PX, width + _TILE_MARGIN_PX)
    top, left = (int(start) for start in rng.integers(0, _TILE_MARGIN_PX, 2))
    part = tile[top : top + height, left : left + width]
    share = rng.uniform(-1, 1) * maximum / _TILE_DEVIATION
    return _u8(cv2.addWeighted(view, 1, part, share, 0, dtype=cv2.CV_8U))


@lru_cache(2)
def _noise_tile(height: int, width: int) -> NDArray[np.int8]:
    """Return (height, width, 3) noise of _TILE_DEVIATION; the same in every process."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3), np.float32)
    tile: NDArray[np.int8] = np.clip(np.rint(noise * _TILE_DEVIATION), -127, 127).astype(np.int8)
    return tile


def _gamma(view: NDArray[np.uint8], maximum: float, rng: Generator) -> NDArray[np.uint8]:
    """Apply a tone curve with a random exponent."""
    exponent = float(np.exp(rng.uniform(-1, 1) * np.log1p(maximum)))
    curve = 255 * (np.arange(256) / 255) ** exponent
    return _u8(cv2.LUT(view, np.rint(curve).astype(np.uint8)))


def _u8(array: ArrayLike) -> NDArray[np.uint8]:
    """Return the array with the type that OpenCV's stubs lack."""
    return np.asarray(array, np.uint8)


_MIN_PX: Final = 8
"""A class with fewer pixels in a frame is treated as absent from it."""


class CropDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """
    An endless sequence of crops; crop n depends only on the seed and n.

    Some crops are drawn for a class, with the same probability for each class: first a frame that
    shows it, then a crop around it. The frames of the other crops are drawn in passes, each a
    permutation of all frames.

    :param frames: the frames to crop.
    :param augmentation: applied to each crop; its `focus` is the probability of a crop for a
        class.
    :param crop_size: (height, width) of a crop in pixels.
    :param seed: seed of the order and of the augmentation.
    """

    def __init__(
        self,
        frames: CachedFrames,
        augmentation: Augmentation,
        crop_size: tuple[int, int],
        seed: int,
    ) -> None:
        """Find the frames that show each class."""
        self._frames = frames
        self._augmentation = augmentation
        self._crop_size = crop_size
        self._seed = seed
        shown = [np.flatnonzero(px >= _MIN_PX) for px in frames.class_px.T]
        self._showing = {n: shown[n] for n in range(1, CLASS_COUNT) if len(shown[n])}

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Draw a crop.

        :param number: number of the crop, from 0, without an upper limit.
        :return: (*crop_size, 3) uint8 RGB and (*crop_size) uint8 class index.
        """
        rng = np.random.default_rng([self._seed, 1, number])
        label = None
        if self._showing and rng.random() < self._augmentation.focus:
            label = int(rng.choice([*self._showing]))
            frame = int(rng.choice(self._showing[label]))
        else:
            frame = self._next(number)
        other = None
        if self._augmentation.spectra:
            other = np.asarray(self._frames.images[int(rng.integers(len(self._frames)))])
        image, mask = self._augmentation(
            np.asarray(self._frames.images[frame]),
            np.asarray(self._frames.masks[frame]),
            self._crop_size,
            rng,
            label,
            other,
        )
        return torch.from_numpy(image), torch.from_numpy(mask)

    def _next(self, number: int) -> int:
        """Return the frame for a crop that is not drawn for a class."""
        turn, index = divmod(number, len(self._frames))
        order = np.random.default_rng([self._seed, 0, turn]).permutation(len(self._frames))
        return int(order[index])


class EpochSampler(Sampler[int]):
    """
    The numbers of one epoch's crops; the next epoch continues with the following numbers.

    Several processes alternate: together they draw the same crops as a single process.

    :param count: crops in an epoch, of all processes together.
    :param rank: rank of this process, from 0.
    :param world: number of processes.
    :raises ValueError: if the crops cannot be divided evenly.
    """

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        if count % world:
            raise ValueError(
                f'{count} crops in an epoch are not a multiple of {world} processes: choose an '
                'epoch that is'
            )
        self._count = count
        self._rank = rank
        self._world = world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """
        Select an epoch; Lightning calls this.

        :param epoch: number of the epoch, from 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of this process's crops in an epoch."""
        return self._count // self._world

    def __iter__(self) -> Iterator[int]:
        """Iterate over their numbers."""
        start = self._epoch * self._count
        return iter(range(start + self._rank, start + self._count, self._world))


def keep_to_one_thread(worker: int) -> None:
    """
    Set up a loader's worker: with a worker on every core, OpenCV's threads would only compete.

    :param worker: number of the worker, which DataLoader passes to `worker_init_fn`.
    """
    cv2.setNumThreads(1)

# SPDX-License-Identifier: Apache-2.0
"""Frames to calibrate an export with, and held-out ones to compare it on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.synthetic import Scene
from surgseg_ros.training.dataset import DatasetError, Sample, find_samples, split_videos

SIZE: Final = (720, 1280)
"""(height, width) of synthetic frames in pixels."""

_CALIBRATION_SEED: Final = 810_000_000
_HELD_OUT_SEED: Final = 820_000_000
_FRAMES_OF_A_SCENE: Final = 4
_STRIDE: Final = 25


class Frame(Protocol):
    """An image with its ground truth."""

    @property
    def video(self) -> str:
        """Name of its video."""
        ...

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return (H, W, 3) uint8 RGB, and (H, W) uint8 class index."""
        ...


@dataclass(frozen=True)
class SyntheticFrame:
    """
    A frame of a synthetic scene, drawn when it is read.

    :param seed: seed of the scene.
    :param index: index of the frame.
    """

    seed: int
    index: int

    @property
    def video(self) -> str:
        """Name of the scene, as that of a video."""
        return f'scene {self.seed}'

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw image and mask; see Frame."""
        frame = _scene(self.seed).frame(self.index)
        return np.ascontiguousarray(frame.image), frame.mask


class Frames(NamedTuple):
    """
    The frames with which an export is calibrated and compared; no video is in both parts.

    :param calibration: may be empty if nothing is calibrated.
    :param held_out: at least one.
    """

    calibration: Sequence[Frame]
    held_out: Sequence[Frame]


def choose_frames(
    spec: ModelSpec,
    calibration: Path | None,
    held_out: Path | None,
    count: int,
    *,
    calibrate: bool,
) -> Frames:
    """
    Choose frames, spread evenly over the data sets.

    :param spec: the model; without a data set, a model trained only on synthetic scenes uses
        these.
    :param calibration: a data set, or None.
    :param held_out: another data set, or None for some videos of `calibration`.
    :param count: maximum number of frames of each part.
    :param calibrate: whether frames for calibration are needed.
    :return: the frames.
    :raises DatasetError: if a data set is missing, cannot be used, or has too few videos.
    """
    needed = [path for path in (calibration, held_out) if path]
    if spec.intended_use == 'research' and (not needed or (calibrate and not calibration)):
        raise DatasetError(
            f'{spec.name!r} is for {spec.intended_use}, and no data set is given: give one of '
            f'its kind with --calibration{"" if calibrate else " or --held-out"}'
        )
    if calibration and not held_out:
        return _split(find_samples(calibration), count)
    chosen = _spread(find_samples(held_out), count) if held_out else _draw(_HELD_OUT_SEED, count)
    if not calibrate:
        return Frames((), chosen)
    if not calibration:
        return Frames(_draw(_CALIBRATION_SEED, count), chosen)
    return Frames(_spread(_others(find_samples(calibration), chosen, calibration), count), chosen)


def _split(samples: Sequence[Sample], count: int) -> Frames:
    """Split the videos into two halves."""
    names = split_videos((sample.video for sample in samples), 0.5, 0)
    parts = ([s for s in samples if s.video in set(part)] for part in names)
    return Frames(*(_spread(part, count) for part in parts))


def _others(samples: Sequence[Sample], held_out: Sequence[Frame], root: Path) -> list[Sample]:
    """Leave out held-out videos, by folder and, in case of copies, by content."""
    kept_apart = [frame for frame in held_out if isinstance(frame, Sample)]
    folders = {frame.mask.resolve().parents[1] for frame in kept_apart}
    sizes = {frame.image.stat().st_size for frame in kept_apart}  # others need no comparison
    contents = {_digest(frame.image) for frame in kept_apart}
    rest = [s for s in samples if s.mask.resolve().parents[1] not in folders]
    copied = {
        s.video for s in rest if s.image.stat().st_size in sizes and _digest(s.image) in contents
    }
    others = [s for s in rest if s.video not in copied]
    if not others:
        raise DatasetError(
            f'every video of {str(root)!r} is held out as well: give other videos as '
            '--calibration, or omit --held-out to hold out half of the videos'
        )
    return others


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose evenly."""
    indices = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[index] for index in indices]


def _draw(seed: int, count: int) -> list[SyntheticFrame]:
    """Choose several frames of each scene, since a new scene takes longer to draw."""
    pairs = (divmod(number, _FRAMES_OF_A_SCENE) for number in range(count))
    return [SyntheticFrame(seed + scene, _STRIDE * index) for scene, index in pairs]


@lru_cache(maxsize=1)
def _scene(seed: int) -> Scene:
    return Scene(seed, SIZE)

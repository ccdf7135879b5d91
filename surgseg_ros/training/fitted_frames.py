# SPDX-License-Identifier: Apache-2.0
"""Decoded and fitted frames on disk, and the endless, seeded sequence of views of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from surgseg_ros.core.fitting import fit, fit_mask
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.augmentation import Augmentation
from surgseg_ros.training.dataset import Sample

_IMAGES: Final = 'images.npy'
_MASKS: Final = 'masks.npy'


class FittedFrames:
    """
    Frames as the network sees them, mapped from files so that memory need not hold them all.

    :param folder: where `write` put them.
    """

    def __init__(self, folder: Path) -> None:
        """Map the files; see the class."""
        self.images: NDArray[np.uint8] = np.load(folder / _IMAGES, mmap_mode='r')
        self.masks: NDArray[np.uint8] = np.load(folder / _MASKS, mmap_mode='r')

    @classmethod
    def write(
        cls, samples: Sequence[Sample], input_size: tuple[int, int], mode: str, folder: Path
    ) -> 'FittedFrames':
        """
        Decode and fit samples, each once.

        :param samples: what to decode.
        :param input_size: (height, width) of the network's input in pixels.
        :param mode: one of FIT_MODES.
        :param folder: gets a file of pictures and one of masks.
        :return: the frames, in the order of `samples`.
        :raises DatasetError: if a sample can't be read.
        """
        shape = (len(samples), *input_size)
        images = np.lib.format.open_memmap(folder / _IMAGES, 'w+', np.uint8, (*shape, 3))
        masks = np.lib.format.open_memmap(folder / _MASKS, 'w+', np.uint8, shape)
        for place, sample in enumerate(tqdm(samples, 'decoding', unit='frame', leave=False)):
            image, mask = sample.read()
            images[place] = fit(torch.from_numpy(image)[None], input_size, mode)[0].numpy()
            masks[place] = fit_mask(torch.from_numpy(mask)[None], input_size, mode, NO_DECISION)[
                0
            ].numpy()
        del images, masks  # which writes what is still in memory
        return cls(folder)

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.images)


class Views(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """
    An endless sequence of views; view n depends on the seed and n alone.

    Frames come in passes, each a permutation of all, so that a run can go on from any step.

    :param frames: what to look at.
    :param augmentation: how.
    :param crop_size: (height, width) of a view in pixels.
    :param seed: of the order and of the augmentation.
    """

    def __init__(
        self,
        frames: FittedFrames,
        augmentation: Augmentation,
        crop_size: tuple[int, int],
        seed: int,
    ) -> None:
        """Keep all; see the class."""
        self._frames = frames
        self._augmentation = augmentation
        self._crop_size = crop_size
        self._seed = seed

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Draw a view.

        :param number: from 0, without end.
        :return: (*crop_size, 3) uint8 RGB and (*crop_size) uint8 class index.
        """
        turn, place = divmod(number, len(self._frames))
        frame = np.random.default_rng([self._seed, 0, turn]).permutation(len(self._frames))[place]
        rng = np.random.default_rng([self._seed, 1, number])
        image, mask = self._augmentation(
            np.asarray(self._frames.images[frame]),
            np.asarray(self._frames.masks[frame]),
            self._crop_size,
            rng,
        )
        return torch.from_numpy(image), torch.from_numpy(mask)


class Stretch(Sampler[int]):
    """
    The numbers of one epoch's views; the next epoch goes on where it ends.

    :param count: views in an epoch.
    """

    def __init__(self, count: int) -> None:
        """Start with epoch 0; see the class."""
        self._count = count
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """
        Go to an epoch; Lightning calls this.

        :param epoch: from 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the views of an epoch."""
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Go through them."""
        return iter(range(self._epoch * self._count, (self._epoch + 1) * self._count))

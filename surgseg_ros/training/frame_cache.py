# SPDX-License-Identifier: Apache-2.0
"""Decoded and resized frames on disk, shared by all runs that need the same ones."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.core.preprocessing import fit, fit_mask, normalize_colours
from surgseg_ros.evaluation.frames import PARTIAL
from surgseg_ros.training.dataset import DatasetError, Sample

_IMAGES: Final = 'images.npy'
_MASKS: Final = 'masks.npy'
_CLASS_PX: Final = 'class_px.npy'

_FORMAT: Final = 1
"""Version of the format; increase it if the same samples would be resized differently."""


class CachedFrames:
    """
    Frames as input of the network, memory-mapped so that they need not fit into memory.

    :param folder: the folder that `prepare` wrote.
    """

    def __init__(self, folder: Path) -> None:
        """Map the files."""
        self._folder = folder
        self.images: NDArray[np.uint8] = np.load(folder / _IMAGES, mmap_mode='r')
        """(n, height, width, 3) RGB."""
        self.masks: NDArray[np.uint8] = np.load(folder / _MASKS, mmap_mode='r')
        """(n, height, width) class index, NO_DECISION for padding."""
        self.class_px: NDArray[np.int64] = np.load(folder / _CLASS_PX)
        """(n, CLASS_COUNT) pixels of each class in each mask."""

    @classmethod
    def prepare(
        cls,
        samples: Sequence[Sample],
        input_size: tuple[int, int],
        mode: str,
        cache: Path,
        colours: Mapping[str, Any] | None = None,
    ) -> 'CachedFrames':
        """
        Decode and resize samples once, or find them in the cache.

        A folder in the cache is always complete, even after an interruption. Several processes may
        do this at the same time: one decodes, the others wait.

        :param samples: the samples.
        :param input_size: (height, width) of the network's input in pixels.
        :param mode: one of FIT_MODES.
        :param cache: the folder; created if it does not exist.
        :param colours: as `colour_normalization` in ModelSpec; None for unchanged images.
        :return: the frames, in the order of `samples`.
        :raises DatasetError: if a sample cannot be read, or the cache cannot be written.
        :raises MaskError: if a mask cannot be read.
        """
        digest = _digest(samples, input_size, mode, colours)
        folder = cache / digest
        if folder.is_dir():
            return cls(folder)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache / f'.{digest}.lock'):
                if not folder.is_dir():
                    _write(samples, input_size, mode, colours, folder)
        except OSError as error:
            raise DatasetError(
                f'resized frames cannot be written to the cache {str(cache)!r} ({error}): free '
                f'{_bytes(len(samples), input_size) / 1e9:.1f} GB there, or name another cache'
            ) from error
        return cls(folder)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.images)

    def __reduce__(self) -> tuple[Callable[[Path], 'CachedFrames'], tuple[Path]]:
        """Pickle only the folder's name, since a mapped array would be copied."""
        return CachedFrames, (self._folder,)


def _digest(
    samples: Sequence[Sample],
    input_size: tuple[int, int],
    mode: str,
    colours: Mapping[str, Any] | None,
) -> str:
    """Hash the sources of the frames: if a file changes, its frames are resized again."""
    try:
        states = [(s.name, *_state(s.image), *_state(s.mask)) for s in samples]
    except OSError as error:
        raise DatasetError(f'{error.filename}: cannot be read ({error.strerror})') from error
    made_by = [mode, dict(colours)] if colours else [mode]
    text = json.dumps([_FORMAT, [*input_size], *made_by, states])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _bytes(count: int, input_size: tuple[int, int]) -> int:
    return count * input_size[0] * input_size[1] * 4


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file against other processes; the system releases it if this one is killed."""
    with path.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(
    samples: Sequence[Sample],
    input_size: tuple[int, int],
    mode: str,
    colours: Mapping[str, Any] | None,
    folder: Path,
) -> None:
    """Decode and fit into a temporary folder, which is renamed when it is complete."""
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # from an earlier interruption
    partial.mkdir()
    try:
        shape = (len(samples), *input_size)
        images = _reserve(partial / _IMAGES, (*shape, 3))
        masks = _reserve(partial / _MASKS, shape)
        class_px = np.zeros((len(samples), CLASS_COUNT), np.int64)

        def put(index: int) -> None:
            image, mask = (torch.from_numpy(array)[None] for array in samples[index].read())
            shown = fit(image, input_size, mode)
            images[index] = (normalize_colours(shown, **colours) if colours else shown)[0].numpy()
            resized = fit_mask(mask, input_size, mode, NO_DECISION)[0].numpy()
            masks[index] = resized
            class_px[index] = np.bincount(resized.ravel(), minlength=CLASS_COUNT)[:CLASS_COUNT]

        _each(put, len(samples))
        images.flush()
        masks.flush()
        np.save(partial / _CLASS_PX, class_px)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _each(action: Callable[[int], None], count: int) -> None:
    """Call a function with each number, in threads: OpenCV and torch release the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            done = pool.map(action, range(count))
            for _ in tqdm(done, 'resizing', count, unit='frame', leave=False):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _reserve(path: Path, shape: tuple[int, ...]) -> Any:
    """Map a file whose space is allocated, since a full disk would kill the process later."""
    array = np.lib.format.open_memmap(path, 'w+', np.uint8, shape)
    with path.open('rb+') as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array

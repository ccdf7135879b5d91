# SPDX-License-Identifier: Apache-2.0
"""Draws videos of scenes as a data set: numbered images and masks, in several processes."""

import math
from collections.abc import Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.files import replacing
from surgseg_ros.core.processes import deaf_to_terminal, worker_pool
from surgseg_ros.synthetic.scene import Scene

SCENES_PER_SEED: Final = 100_000
"""Number of scenes that are reserved for a seed, so that no two seeds share one."""

LAST_INDEX: Final = 999_999_999
"""Greatest number of a frame: names in the data set have nine digits."""

_BYTES_PER_PIXEL: Final = 450
"""Memory that drawing a scene takes; measured from 500 to 2000 pixels a side."""

_CHUNK: Final = 30
_JPEG_QUALITY: Final = 92


class VideoSet(NamedTuple):
    """
    The videos to draw.

    :param videos: their number, each of a scene of its own.
    :param frames: their number in each.
    :param stride: from one frame to the next; the frames between are not drawn.
    :param size: (height, width) in pixels.
    :param rate_hz: frames of the scene per second.
    :param seed: the same gives the same videos.
    :param jpeg: whether images are JPEG; otherwise PNG, as masks always are.
    """

    videos: int
    frames: int
    stride: int
    size: tuple[int, int]
    rate_hz: float
    seed: int
    jpeg: bool

    @property
    def last_index(self) -> int:
        """The number of the last frame of each video."""
        return (self.frames - 1) * self.stride

    def memory_bytes(self, workers: int) -> int:
        """Estimate the memory that so many processes take at once."""
        chunks = self.videos * math.ceil(self.frames / _CHUNK)
        return _BYTES_PER_PIXEL * math.prod(self.size) * min(workers, chunks)


class Job(NamedTuple):
    """Some frames of one video, which one process draws."""

    folder: Path
    scene_seed: int
    size: tuple[int, int]
    rate_hz: float
    indices: range
    image_suffix: str


def draw_videos(wanted: VideoSet, output: Path, workers: int) -> None:
    """
    Draw videos as `video_01/rgb/000000000.png` and `video_01/segmentation/000000000.png`.

    :param wanted: the videos.
    :param output: the data set's folder.
    :param workers: number of processes; with 1, this process draws.
    :raises OSError: if a file cannot be written.
    """
    jobs = _jobs(wanted, output)
    with tqdm(total=sum(len(job.indices) for job in jobs), unit='frame', leave=False) as bar:
        if workers == 1:
            for job in jobs:
                bar.update(_draw(job))
            return
        with worker_pool(min(workers, len(jobs))) as pool:
            with deaf_to_terminal():
                drawn = [pool.submit(_draw_alone, job) for job in jobs]
            for done in as_completed(drawn):
                bar.update(done.result())


def _jobs(wanted: VideoSet, output: Path) -> Sequence[Job]:
    suffix = '.jpg' if wanted.jpeg else '.png'
    jobs = []
    for video in range(wanted.videos):
        folder = output / f'video_{video + 1:02d}'
        seed = wanted.seed * SCENES_PER_SEED + video
        for start in range(0, wanted.frames, _CHUNK):
            stop = min(start + _CHUNK, wanted.frames)
            indices = range(start * wanted.stride, stop * wanted.stride, wanted.stride)
            jobs.append(Job(folder, seed, wanted.size, wanted.rate_hz, indices, suffix))
    return jobs


def _draw_alone(job: Job) -> int:
    """Draw in a worker process, with one thread: the other cores are for the other workers."""
    cv2.setNumThreads(1)
    return _draw(job)


def _draw(job: Job) -> int:
    """Draw one job's frames into its folder, and return how many."""
    scene = _scene(job.scene_seed, job.size, job.rate_hz)
    for kind in ('rgb', 'segmentation'):
        (job.folder / kind).mkdir(parents=True, exist_ok=True)
    for index in job.indices:
        frame = scene.frame(index)
        name = f'{index:09d}'
        bgr = frame.image[..., ::-1]
        _write(job.folder / 'rgb' / f'{name}{job.image_suffix}', bgr)
        _write(job.folder / 'segmentation' / f'{name}.png', frame.mask)
    return len(job.indices)


@lru_cache(maxsize=1)
def _scene(seed: int, size: tuple[int, int], rate_hz: float) -> Scene:
    """Cache the last scene: the next job often continues it."""
    return Scene(seed, size, rate_hz)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image atomically: a file of its name is always complete."""
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    chosen = settings[:2] if path.suffix == '.png' else settings[2:]
    _, encoded = cv2.imencode(path.suffix, image, chosen)
    with replacing(path, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())

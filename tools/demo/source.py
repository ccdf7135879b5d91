# SPDX-License-Identifier: Apache-2.0
"""The input of the demo as a bag: a synthetic scene with its truth, or the user's own video."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bags.writing import stamped, write_image_bag
from surgseg_ros.evaluation.frames import find_sources, labelled_frames
from surgseg_ros.evaluation.videos import open_video
from surgseg_ros.synthetic import Scene

IMAGE_TOPIC = '/camera/image_raw'
GROUND_TRUTH_TOPIC = '/camera/ground_truth'

SCENE_SEED = 424_242_008
"""Seed of a scene that is not in the training data of `tools/default_model`."""
SCENE_SIZE = (720, 1280)
SCENE_RATE_HZ = 10.0
SCENE_FRAMES = 60

LONGEST_S = 10.0
"""Maximum duration of a video; more raw frames would fill the disk."""


class Source(NamedTuple):
    """
    A bag to play.

    :param bag: path of the bag.
    :param rate_hz: frames per second, as recorded.
    :param frames: number of frames.
    :param note: a description of its content.
    """

    bag: Path
    rate_hz: float
    frames: int
    note: str


RgbArray = NDArray[np.uint8]
T = TypeVar('T')


def make_scene_bag(
    path: Path, count: int = SCENE_FRAMES, report: Callable[[str], None] = lambda text: None
) -> Source:
    """
    Draw a synthetic scene into a bag, on all cores.

    :param path: path of the bag.
    :param count: number of frames; a shorter scene is the beginning of a longer one.
    :param report: called with the progress.
    :return: the source.
    """
    # A forked child would wait for threads of OpenCV that do not exist in it.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        frames = pool.map(_draw, range(count), chunksize=5)
        numbered = _reported(
            ((i, *frame) for i, frame in enumerate(frames)), f'of {count}', report
        )
        write_image_bag(
            path,
            stamped(numbered, SCENE_RATE_HZ),
            image_topic=IMAGE_TOPIC,
            ground_truth_topic=GROUND_TRUTH_TOPIC,
        )
    return Source(path, SCENE_RATE_HZ, count, f'synthetic scene {SCENE_SEED}')


def make_video_bag(
    path: Path, video: Path, report: Callable[[str], None] = lambda text: None
) -> Source:
    """
    Copy the beginning of a video into a bag.

    :param path: path of the bag.
    :param video: any file that FFmpeg decodes; frames that are damaged are left out.
    :param report: called with the progress.
    :return: the source.
    :raises ValueError: if the video is missing, or not one frame of it can be decoded.
    """
    if not video.is_file():
        raise ValueError(f'video {str(video)!r} does not exist: give INPUT=FILE, a video file')
    film = open_video(video)
    frames = labelled_frames(find_sources(video, 1)[0], data_errors={})
    beginning = takewhile(lambda frame: float(film.time_s(frame.number)) < LONGEST_S, frames)
    reported = _reported(beginning, 'copied', report)
    written = write_image_bag(path, stamped(reported, film.time_s), image_topic=IMAGE_TOPIC)
    part = f', its first {LONGEST_S:g} s' if float(film.time_s(len(film) - 1)) >= LONGEST_S else ''
    return Source(path, float(film.mean_rate_hz), written.images, f'{video.name}{part}')


def _reported(frames: Iterable[T], what: str, report: Callable[[str], None]) -> Iterator[T]:
    """Yield the frames, and report their number."""
    for number, frame in enumerate(frames, 1):
        report(f'frame {number} {what}')
        yield frame


@lru_cache(1)
def _scene() -> Scene:
    cv2.setNumThreads(1)  # the processes already use all cores
    return Scene(SCENE_SEED, SCENE_SIZE, SCENE_RATE_HZ)


def _draw(index: int) -> tuple[RgbArray, RgbArray]:
    frame = _scene().frame(index)
    return frame.image, frame.mask

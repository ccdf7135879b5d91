# SPDX-License-Identifier: Apache-2.0
"""The verb `synthesize`: synthetic endoscopic videos with exact masks, as a data set or bags."""

import argparse
import math
import os
from collections.abc import Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.bags.writing import stamped, write_image_bag
from surgseg_ros.core.files import check_new_folder, new_folder, replacing
from surgseg_ros.core.processes import deaf_to_terminal, worker_pool
from surgseg_ros.evaluation.sources import find_sources, labelled_frames
from surgseg_ros.training.scenes import LEAST_SIDE_PX, Scene

SCENES_PER_SEED: Final = 100_000
"""So many scenes belong to one --seed, hence no two seeds share one."""

LAST_INDEX: Final = 999_999_999
"""Of a frame: the data set's names have nine digits."""

_BYTES_PER_PIXEL: Final = 450
"""Of memory that a scene takes while it is drawn; measured from 500 to 2000 pixels a side."""

_CHUNK: Final = 30
_JPEG_QUALITY: Final = 92


class Job(NamedTuple):
    """Some frames of one video, which one process draws."""

    folder: Path
    scene_seed: int
    size: tuple[int, int]
    rate_hz: float
    indices: range
    picture_suffix: str


def main(argv: Sequence[str] | None = None) -> int:
    """
    Draw the videos.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if so much cannot be drawn, or the output is not an empty folder.
    :raises OSError: if the output cannot be written.
    """
    options = _parser().parse_args(argv)
    _check(options)
    folder: Path = options.output
    check_new_folder(folder)
    with new_folder(folder) as making:
        _draw(_jobs(options, making), options.workers)
        if options.bag:
            _bag(options, making)
    height, width = options.size
    bags = '; the same as bags in bags/' if options.bag else ''
    videos = f'{options.videos} video{"s"[options.videos == 1 :]}'
    frames = f'{options.frames} frame{"s"[options.frames == 1 :]}'
    print(f'{folder}: {videos} of {frames} of {width}x{height} with masks{bags}')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros synthesize', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, required=True, metavar='DIR', help='a folder, new or empty')
    add('--videos', type=_count, default=1, metavar='N', help='how many (default: 1)')
    add('--frames', type=_count, default=150, metavar='N', help='in each video (default: 150)')
    add('--stride', type=_count, default=1, metavar='K',
        help='draw every K-th frame only, so that few frames show much (default: 1)')
    add('--size', type=_size, default=(720, 1280), metavar='WxH', help='default: 1280x720')
    add('--rate', type=_rate, default=15.0, metavar='HZ', help='frames a second (default: 15)')
    add('--seed', type=_seed, default=0, metavar='S', help='the same gives the same files')
    add('--jpeg', action='store_true', help='pictures as JPEG; masks are PNG always')
    add('--workers', type=_count, default=os.cpu_count() or 1, metavar='W',
        help='processes (default: one for each core)')
    add('--bag', action='store_true', help='write a bag of each video too: DIR/bags/video_01 ...')
    add('--image-topic', default='/camera/image_raw', metavar='TOPIC', help='default: %(default)s')
    add('--ground-truth-topic', default='/camera/ground_truth', metavar='TOPIC',
        help='default: %(default)s')
    add('--frame-id', default='endoscope', metavar='NAME', help='default: %(default)s')
    # fmt: on
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text!r} must not be negative')
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} must be above zero, and finite')
    return value


def _size(text: str) -> tuple[int, int]:
    """Read 1280x720 into (height, width)."""
    try:
        width, height = (int(side) for side in text.lower().split('x'))
    except ValueError as error:
        message = f'{text!r} must be width x height, such as 1280x720'
        raise argparse.ArgumentTypeError(message) from error
    if min(height, width) < LEAST_SIDE_PX:
        raise argparse.ArgumentTypeError(f'{text!r} is too small: {LEAST_SIDE_PX} pixels at least')
    return height, width


def _check(options: argparse.Namespace) -> None:
    """Refuse what names of files, seeds or this machine's memory cannot hold."""
    if (last := (options.frames - 1) * options.stride) > LAST_INDEX:
        raise ValueError(
            f'--frames {options.frames} with --stride {options.stride} ends with frame {last}, '
            f'but names have nine digits: take at most {LAST_INDEX}'
        )
    if options.videos > SCENES_PER_SEED:
        raise ValueError(
            f'--videos {options.videos} is more than the {SCENES_PER_SEED} of a --seed: draw the '
            'rest with another --seed'
        )
    height, width = options.size
    chunks = options.videos * math.ceil(options.frames / _CHUNK)
    needed = _BYTES_PER_PIXEL * height * width * min(options.workers, chunks)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if needed > memory:
        raise ValueError(
            f'--size {width}x{height} with --workers {options.workers} takes about '
            f'{needed / 1e9:,.0f} GB of memory, and this machine has {memory / 1e9:,.0f} GB: ask '
            'for a smaller size or fewer workers'
        )


def _jobs(options: argparse.Namespace, output: Path) -> list[Job]:
    suffix = '.jpg' if options.jpeg else '.png'
    jobs = []
    for video in range(options.videos):
        folder = output / f'video_{video + 1:02d}'
        seed = options.seed * SCENES_PER_SEED + video
        for start in range(0, options.frames, _CHUNK):
            stop = min(start + _CHUNK, options.frames)
            indices = range(start * options.stride, stop * options.stride, options.stride)
            jobs.append(Job(folder, seed, options.size, options.rate, indices, suffix))
    return jobs


def _draw(jobs: Sequence[Job], workers: int) -> None:
    """Work the jobs off, in this process if it is to be only one."""
    with tqdm(total=sum(len(job.indices) for job in jobs), unit='frame', leave=False) as bar:
        if workers == 1:
            for job in jobs:
                bar.update(draw(job))
            return
        with worker_pool(min(workers, len(jobs))) as pool:
            with deaf_to_terminal():
                drawn = [pool.submit(draw, job) for job in jobs]
            for done in as_completed(drawn):
                bar.update(done.result())


def draw(job: Job) -> int:
    """
    Draw one job's frames into its folder.

    :param job: what to draw, and where.
    :return: how many frames there are now.
    """
    cv2.setNumThreads(1)  # the processes share the cores already
    scene = _scene(job.scene_seed, job.size, job.rate_hz)
    for kind in ('rgb', 'segmentation'):
        (job.folder / kind).mkdir(parents=True, exist_ok=True)
    for index in job.indices:
        frame = scene.frame(index)
        name = f'{index:09d}'
        picture = frame.image[..., ::-1]
        _write(job.folder / 'rgb' / f'{name}{job.picture_suffix}', picture)
        _write(job.folder / 'segmentation' / f'{name}.png', frame.mask)
    return len(job.indices)


def _bag(options: argparse.Namespace, output: Path) -> None:
    """Record each video as a camera would have sent it, in a bag beside the videos."""
    for source in tqdm(find_sources(output, 1), unit='bag', leave=False):
        write_image_bag(
            output / 'bags' / source.name,
            stamped(labelled_frames(source), options.rate),
            image_topic=options.image_topic,
            ground_truth_topic=options.ground_truth_topic,
            frame_id=options.frame_id,
        )


@lru_cache(maxsize=1)
def _scene(seed: int, size: tuple[int, int], rate_hz: float) -> Scene:
    """Keep the last scene: the next job often goes on with it."""
    return Scene(seed, size, rate_hz)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image so that its name never stands for a part of it."""
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    chosen = settings[:2] if path.suffix == '.png' else settings[2:]
    _, encoded = cv2.imencode(path.suffix, image, chosen)
    with replacing(path, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())

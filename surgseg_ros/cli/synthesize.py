# SPDX-License-Identifier: Apache-2.0
"""The verb `synthesize`: synthetic endoscopic videos with exact masks, as a data set or bags."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from surgseg_ros.bags.writing import stamped, write_image_bag
from surgseg_ros.cli.arguments import image_size, non_negative_int, positive_float, positive_int
from surgseg_ros.core.files import check_new_folder, new_folder, replacing
from surgseg_ros.evaluation.frames import find_sources, labelled_frames
from surgseg_ros.evaluation.layout import DRAWN_FILE, find_videos
from surgseg_ros.synthetic.scene import (
    LAST_INDEX,
    LEAST_SIDE_PX,
    SCENES_PER_SEED,
    VideoSet,
    draw_videos,
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Draw the videos.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if so much cannot be drawn, or the output is not an empty folder.
    :raises OSError: if the output cannot be written.
    """
    options = _parser().parse_args(argv)
    wanted = VideoSet(
        videos=options.videos,
        frames=options.frames,
        stride=options.stride,
        size=options.size,
        rate_hz=options.rate,
        seed=options.seed,
        jpeg=options.jpeg,
    )
    _check(wanted, options.workers)
    folder: Path = options.output
    check_new_folder(folder)
    with new_folder(folder) as making:
        draw_videos(wanted, making, options.workers)
        _mark(wanted, making)
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
    add('--videos', type=positive_int, default=1, metavar='N', help='how many (default: 1)')
    add('--frames', type=positive_int, default=150, metavar='N',
        help='in each video (default: 150)')
    add('--stride', type=positive_int, default=1, metavar='K',
        help='draw every K-th frame only, so that few frames show much (default: 1)')
    add('--size', type=_scene_size, default=(720, 1280), metavar='WxH', help='default: 1280x720')
    add('--rate', type=positive_float, default=15.0, metavar='HZ',
        help='frames a second (default: 15)')
    add('--seed', type=non_negative_int, default=0, metavar='S',
        help='the same gives the same files')
    add('--jpeg', action='store_true', help='images as JPEG; masks are always PNG')
    add('--workers', type=positive_int, default=os.cpu_count() or 1, metavar='W',
        help='processes (default: one for each core)')
    add('--bag', action='store_true', help='write a bag of each video too: DIR/bags/video_01 ...')
    add('--image-topic', default='/camera/image_raw', metavar='TOPIC', help='default: %(default)s')
    add('--ground-truth-topic', default='/camera/ground_truth', metavar='TOPIC',
        help='default: %(default)s')
    add('--frame-id', default='endoscope', metavar='NAME', help='default: %(default)s')
    # fmt: on
    return parser


def _scene_size(text: str) -> tuple[int, int]:
    """Read 1280x720 into (height, width)."""
    width, height = image_size(text)
    if min(height, width) < LEAST_SIDE_PX:
        raise argparse.ArgumentTypeError(f'{text!r} is too small: {LEAST_SIDE_PX} pixels at least')
    return height, width


def _check(wanted: VideoSet, workers: int) -> None:
    """Refuse what names of files, seeds or this machine's memory cannot hold."""
    if wanted.last_index > LAST_INDEX:
        raise ValueError(
            f'--frames {wanted.frames} with --stride {wanted.stride} ends with frame '
            f'{wanted.last_index}, but names have nine digits: take at most {LAST_INDEX}'
        )
    if wanted.videos > SCENES_PER_SEED:
        raise ValueError(
            f'--videos {wanted.videos} is more than the {SCENES_PER_SEED} of a --seed: draw the '
            'rest with another --seed'
        )
    height, width = wanted.size
    needed = wanted.memory_bytes(workers)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if needed > memory:
        raise ValueError(
            f'--size {width}x{height} with --workers {workers} takes about '
            f'{needed / 1e9:,.0f} GB of memory, and this machine has {memory / 1e9:,.0f} GB: ask '
            'for a smaller size or fewer workers'
        )


def _mark(wanted: VideoSet, output: Path) -> None:
    """Say in each video that it is drawn, so that `train` can say so of the model."""
    for video in find_videos(output):
        scene = wanted.seed * SCENES_PER_SEED + int(video.name.rpartition('_')[2]) - 1
        with replacing(video / DRAWN_FILE, sync=False) as partial:
            partial.write_text(json.dumps({'scene': scene, 'rate_hz': wanted.rate_hz}) + '\n')


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

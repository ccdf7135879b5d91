# SPDX-License-Identifier: Apache-2.0
"""The verb `make_bag`: a bag of a video, of images, or of a data set with its masks."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Final

from tqdm import tqdm

from surgseg_ros.bags.sources import STORAGES, BagError
from surgseg_ros.bags.writing import (
    IMAGE_FORMATS,
    MASK_FORMATS,
    START_TIME_NS,
    Frame,
    Written,
    stamped,
    write_image_bag,
)
from surgseg_ros.cli.arguments import (
    jpeg_quality,
    positive_float,
    positive_int,
    stamp_ns,
    topic_name,
)
from surgseg_ros.core.files import check_place
from surgseg_ros.evaluation.frames import (
    Crop,
    Source,
    find_sources,
    labelled_frames,
    report_losses,
)
from surgseg_ros.evaluation.layout import VIDEO_FILE, find_videos, has_images
from surgseg_ros.evaluation.videos import Video
from surgseg_ros.messages.images import JPEG_QUALITY

RATE_HZ: Final = 60.0
"""SAR-RARP50 numbers its frames at 60 Hz, whichever of them there are."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Make the bags.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if frames, masks or a bag cannot be used.
    :raises OSError: if a bag cannot be written.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.storage not in (None, STORAGES.get(options.output.suffix, options.storage)):
        parser.error(f'--storage {options.storage} does not fit --output {options.output}')
    check_place(options.output)
    for path, source in _plan(options.input, options.output, options.every):
        data_errors: dict[int, str] = {}
        frames = labelled_frames(source, options.crop, data_errors)
        film = _own_time(source, options.rate)
        rate_hz = options.rate or RATE_HZ
        when = film.time_s if film else rate_hz
        with tqdm(frames, path.name, len(source), unit='frame', leave=False) as bar:
            written = _write(path, stamped(bar, when, options.start_time), options)
        print(_report(path, source, written, film.rate_hz if film else rate_hz))
        if losses := report_losses(source, data_errors):
            print(f'make_bag: left out of {path}:\n{losses}', file=sys.stderr)
    return 0


def _plan(path: Path, output: Path, every: int) -> list[tuple[Path, Source]]:
    """Decide which bag each video becomes, once all can be read and none is there."""
    sources = find_sources(path, every)
    is_set = any(has_images(video) for video in find_videos(path))
    plan = [(output / x.name if is_set else output, x) for x in sources]
    for bag, source in plan:
        if bag.exists():
            raise BagError(f'{str(bag)!r} exists already: choose another name or remove it')
        source.check()
    return plan


def _own_time(source: Source, rate_hz: float | None) -> Video | None:
    """Find the video whose time stamps count; in a data set, and for images, numbers do."""
    if rate_hz or source.numbers is not None or source.video is None:
        return None
    return None if source.video.name.lower() == VIDEO_FILE else source.film


def _write(path: Path, frames: Iterable[Frame], options: argparse.Namespace) -> Written:
    suffix = '' if options.picture_format == 'raw' else '/compressed'
    return write_image_bag(
        path,
        frames,
        image_topic=options.image_topic or f'/camera/image_raw{suffix}',
        ground_truth_topic=options.ground_truth_topic,
        frame_id=options.frame_id,
        storage=options.storage or 'mcap',
        picture_format=options.picture_format,
        mask_format=options.mask_format,
        jpeg_quality=options.jpeg_quality,
    )


def _report(path: Path, source: Source, written: Written, rate_hz: Fraction | float | None) -> str:
    """Say what a bag holds, and what the video's header had promised beyond that."""
    text = f'{path}: {written.images} image{"s"[written.images == 1 :]}'
    if source.masks:
        text += f', {written.masks} mask{"s"[written.masks == 1 :]}'
        text += f' (of {len(source.masks)})' if written.masks < len(source.masks) else ''
    text += (
        ', stamped by the times in the video, whose rate varies'
        if rate_hz is None
        else f', numbered at {float(rate_hz):g} Hz'
    )
    if source.numbers is None and written.images < len(source):
        text += f'; the header of {source.video} promises {len(source)}: it may be cut off'
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros make_bag', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--input', type=Path, required=True, metavar='PATH',
        help="a video, a folder of images, a video's folder of a data set (rgb, frames or "
        f'{VIDEO_FILE}, and segmentation), or a data set: a folder of video_*')
    add('--output', type=Path, required=True, metavar='BAG',
        help='the bag to make, a folder (or a file, with the ending .mcap or .db3); of a data '
        'set, a folder that gets a bag of each video: video_01 ...')
    add('--storage', choices=sorted(set(STORAGES.values())),
        help="default: what --output's ending says, or mcap")
    add('--picture-format', default='raw', choices=IMAGE_FORMATS,
        help='raw: Image, jpeg: CompressedImage (default: %(default)s)')
    add('--jpeg-quality', type=jpeg_quality, default=JPEG_QUALITY, metavar='Q',
        help='1 to 100 (default: %(default)s)')
    add('--mask-format', default='raw', choices=MASK_FORMATS,
        help='raw: Image, png: CompressedImage; never JPEG, which would change classes '
        '(default: %(default)s)')
    add('--every', type=positive_int, default=1, metavar='N',
        help='take frames whose number is a multiple of N (default: all)')
    add('--rate', type=positive_float, metavar='HZ',
        help="frames a second, by their numbers (default: a video's own time stamps; for images "
        f'and data sets {RATE_HZ:g}, as SAR-RARP50 numbers them)')
    add('--start-time', type=stamp_ns, default=START_TIME_NS, metavar='SECONDS',
        help=f'stamp of the frame of number 0 (default: {START_TIME_NS // 10**9}; 0 would say '
        'that there is no time)')
    add('--crop', type=int, nargs=4, action=_CropAction, metavar=('X', 'Y', 'WIDTH', 'HEIGHT'),
        help='take this part, in pixels, of images and masks: 320 28 1280 1024 is what a da '
        'Vinci Xi shows within 1920x1080')
    add('--image-topic', type=topic_name, metavar='TOPIC',
        help='default: /camera/image_raw, and /camera/image_raw/compressed for jpeg')
    add('--ground-truth-topic', type=topic_name, default='/camera/ground_truth', metavar='TOPIC',
        help='default: %(default)s')
    add('--frame-id', default='endoscope', metavar='NAME', help='default: %(default)s')
    # fmt: on
    return parser


class _CropAction(argparse.Action):
    """Makes four numbers a crop, if they are one."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        crop = Crop(*values)
        if min(crop.x, crop.y) < 0 or min(crop.width, crop.height) < 1:
            text = f'{" ".join(map(str, crop))} is no X Y WIDTH HEIGHT of a part of an image'
            raise argparse.ArgumentError(self, text)
        setattr(namespace, self.dest, crop)

# SPDX-License-Identifier: Apache-2.0
"""The verbs for data: `make_bag` (bags of videos and images), `synthesize`, `inspect_data`."""

import argparse
import json
import os
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
    write_stereo_bag,
)
from surgseg_ros.cli.arguments import (
    image_size_from,
    jpeg_quality,
    non_negative_int,
    positive_float,
    positive_int,
    stamp_ns,
    topic_name,
)
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import (
    check_file,
    check_new_folder,
    check_new_path,
    new_folder,
    replacing,
    write_atomically,
)
from surgseg_ros.core.segmentation import CAMERAS
from surgseg_ros.evaluation.frames import (
    Crop,
    Source,
    find_sources,
    labelled_frames,
    report_losses,
)
from surgseg_ros.evaluation.layout import DRAWN_FILE, VIDEO_FILE, find_videos, find_views
from surgseg_ros.evaluation.videos import Video
from surgseg_ros.messages.images import JPEG_QUALITY
from surgseg_ros.reports import SHEET_IMAGE_PX
from surgseg_ros.synthetic.camera import camera_infos
from surgseg_ros.synthetic.drawing import View
from surgseg_ros.synthetic.scene import (
    LAST_INDEX,
    MIN_SIDE_PX,
    SCENES_PER_SEED,
    VideoSet,
    draw_videos,
)
from surgseg_ros.training.data_check import decode_all, format_summary, sheet_contents, summarize
from surgseg_ros.training.dataset import find_losses, scan_samples

RATE_HZ: Final = 60.0
"""SAR-RARP50 numbers its frames at 60 Hz, even if not all of them exist."""

_MAKE_BAG: Final = (
    'The verb `make_bag`: a bag of a video, of images, or of a data set with its masks.'
)

IMAGE_FILE: Final = 'data.png'

_MAX_PRINTED: Final = 200
"""Number of errors that are printed; the JSON file has all of them."""


def run_make_bag(argv: Sequence[str] | None = None) -> int:
    """
    Create bags.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if frames, masks or a bag cannot be used.
    :raises OSError: if a bag cannot be written.
    """
    parser = _make_bag_parser()
    options = parser.parse_args(argv)
    if options.storage not in (None, STORAGES.get(options.output.suffix, options.storage)):
        parser.error(f'--storage {options.storage} does not fit --output {options.output}')
    check_new_path(options.output)
    for path, source in _plan(options.input, options.output, options.every):
        data_errors: dict[int, str] = {}
        frames = labelled_frames(source, options.crop, data_errors)
        film = _own_time(source, options.rate)
        rate_hz = options.rate or RATE_HZ
        when = film.time_s if film else rate_hz
        with tqdm(frames, path.name, len(source), unit='frame', leave=False) as bar:
            written = _write_bag(path, stamped(bar, when, options.start_time), options)
        print(_report(path, source, written, film.rate_hz if film else rate_hz))
        if losses := report_losses(source, data_errors):
            print(f'make_bag: left out of {path}:\n{losses}', file=sys.stderr)
    return 0


def _plan(path: Path, output: Path, every: int) -> list[tuple[Path, Source]]:
    """Decide which bag each video becomes; check that all can be read and no bag exists."""
    sources = find_sources(path, every)
    is_set = bool(find_views(path).keys() & {x.name for x in sources})
    plan = [(output / x.name if is_set else output, x) for x in sources]
    for bag, source in plan:
        if bag.exists():
            raise BagError(f'{str(bag)!r} exists already: choose another name or remove it')
        source.check()
    return plan


def _own_time(source: Source, rate_hz: float | None) -> Video | None:
    """Return the video whose time stamps are used; images and data sets use frame numbers."""
    if rate_hz or source.numbers is not None or source.video is None:
        return None
    return None if source.video.name.lower() == VIDEO_FILE else source.film


def _write_bag(path: Path, frames: Iterable[Frame], options: argparse.Namespace) -> Written:
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
    """Describe the content of a bag, and frames of the video's header that are missing."""
    text = f'{path}: {counted(written.images, "image")}'
    if source.masks:
        text += f', {counted(written.masks, "mask")}'
        text += f' (of {len(source.masks)})' if written.masks < len(source.masks) else ''
    text += (
        ', stamped by the times in the video, whose rate varies'
        if rate_hz is None
        else f', numbered at {float(rate_hz):g} Hz'
    )
    if source.numbers is None and written.images < len(source):
        text += f'; the header of {source.video} declares {len(source)}: it may be cut off'
    return text


def _make_bag_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros make_bag', description=_MAKE_BAG)
    add = parser.add_argument
    # fmt: off
    add('--input', type=Path, required=True, metavar='PATH',
        help="a video, a folder of images, a video's folder of a data set (rgb, frames or "
        f'{VIDEO_FILE}, and segmentation), or a data set: a folder of video_*')
    add('--output', type=Path, required=True, metavar='BAG',
        help='the bag to make, a folder (or a file, with the ending .mcap or .db3); of a data '
        'set, a folder that gets a bag of each video: video_01 ...')
    add('--storage', choices=sorted(set(STORAGES.values())),
        help='default: by the ending of --output, or mcap')
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
        help=f'stamp of the frame of number 0 (default: {START_TIME_NS // 10**9}; 0 would '
        'mean that there is no time)')
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
    """Converts four numbers to a crop, and checks it."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        crop = Crop(*values)
        if min(crop.x, crop.y) < 0 or min(crop.width, crop.height) < 1:
            text = f'{" ".join(map(str, crop))} is not a part of an image: give X Y WIDTH HEIGHT'
            raise argparse.ArgumentError(self, text)
        setattr(namespace, self.dest, crop)


def run_synthesize(argv: Sequence[str] | None = None) -> int:
    """
    Draw synthetic videos.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if the amount is too large, or the output is not an empty folder.
    :raises OSError: if the output cannot be written.
    """
    options = _synthesize_parser().parse_args(argv)
    width, height = options.size
    wanted = VideoSet(
        videos=options.videos,
        frames=options.frames,
        stride=options.stride,
        size=(height, width),
        rate_hz=options.rate,
        seed=options.seed,
        jpeg=options.jpeg,
        touching=options.touching,
        instruments=options.instruments or options.stereo,
        stereo=options.stereo,
    )
    _check_amount(wanted, options.workers)
    folder: Path = options.output
    check_new_folder(folder)
    with new_folder(folder) as making:
        draw_videos(wanted, making, options.workers)
        _mark(wanted, making)
        if options.bag:
            _write_bags(options, making)
    bags = '; the same as bags in bags/' if options.bag else ''
    videos, frames = counted(options.videos, 'video'), counted(options.frames, 'frame')
    print(f'{folder}: {videos} of {frames} of {width}x{height} with masks{bags}')
    return 0


def _synthesize_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros synthesize',
        description='The verb `synthesize`: synthetic endoscopic videos with exact masks, as a '
        'data set or bags.',
    )
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, required=True, metavar='DIR', help='a folder, new or empty')
    add('--videos', type=positive_int, default=1, metavar='N', help='how many (default: 1)')
    add('--frames', type=positive_int, default=150, metavar='N',
        help='in each video (default: 150)')
    add('--stride', type=positive_int, default=1, metavar='K',
        help='draw every K-th frame only, so that few frames show much (default: 1)')
    add('--size', type=image_size_from(MIN_SIDE_PX), default=(1280, 720), metavar='WxH',
        help='default: 1280x720')
    add('--rate', type=positive_float, default=15.0, metavar='HZ',
        help='frames a second (default: 15)')
    add('--seed', type=non_negative_int, default=0, metavar='S',
        help='the same seed gives the same files')
    add('--jpeg', action='store_true', help='images as JPEG; masks are always PNG')
    add('--touching', action='store_true', help='robotic tools touch or cross in most frames')
    add('--instruments', action='store_true',
        help='write the truth of the instruments too: instances/ (pixels), instruments/ (points)')
    add('--stereo', action='store_true',
        help='two cameras, in left/ and right/ of each video, with calibrations and --instruments')
    add('--workers', type=positive_int, default=os.cpu_count() or 1, metavar='W',
        help='processes (default: one for each core)')
    add('--bag', action='store_true', help='write a bag of each video too: DIR/bags/video_01 ...')
    add('--image-topic', type=topic_name, default='/camera/image_raw', metavar='TOPIC',
        help='default: %(default)s')
    add('--ground-truth-topic', type=topic_name, default='/camera/ground_truth', metavar='TOPIC',
        help='default: %(default)s')
    add('--frame-id', default='endoscope', metavar='NAME', help='default: %(default)s')
    # fmt: on
    return parser


def _check_amount(wanted: VideoSet, workers: int) -> None:
    """Reject amounts that exceed file names, seeds or this machine's memory."""
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
    """Mark each video as drawn, so that `train` can mark the model as synthetic."""
    for video in find_videos(output):
        scene = wanted.seed * SCENES_PER_SEED + int(video.name.rpartition('_')[2]) - 1
        with replacing(video / DRAWN_FILE, sync=False) as partial:
            partial.write_text(json.dumps({'scene': scene, 'rate_hz': wanted.rate_hz}) + '\n')


def _write_bags(options: argparse.Namespace, output: Path) -> None:
    """Record each video as a camera would have sent it, in a bag beside the videos."""
    named = ('image_topic', 'ground_truth_topic', 'frame_id')
    topics = {name: getattr(options, name) for name in named}
    for video in tqdm(find_videos(output), unit='bag', leave=False):
        path = output / 'bags' / video.name
        folders = {name: video / name for name in CAMERAS} if options.stereo else {'': video}
        sources = {name: find_sources(folder, 1)[0] for name, folder in folders.items()}
        frames = {name: stamped(labelled_frames(x), options.rate) for name, x in sources.items()}
        if options.stereo:
            write_stereo_bag(path, frames, camera_infos(View(*options.size[::-1])), **topics)
        else:
            write_image_bag(path, frames[''], **topics)


def run_inspect_data(argv: Sequence[str] | None = None) -> int:
    """
    Inspect a data set.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 1 if there are errors in the data.
    :raises DatasetError: if there are no samples.
    :raises OSError: if results cannot be written.
    """
    options = _inspect_data_parser().parse_args(argv)
    if options.json:
        check_file(options.json)
    if options.output:
        check_file(options.output / IMAGE_FILE)
        # Imported before the work, in case Matplotlib is not usable, but only if it is needed.
        from surgseg_ros.reports.pages import data_sheet
    found = scan_samples(options.data, options.cache)
    decoded = list(decode_all(found.samples))
    summary = summarize(found, decoded, find_losses(options.data))
    print(format_summary(summary))
    if options.json:
        write_atomically(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    if options.output:
        sheet = data_sheet(*sheet_contents(found.samples, decoded, SHEET_IMAGE_PX))
        write_atomically(options.output / IMAGE_FILE, sheet)
        print(f'\nimage: {options.output / IMAGE_FILE}')
    return _print_errors(summary['faults'], options.json)


def _inspect_data_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros inspect_data',
        description='The verb `inspect_data`: reports what a data set contains, and its errors.',
    )
    add = parser.add_argument
    add('--data', type=Path, required=True, metavar='DIR', help='folder of video_*')
    add('--output', type=Path, metavar='DIR', help=f'gets an image of the data, {IMAGE_FILE}')
    add('--json', type=Path, metavar='FILE', help='file for all numbers and errors')
    add(
        '--cache',
        type=Path,
        metavar='DIR',
        help='gets the frames of videos that are not unpacked (default: DIR.frames beside the '
        "data, or the user's cache)",
    )
    return parser


def _print_errors(data_errors: Sequence[dict[str, str]], file: Path | None) -> int:
    """Print the errors, and return the exit status."""
    if not data_errors:
        print('\nNo errors found.')
        return 0
    print(f'\n{counted(len(data_errors), "error")}:', file=sys.stderr)
    for data_error in data_errors[:_MAX_PRINTED]:
        print(f'{data_error["name"]}: {data_error["what"]}', file=sys.stderr)
    if len(data_errors) > _MAX_PRINTED:
        where = file or 'the file that --json names'
        print(f'and {len(data_errors) - _MAX_PRINTED} more, in {where}', file=sys.stderr)
    return 1

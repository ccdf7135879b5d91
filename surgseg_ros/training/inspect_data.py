# SPDX-License-Identifier: Apache-2.0
"""The verb `inspect_data`: what a data set holds, everything that is wrong in it, an image."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.files import check_file, write_whole
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.frames import write_png
from surgseg_ros.training.data_errors import Examination, examine_all
from surgseg_ros.training.data_picture import draw_data
from surgseg_ros.training.dataset import Scan, find_losses, scan_samples
from surgseg_ros.training.samples import DataError, Sample

PICTURE_FILE: Final = 'data.png'

_SAID: Final = 200
"""So many faults are printed; all of them are in the JSON file."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Inspect.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 1 if something is wrong in the data.
    :raises DatasetError: if there are none.
    :raises OSError: if results cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.json:
        check_file(options.json)
    if options.output:
        check_file(options.output / PICTURE_FILE)
    found = scan_samples(options.data, options.cache)
    examinations = list(examine_all(found.samples))
    summary = summarize(found, examinations, find_losses(options.data))
    print(_table(summary))
    if options.json:
        write_whole(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    if options.output:
        write_png(options.output / PICTURE_FILE, _picture(found.samples, examinations))
        print(f'\npicture: {options.output / PICTURE_FILE}')
    return _say(summary['faults'], options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros inspect_data', description=__doc__)
    add = parser.add_argument
    add('--data', type=Path, required=True, metavar='DIR', help='folder of video_*')
    add('--output', type=Path, metavar='DIR', help=f'gets an image of the data, {PICTURE_FILE}')
    add('--json', type=Path, metavar='FILE', help='gets all numbers and all faults')
    add(
        '--cache',
        type=Path,
        metavar='DIR',
        help='gets the frames of videos that are not unpacked (default: DIR.frames beside the '
        "data, or the user's cache)",
    )
    return parser


def summarize(
    found: Scan, examinations: Sequence[Examination], losses: Sequence[DataError] = ()
) -> dict[str, Any]:
    """
    Add up what a data set holds.

    :param found: its samples, and the faults of masks without a frame.
    :param examinations: of the samples, in their order.
    :param losses: what videos have lost.
    :return: `videos`, name to what it holds; `all`, the same of all together; `faults`, a list of
        `name` and `what`. A video holds `frames`, `sizes` ('1920x1080' to the number of masks),
        `pixel_share` and `frame_share` by class name, over the masks that could be read.
    """
    by_video: dict[str, list[Examination]] = {}
    for sample, examination in zip(found.samples, examinations, strict=True):
        by_video.setdefault(sample.video, []).append(examination)
    return {
        'all': _holding(examinations),
        'videos': {video: _holding(of_video) for video, of_video in by_video.items()},
        'faults': [
            data_error._asdict() for data_error in _all_faults(found, examinations, losses)
        ],
    }


def _all_faults(
    found: Scan, examinations: Sequence[Examination], losses: Sequence[DataError]
) -> list[DataError]:
    of_samples = [
        data_error for examination in examinations for data_error in examination.data_errors
    ]
    return sorted((*found.data_errors, *losses, *of_samples))


def _holding(examinations: Sequence[Examination]) -> dict[str, Any]:
    readable = [x for x in examinations if x.size]
    sizes = Counter(f'{x.size[1]}x{x.size[0]}' for x in readable if x.size)
    class_px = np.array([x.class_px for x in readable]).reshape(-1, len(CLASS_NAMES))
    pixels = class_px.sum(0) / max(1, class_px.sum())
    frames = (class_px > 0).sum(0) / max(1, len(readable))
    return {
        'frames': len(examinations),
        'sizes': dict(sizes.most_common()),
        'pixel_share': dict(zip(CLASS_NAMES, pixels.tolist(), strict=True)),
        'frame_share': dict(zip(CLASS_NAMES, frames.tolist(), strict=True)),
    }


def _table(summary: dict[str, Any]) -> str:
    """Lay the numbers out for people: videos, then classes."""
    lines = [f'{"video":20}{"frames":>8}  sizes']
    for video, holding in (*summary['videos'].items(), ('all', summary['all'])):
        sizes = ', '.join(f'{size} ({count})' for size, count in holding['sizes'].items())
        lines.append(f'{video:20}{holding["frames"]:8}  {sizes}')
    lines += ['', f'{"class":20}{"% of pixels":>12}{"% of frames":>12}{"videos":>8}']
    for name in CLASS_NAMES:
        pixels, frames = (
            100 * summary['all'][key][name] for key in ('pixel_share', 'frame_share')
        )
        videos = sum(holding['frame_share'][name] > 0 for holding in summary['videos'].values())
        lines.append(f'{name:20}{pixels:12.4f}{frames:12.1f}{videos:8}')
    return '\n'.join(lines)


def _picture(samples: Sequence[Sample], examinations: Sequence[Examination]) -> NDArray[np.uint8]:
    sound = [pair for pair in zip(samples, examinations, strict=True) if not pair[1].data_errors]
    return draw_data([s for s, _ in sound], np.array([x.class_px for _, x in sound]))


def _say(data_errors: Sequence[dict[str, str]], file: Path | None) -> int:
    """Name the faults, and find the exit status."""
    if not data_errors:
        print('\nNothing is wrong.')
        return 0
    print(f'\n{len(data_errors)} faults:', file=sys.stderr)
    for data_error in data_errors[:_SAID]:
        print(f'{data_error["name"]}: {data_error["what"]}', file=sys.stderr)
    if len(data_errors) > _SAID:
        where = file or 'the file that --json names'
        print(f'and {len(data_errors) - _SAID} more, in {where}', file=sys.stderr)
    return 1

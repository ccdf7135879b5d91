# SPDX-License-Identifier: Apache-2.0
"""The verb `inspect_data`: what is in a data set, and what is wrong with it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.files import check_file, write_whole
from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES
from surgseg_ros.reports import SHEET_IMAGE_PX
from surgseg_ros.training.data_check import (
    Examination,
    choose,
    class_shares,
    draw_sample,
    examine_all,
    summarize,
)
from surgseg_ros.training.dataset import Sample, find_losses, scan_samples

IMAGE_FILE: Final = 'data.png'


_MOST_PRINTED: Final = 200
"""Number of errors that are printed; the JSON file has all of them."""


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
        check_file(options.output / IMAGE_FILE)
        # Before the work begins, should Matplotlib not load; and only here: that takes a second.
        from surgseg_ros.reports.pages import data_sheet
    found = scan_samples(options.data, options.cache)
    examinations = list(examine_all(found.samples))
    summary = summarize(found, examinations, find_losses(options.data))
    print(_table(summary))
    if options.json:
        write_whole(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    if options.output:
        sheet = data_sheet(*_for_sheet(found.samples, examinations))
        write_whole(options.output / IMAGE_FILE, sheet)
        print(f'\nimage: {options.output / IMAGE_FILE}')
    return _print_errors(summary['faults'], options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros inspect_data', description=__doc__)
    add = parser.add_argument
    add('--data', type=Path, required=True, metavar='DIR', help='folder of video_*')
    add('--output', type=Path, metavar='DIR', help=f'gets an image of the data, {IMAGE_FILE}')
    add('--json', type=Path, metavar='FILE', help='gets all numbers and all faults')
    add(
        '--cache',
        type=Path,
        metavar='DIR',
        help='gets the frames of videos that are not unpacked (default: DIR.frames beside the '
        "data, or the user's cache)",
    )
    return parser


def _table(summary: dict[str, Any]) -> str:
    """Format the numbers as tables: videos, then classes."""
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


def _for_sheet(
    samples: Sequence[Sample], examinations: Sequence[Examination]
) -> tuple[list[float], list[float], int, list[tuple[str, NDArray[np.uint8]]]]:
    """Return what `data_sheet` draws of the samples without errors."""
    sound = [pair for pair in zip(samples, examinations, strict=True) if not pair[1].data_errors]
    class_px = np.array([x.class_px for _, x in sound], np.int64).reshape(-1, CLASS_COUNT)
    shown = [sound[place][0] for place in choose(class_px)]
    images = [(sample.name, draw_sample(sample, SHEET_IMAGE_PX)) for sample in shown]
    return *class_shares(class_px), len(sound), images


def _print_errors(data_errors: Sequence[dict[str, str]], file: Path | None) -> int:
    """Print the errors, and return the exit status."""
    if not data_errors:
        print('\nNo errors found.')
        return 0
    print(f'\n{len(data_errors)} errors:', file=sys.stderr)
    for data_error in data_errors[:_MOST_PRINTED]:
        print(f'{data_error["name"]}: {data_error["what"]}', file=sys.stderr)
    if len(data_errors) > _MOST_PRINTED:
        where = file or 'the file that --json names'
        print(f'and {len(data_errors) - _MOST_PRINTED} more, in {where}', file=sys.stderr)
    return 1

# SPDX-License-Identifier: Apache-2.0
"""The verb `evaluate`: scores a folder of masks against the truth, as SAR-RARP50 does."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgseg_ros.cli.arguments import positive_int
from surgseg_ros.core.files import check_file, write_whole
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import MEANINGS, summarize
from surgseg_ros.evaluation.pairs import (
    EvaluationError,
    count_all,
    find_pairs,
    report,
    summarize_steps,
)
from surgseg_ros.reports import FILE_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises EvaluationError: if the folders cannot be scored.
    :raises OSError: if results cannot be written.
    """
    options = _parser().parse_args(argv)
    check_file(options.json)
    if options.report:
        check_file(options.report / FILE_NAME)
        # Before the work begins, should Matplotlib not load; and only here: that takes a second.
        from surgseg_ros.evaluation.report import write_report
    pairs = find_pairs(options.reference, options.predictions, options.allow_missing)
    if options.frames and not options.frames.is_dir():
        raise EvaluationError(
            f'--frames {str(options.frames)!r} is not a folder: give the one that holds the '
            'videos, or leave it out'
        )
    counts, steps = count_all(pairs, options.workers)
    missing = [pair.name for pair in pairs if pair.predicted is None]
    summary = {**summarize(counts), 'flicker': summarize_steps(steps), 'missing': missing}
    write_whole(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    print(_table(summary))
    if options.report:
        path = write_report(options.report, summary, pairs, counts, options.frames)
        print(f'\nreport: {path}')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros evaluate', description=__doc__)
    add = parser.add_argument
    layout = 'folder of video_*/segmentation/*.png'
    # fmt: off
    add('--reference', type=Path, required=True, metavar='DIR', help=f'the truth: {layout}')
    add('--predictions', type=Path, required=True, metavar='DIR', help=f'the masks: {layout}')
    add('--json', type=Path, required=True, metavar='FILE', help='where the numbers go')
    add('--report', type=Path, metavar='DIR',
        help='gets report.html: tables, bars, confusion matrix and the worst frames')
    add('--frames', type=Path, metavar='DIR',
        help='images for the report: folder of video_*/ with rgb/, frames/ or video_left.avi')
    add('--workers', type=positive_int, default=1, metavar='N', help='processes (default: 1)')
    add('--allow-missing', action='store_true',
        help='score a missing mask 0, as officially, and leave out masks without a truth')
    # fmt: on
    return parser


def _table(summary: dict[str, Any]) -> str:
    """Format the numbers as a table."""
    floor = summary['floor']
    missing = summary['missing']
    lines = [f'masks missing, scored 0: {len(missing)}\n'] if missing else []
    lines += [f'{"":16}{"score":>8}{"floor":>8}']
    lines += [f'{key:16}{summary[key]:8.4f}{floor[key]:8.4f}' for key in ('mIoU', 'mNSD', 'score')]
    lines += ['', f'{"class":16}{"IoU where present":>19}{"pooled IoU":>12}']
    values = (summary['present_class_IoU'], summary['pooled_class_IoU'])
    for name, *of_class in zip(CLASS_NAMES[1:], *values, strict=True):
        cells = ('-' if value is None else f'{value:.4f}' for value in of_class)
        lines.append('{:16}{:>19}{:>12}'.format(name, *cells))
    lines += ['', *(f'{word}: {meaning}' for word, meaning in MEANINGS.items())]
    lines += [reported] if (reported := report(summary['flicker'])) else []
    return '\n'.join(lines)

# SPDX-License-Identifier: Apache-2.0
"""The verb `evaluate`: scores a folder of masks against the truth, as SAR-RARP50 does."""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import FrameCounts, summarize
from surgseg_ros.evaluation.pairs import EvaluationError, Pair, count_pair, find_pairs
from surgseg_ros.evaluation.report import MEANINGS, write_report


def main(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 2 if the folders can't be scored, or results not written.
    """
    options = _parser().parse_args(argv)
    try:
        pairs = find_pairs(options.reference, options.predictions, options.allow_missing)
        if options.frames and not options.frames.is_dir():
            raise EvaluationError(
                f'--frames {str(options.frames)!r} is no folder: give the one that holds the '
                'videos, or leave it out'
            )
        counts = count_pairs(pairs, options.workers)
        missing = [pair.name for pair in pairs if pair.predicted is None]
        summary = {**summarize(counts), 'missing': missing}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(summary, indent=2) + '\n')
        print(_table(summary))
        if options.report:
            path = write_report(options.report, summary, pairs, counts, options.frames)
            print(f'\nreport: {path}')
    except (EvaluationError, OSError) as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 2
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
        help='pictures for the report: folder of video_*/ with rgb/, frames/ or video_left.avi')
    add('--workers', type=_positive, default=1, metavar='N', help='processes (default: 1)')
    add('--allow-missing', action='store_true',
        help='score a missing mask 0, as officially, and leave out masks without a truth')
    # fmt: on
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def count_pairs(pairs: Sequence[Pair], workers: int = 1) -> dict[str, list[FrameCounts]]:
    """
    Count every pair.

    :param pairs: what to count.
    :param workers: processes.
    :return: the counts of each video's frames, in the order of `pairs`.
    :raises EvaluationError: if a file can't be read, or a pair does not fit together.
    """
    counts: dict[str, list[FrameCounts]] = {}
    progress = tqdm(_map(pairs, workers), 'scoring', len(pairs), unit='frame', leave=False)
    for pair, frame in zip(pairs, progress, strict=True):
        counts.setdefault(pair.video, []).append(frame)
    return counts


def _map(pairs: Sequence[Pair], workers: int) -> Iterator[FrameCounts]:
    if workers == 1:
        yield from map(count_pair, pairs)
        return
    # A forked OpenCV may wait for threads that were not forked with it.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(workers, len(pairs)), context) as pool:
        yield from pool.map(count_pair, pairs, chunksize=4)


def _table(summary: dict[str, Any]) -> str:
    """Lay the numbers out for people."""
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
    return '\n'.join(lines)

# SPDX-License-Identifier: Apache-2.0
"""The verb `evaluate`: scores a folder of masks against the truth, as SAR-RARP50 does."""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.masks import MaskError, read_mask
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize

_NAMED: Final = 20
"""So many names of what is missing are said; the rest is counted."""


class EvaluationError(ValueError):
    """Folders that can't be scored; the message names what is wrong."""


class Pair(NamedTuple):
    """The truth of a frame, and what was predicted; None where nothing was."""

    video: str
    truth: Path
    predicted: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 2 if the folders can't be scored.
    """
    options = _parser().parse_args(argv)
    try:
        pairs = find_pairs(options.reference, options.predictions, options.allow_missing)
        summary = summarize(count_pairs(pairs, options.workers))
    except EvaluationError as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 2
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(summary, indent=2) + '\n')
    print(_table(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros evaluate', description=__doc__)
    add = parser.add_argument
    layout = 'folder of video_*/segmentation/*.png'
    add('--reference', type=Path, required=True, metavar='DIR', help=f'the truth: {layout}')
    add('--predictions', type=Path, required=True, metavar='DIR', help=f'the masks: {layout}')
    add('--json', type=Path, required=True, metavar='FILE', help='where the numbers go')
    add('--workers', type=_count, default=1, metavar='N', help='processes (default: 1)')
    add(
        '--allow-missing',
        action='store_true',
        help='score a missing mask 0, as officially, and leave out masks without a truth',
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def find_pairs(reference: Path, predictions: Path, allow_missing: bool = False) -> list[Pair]:
    """
    Match the masks of two folders by the names of video and file.

    :param reference: folder of `video_*/segmentation/*.png` with the truth.
    :param predictions: the same with predictions.
    :param allow_missing: whether the folders may differ.
    :return: one pair for each truth, sorted.
    :raises EvaluationError: if there is no truth, or the folders differ and must not.
    """
    truths, masks = _masks_of(reference), _masks_of(predictions)
    if not truths:
        raise EvaluationError(
            f'{str(reference)!r} holds no video_*/segmentation/*.png: give the folder that holds '
            'the videos'
        )
    if not allow_missing:
        for lacking, folder in (
            (sorted(set(truths) - set(masks)), predictions),
            (sorted(set(masks) - set(truths)), reference),
        ):
            if lacking:
                raise EvaluationError(_lacking(lacking, folder))
    return [Pair(name.split('/')[0], truths[name], masks.get(name)) for name in sorted(truths)]


def _masks_of(root: Path) -> dict[str, Path]:
    return {
        path.relative_to(root).as_posix(): path for path in root.glob('video_*/segmentation/*.png')
    }


def _lacking(names: Sequence[str], folder: Path) -> str:
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return (
        f'{str(folder)!r} lacks {len(names)} masks that the other folder has: '
        f'{", ".join(names[:_NAMED])}{more}. Add them, or score without by --allow-missing'
    )


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


def count_pair(pair: Pair) -> FrameCounts:
    """
    Read and count one frame.

    :param pair: its files.
    :return: the counts.
    :raises EvaluationError: if a file can't be read, or they don't fit together.
    """
    try:
        truth = read_mask(pair.truth)
        predicted = None if pair.predicted is None else read_mask(pair.predicted)
    except MaskError as error:
        raise EvaluationError(str(error)) from error
    try:
        return count_frame(truth, predicted)
    except ValueError as error:
        raise EvaluationError(f'{pair.predicted or pair.truth}: {error}') from error


def _table(summary: dict[str, Any]) -> str:
    """Lay the numbers out for people."""
    floor = summary['floor']
    lines = [f'{"":16}{"score":>8}{"floor":>8}']
    lines += [f'{key:16}{summary[key]:8.4f}{floor[key]:8.4f}' for key in ('mIoU', 'mNSD', 'score')]
    lines += ['', f'{"class":16}{"present IoU":>12}{"pooled IoU":>12}']
    values = (summary['present_class_IoU'], summary['pooled_class_IoU'])
    for name, *of_class in zip(CLASS_NAMES[1:], *values, strict=True):
        lines.append(f'{name:16}{_cells(of_class)}')
    return '\n'.join(lines)


def _cells(values: Iterable[float | None]) -> str:
    return ''.join(f'{"-":>12}' if value is None else f'{value:12.4f}' for value in values)

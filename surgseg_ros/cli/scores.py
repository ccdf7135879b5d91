# SPDX-License-Identifier: Apache-2.0
"""The verb `evaluate`: scores of masks, instruments and models against the truth."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from surgseg_ros.cli.arguments import MODEL_HELP, PRECISION_HELP, positive_int
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import check_file, write_atomically
from surgseg_ros.core.instrument_files import INSTANCES_FOLDER, INSTRUMENTS_FOLDER
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.model_folder import DEFAULT_MODEL, find_model
from surgseg_ros.core.parameters import AUTO, PRECISIONS, RUNTIME_NAMES
from surgseg_ros.evaluation.instruments import (
    FULL_HEIGHT,
    count_instrument_pairs,
    summarize_instruments,
)
from surgseg_ros.evaluation.metrics import MEANINGS, SCORED, summarize
from surgseg_ros.evaluation.pairs import (
    EvaluationError,
    count_all,
    find_pairs,
    report,
    summarize_steps,
)
from surgseg_ros.reports import FILE_NAME

OF_MASKS: Final = (
    *('reference', 'predictions', 'report', 'frames', 'workers', 'allow_missing', 'instruments'),
)
"""Options for scoring masks; they exclude those for scoring a model."""

OF_MODEL: Final = ('model', 'labelled', 'leave_out', 'device', 'runtime', 'precision')


def run_evaluate(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate masks, instruments or a model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if the folders cannot be scored, or the model cannot be used.
    :raises OSError: if results cannot be written.
    """
    options = _evaluate_parser().parse_args(argv)
    if error := _option_error(options):
        raise EvaluationError(error)
    check_file(options.json)
    if options.labelled:
        return _score_model(options)
    return _score_instruments(options) if options.instruments else _score_masks(options)


def _score_masks(options: argparse.Namespace) -> int:
    if options.report:
        check_file(options.report / FILE_NAME)
        # Imported before the work, in case Matplotlib is not usable, but only if it is needed.
        from surgseg_ros.evaluation.report import write_report
    pairs = find_pairs(options.reference, options.predictions, bool(options.allow_missing))
    if options.frames and not options.frames.is_dir():
        raise EvaluationError(
            f'--frames {str(options.frames)!r} is not a folder: give the one that holds the '
            'videos, or leave it out'
        )
    counts, steps = count_all(pairs, options.workers or 1)
    missing = [pair.name for pair in pairs if pair.predicted is None]
    summary = {**summarize(counts), 'flicker': summarize_steps(steps), 'missing': missing}
    write_atomically(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    print(_scores_table(summary))
    if options.report:
        path = write_report(options.report, summary, pairs, counts, options.frames)
        print(f'\nreport: {path}')
    return 0


def _score_instruments(options: argparse.Namespace) -> int:
    folders, missing = (options.reference, options.predictions), bool(options.allow_missing)
    pairs = find_pairs(*folders, missing, INSTANCES_FOLDER, INSTRUMENTS_FOLDER)
    summary = summarize_instruments(count_instrument_pairs(pairs, options.workers or 1))
    summary['missing'] = [pair.name for pair in pairs if pair.predicted is None]
    write_atomically(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    print(_instruments_table(summary))
    return 0


def _score_model(options: argparse.Namespace) -> int:
    # Imported here: masks are scored without torch, whose import takes seconds.
    from surgseg_ros.core.segmenter import Segmenter
    from surgseg_ros.evaluation.labelled import find_sets, measure

    sets = find_sets(options.labelled)
    how = options.device or AUTO, options.runtime or 'torch'
    model, precision = find_model(options.model or DEFAULT_MODEL), options.precision or AUTO
    segmenter = Segmenter.load(model, *how, precision=precision)
    measured = measure(segmenter, sets, options.leave_out or ())
    write_atomically(options.json, (json.dumps(measured, indent=2) + '\n').encode())
    print(_measured_table(measured))
    return 0


def _evaluate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros evaluate',
        description='The verb `evaluate`: scores a folder of masks, or a model, against the '
        'truth. Give either --reference and --predictions, or --labelled.',
    )
    # fmt: off
    parser.add_argument('--json', type=Path, required=True, metavar='FILE',
        help='file for the numbers')
    add = parser.add_argument_group('masks of videos, as SAR-RARP50 scores them').add_argument
    layout = 'folder of video_*/segmentation/*.png'
    add('--reference', type=Path, metavar='DIR', help=f'the truth: {layout}')
    add('--predictions', type=Path, metavar='DIR', help=f'the masks: {layout}')
    add('--report', type=Path, metavar='DIR',
        help='gets report.html: tables, bars, confusion matrix and the worst frames')
    add('--frames', type=Path, metavar='DIR',
        help='images for the report: folder of video_*/ with rgb/, frames/ or video_left.avi')
    add('--workers', type=positive_int, metavar='N', help='processes (default: 1)')
    add('--allow-missing', action='store_true', default=None,
        help='score a missing mask 0, as officially, and leave out masks without a truth')
    add('--instruments', action='store_true', default=None,
        help='score instruments, their points and their tracks instead: both folders hold '
        'video_*/instances/*.png and video_*/instruments/*.json, as synthesize and predict write '
        'them with --instruments')
    add = parser.add_argument_group('a model, on labelled images').add_argument
    add('--model', metavar='DIR', help=MODEL_HELP)
    add('--labelled', type=Path, nargs='+', metavar='DIR',
        help='sets: folders with images/ and masks/, whose files have the same names; 255 in a '
        'mask is not scored')
    add('--leave-out', type=int, nargs='+', choices=SCORED, metavar='CLASS',
        help='classes, 1 to 9, that count as background: those that the sets do not label')
    add('--device', help='auto, cpu, cuda or cuda:N (default: auto)')
    add('--runtime', choices=(AUTO, *RUNTIME_NAMES), help='default: torch')
    add('--precision', choices=PRECISIONS, help=PRECISION_HELP)
    # fmt: on
    return parser


def _option_error(options: argparse.Namespace) -> str:
    """Describe options that are missing or exclude each other; empty if there are none."""
    of_masks, of_model = (
        [f'--{name.replace("_", "-")}' for name in names if getattr(options, name) is not None]
        for names in (OF_MASKS, OF_MODEL)
    )
    if of_masks and of_model:
        return (
            f'{", ".join(of_masks)} score masks, {", ".join(of_model)} a model: give only one kind'
        )
    if of_model and not options.labelled:
        return f'{", ".join(of_model)} given, which is for scoring a model: add --labelled'
    if not of_model and not (options.reference and options.predictions):
        return 'give --reference and --predictions to score masks, or --labelled to score a model'
    if options.instruments and (options.report or options.frames):
        return '--report and --frames show masks: leave them out, or --instruments'
    return ''


def _scores_table(summary: dict[str, Any]) -> str:
    """Format the scores as a table."""
    floor = summary['floor']
    missing = summary['missing']
    lines = [f'masks missing, scored 0: {len(missing)}\n'] if missing else []
    lines += [f'{"":16}{"score":>8}{"floor":>8}']
    lines += [f'{key:16}{summary[key]:8.4f}{floor[key]:8.4f}' for key in ('mIoU', 'mNSD', 'score')]
    lines += ['', f'{"class":16}{"IoU where present":>19}{"pooled IoU":>12}']
    values = (summary['present_class_IoU'], summary['pooled_class_IoU'])
    for name, *of_class in zip(CLASS_NAMES[1:], *values, strict=True):
        texts = ('-' if value is None else f'{value:.4f}' for value in of_class)
        lines.append('{:16}{:>19}{:>12}'.format(name, *texts))
    lines += ['', *(f'{word}: {meaning}' for word, meaning in MEANINGS.items())]
    lines += [reported] if (reported := report(summary['flicker'])) else []
    return '\n'.join(lines)


def _measured_table(measured: dict[str, Any]) -> str:
    """Format the scores of a model as a table for each set."""
    model, left_out = measured['model'], ', '.join(measured['left_out'])
    lines = [f'{model["name"]} ({model["weights_sha256"][:12]}), {model["runtime"]}']
    lines += [f'left out: {left_out}'] if left_out else []
    for name, values in measured['sets'].items():
        lines += ['', f'{name}: {counted(values["frames"], "image")}']
        lines += [_row('', 'pooled IoU', 'where present')]
        lines += [_row('tools together', values['tools_iou'])]
        lines += [_row(key, *iou.values()) for key, iou in values['class_iou'].items()]
        lines += [_row('', 'F1', 'precision', 'recall')]
        for key in ('needle', 'thread'):
            lines += [_row(key, *(values[key][part] for part in ('f1', 'precision', 'recall')))]
        lines += [_row('', 'score', 'floor')]
        lines += [_row('official mIoU', values['official_miou'], values['official_miou_floor'])]
    near_px, width_px = measured['tolerance'].values()
    lines += ['', f'F1, precision, recall: within {near_px} px in an image {width_px} px wide']
    lines += [f'floor: {MEANINGS["floor"]}']
    return '\n'.join(lines)


def _row(name: str, *values: float | str | None) -> str:
    texts = ['-' if x is None else x if isinstance(x, str) else f'{x:.4f}' for x in values]
    return f'{name:16}' + ''.join(f'{text:>15}' for text in texts)


def _instruments_table(summary: dict[str, Any]) -> str:
    """Format the scores of instruments as tables."""
    frames = counted(summary['frames'], 'frame')
    lines = [f'{frames}; tools touch in {summary["touching_frames"]}', '']
    lines += [_row('', 'F1', 'PQ', 'truth', 'predicted')]
    for name, values in summary['classes'].items():
        counts = (str(values[key]) for key in ('truth', 'predicted'))
        lines += [_row(name, values['f1'], values['pq'], *counts)]
    lines += [_row('tools that touch', summary['f1_touching']), '']
    lines += [_row('error', 'median', '95th', 'of')]
    for key in ('tip_px', 'needle_end_px', 'axis_deg', 'opening_deg'):
        lines += [
            _row(key, *(summary[key][part] for part in ('p50', 'p95')), str(summary[key]['count']))
        ]
    lines += ['', f'points missed: {summary["missed"]}, invented: {summary["invented"]}', '']
    keys = ('sigma_coverage', 'id_switches_per_1000', 'idf1', 'hota')
    lines += [
        f'{key:22}{"-" if summary[key] is None else format(summary[key], ".4f"):>9}'
        for key in keys
    ]
    if (in_space := summary['error_3d_mm'])['count']:
        texts = (f'{key} {in_space[key]:.2f}' for key in ('across', 'depth'))
        lines += ['', f'tips in 3-D, median in mm: {", ".join(texts)} (of {in_space["count"]})']
    lines += ['', f'px: of an image of {FULL_HEIGHT} rows']
    return '\n'.join(lines)

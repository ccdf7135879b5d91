# SPDX-License-Identifier: Apache-2.0
"""The verbs `evaluate` and `compare`: scores of masks and models, and whether they differ."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from surgseg_ros.cli.arguments import MODEL_HELP, fraction, positive_int
from surgseg_ros.comparison import intervals
from surgseg_ros.comparison.differences import (
    OF_CLASSES,
    RULES,
    Common,
    Comparison,
    Difference,
    Limits,
    ResultError,
    as_json,
    compare_frames,
    find_common,
    find_worse,
    read_result,
    scored_bags,
)
from surgseg_ros.core.default_model import DEFAULT_MODEL, find_model
from surgseg_ros.core.files import check_file, write_whole
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.parameters import AUTO, RUNTIME_NAMES
from surgseg_ros.evaluation.metrics import MEANINGS, SCORED, summarize
from surgseg_ros.evaluation.pairs import (
    EvaluationError,
    count_all,
    find_pairs,
    report,
    summarize_steps,
)
from surgseg_ros.reports import FILE_NAME

OF_MASKS: Final = ('reference', 'predictions', 'report', 'frames', 'workers', 'allow_missing')
"""Options that score masks; they exclude those that score a model."""

OF_MODEL: Final = ('model', 'labelled', 'leave_out', 'device', 'runtime')

_LEAST_WIDTH = 18

_BOUND: Final = 0.005

_EPILOG: Final = f"""\
The frames are paired by bag and stamp. Every difference is B less A, with a 95 % interval from a
bootstrap of the pairs. Frames of a recording are correlated, so blocks of consecutive frames are
drawn, whose length follows from that correlation.
From {intervals.MANY_BAGS} bags on, whole bags are drawn: the interval then holds
for other bags, and with fewer only for other moments of these.

--rule defines when a difference is worse than the bound:
  sure       the whole interval lies below -BOUND. B fails only if chance cannot explain it, so
             this is for a test that runs at every change. Few frames make it lenient.
  estimate   the difference itself lies below -BOUND: these frames are all that counts.
  possible   a part of the interval lies below -BOUND: B must prove that it is not worse by more
             (non-inferiority). Few frames make it strict. For a release.

Exit status: 0 B is not worse; 1 it is; 2 the files cannot be compared.
"""


def run_evaluate(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if the folders cannot be scored, or the model cannot be used.
    :raises OSError: if results cannot be written.
    """
    options = _evaluate_parser().parse_args(argv)
    if error := _option_error(options):
        raise EvaluationError(error)
    check_file(options.json)
    return _score_model(options) if options.labelled else _score_masks(options)


def _score_masks(options: argparse.Namespace) -> int:
    if options.report:
        check_file(options.report / FILE_NAME)
        # Before the work begins, should Matplotlib not load; and only here: that takes a second.
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
    write_whole(options.json, (json.dumps(summary, indent=2) + '\n').encode())
    print(_scores_table(summary))
    if options.report:
        path = write_report(options.report, summary, pairs, counts, options.frames)
        print(f'\nreport: {path}')
    return 0


def _score_model(options: argparse.Namespace) -> int:
    # Only here: masks are scored without torch, whose import takes seconds.
    from surgseg_ros.core.segmenter import Segmenter
    from surgseg_ros.evaluation.labelled import find_sets, measure

    sets = find_sets(options.labelled)
    how = options.device or AUTO, options.runtime or 'torch'
    segmenter = Segmenter.load(find_model(options.model or DEFAULT_MODEL), *how)
    measured = measure(segmenter, sets, options.leave_out or ())
    write_whole(options.json, (json.dumps(measured, indent=2) + '\n').encode())
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
        help='where the numbers go')
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
    add = parser.add_argument_group('a model, on labelled images').add_argument
    add('--model', metavar='DIR', help=MODEL_HELP)
    add('--labelled', type=Path, nargs='+', metavar='DIR',
        help='sets: folders with images/ and masks/, whose files have the same names; 255 in a '
        'mask is not scored')
    add('--leave-out', type=int, nargs='+', choices=SCORED, metavar='CLASS',
        help='classes, 1 to 9, that count as background: those that the sets do not label')
    add('--device', help='auto, cpu, cuda or cuda:N (default: auto)')
    add('--runtime', choices=(AUTO, *RUNTIME_NAMES), help='default: torch')
    # fmt: on
    return parser


def _option_error(options: argparse.Namespace) -> str:
    """Describe options that lack or exclude others; empty if none do."""
    of_masks, of_model = (
        [f'--{name.replace("_", "-")}' for name in names if getattr(options, name) is not None]
        for names in (OF_MASKS, OF_MODEL)
    )
    if of_masks and of_model:
        return (
            f'{", ".join(of_masks)} score masks, {", ".join(of_model)} a model: leave out the '
            'ones or the others'
        )
    if of_model and not options.labelled:
        return f'{", ".join(of_model)} given, which is for scoring a model: add --labelled'
    if not of_model and not (options.reference and options.predictions):
        return 'give --reference and --predictions to score masks, or --labelled to score a model'
    return ''


def _scores_table(summary: dict[str, Any]) -> str:
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


def _measured_table(measured: dict[str, Any]) -> str:
    """Format what was measured of a model as a table for each set."""
    model, left_out = measured['model'], ', '.join(measured['left_out'])
    lines = [f'{model["name"]} ({model["weights_sha256"][:12]}), {model["runtime"]}']
    lines += [f'left out: {left_out}'] if left_out else []
    for name, values in measured['sets'].items():
        lines += ['', f'{name}: {values["frames"]} image{"s"[values["frames"] == 1 :]}']
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


def _row(name: str, *cells: float | str | None) -> str:
    texts = ['-' if x is None else x if isinstance(x, str) else f'{x:.4f}' for x in cells]
    return f'{name:16}' + ''.join(f'{text:>15}' for text in texts)


def comparison_table(
    names: Sequence[str], common: Common, compared: Comparison, worse: Sequence[str]
) -> str:
    """
    Format a comparison as tables.

    :param names: descriptions of A and B.
    :param common: the frames.
    :param compared: the differences.
    :param worse: names of what is worse by more than its bound, see `find_worse`.
    :return: the text.
    """
    drawn = 'bags' if intervals.are_many(len(common.bags)) else 'blocks of frames'
    lines = [f'{side}  {name}' for side, name in zip('AB', names, strict=True)]
    lines.append(f'{common.frames} frames of {len(common.bags)} bags; the bootstrap drew {drawn}')
    lines += [f'left out: {text}' for text in common.differences()]
    width = max(_LEAST_WIDTH, *(len(name) + 2 for name in compared.bags))
    head = ''.join(f'{title:>9}' for title in ('A', 'B', 'B - A', 'from', 'to'))
    for title, rows in _parts(compared):
        lines += ['', f'{title:{width}}{head}']
        for name, row in rows.items():
            full = f'{name}: {title}' if title else name
            lines.append(f'{name:{width}}{_cells(row)}  {_remark(row, full in worse)}'.rstrip())
    absent = [name for name, rows in compared.whole.classes.items() if _is_absent(rows)]
    if absent:
        lines += ['', f'in no frame of the truth or of a mask: {", ".join(absent)}']
    return '\n'.join(lines)


def _parts(compared: Comparison) -> Iterator[tuple[str, Mapping[str, Difference]]]:
    """Yield the tables: overall, by class, by bag."""
    yield '', compared.whole.overall
    shown = {name: rows for name, rows in compared.whole.classes.items() if not _is_absent(rows)}
    for kind in OF_CLASSES:
        yield kind, {name: rows[kind] for name, rows in shown.items()}
    for kind in next(iter(compared.bags.values())).overall:
        yield kind, {name: group.overall[kind] for name, group in compared.bags.items()}


def _is_absent(rows: Mapping[str, Difference]) -> bool:
    where_present = rows['IoU where present']
    return where_present.a is None and rows['IoU'].a == 1 and rows['IoU'].b == 1


def _cells(row: Difference) -> str:
    formats = ('9.4f', '9.4f', '+9.4f', '+9.4f', '+9.4f')
    return ''.join(
        f'{"-":>9}' if value is None else format(value, form)
        for value, form in zip(row, formats, strict=True)
    )


def _remark(row: Difference, is_worse: bool) -> str:
    """Mark a difference that is worse than its bound, or at least significant."""
    if is_worse:
        return 'WORSE'
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ''
    return 'higher' if row.low > 0 else 'lower'


def run_compare(argv: Sequence[str] | None = None) -> int:
    """
    Compare.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 0 if B is not worse, 1 if it is.
    :raises ResultError: if that cannot be told.
    :raises OSError: if numbers cannot be written.
    """
    options = _compare_parser().parse_args(argv)
    if options.json:
        check_file(options.json)
    limits = Limits(options.bound, options.class_bound, options.bag_bound)
    results = [read_result(path) for path in (options.a, options.b)]
    common = find_common(
        *(
            scored_bags(result, str(path))
            for result, path in zip(results, (options.a, options.b), strict=True)
        )
    )
    if (differences := common.differences()) and not options.allow_different:
        raise ResultError(
            f'{"; ".join(differences)}. Evaluate the same bags with both, or compare what is '
            'common by --allow-different'
        )
    compared = compare_frames(common)
    worse = find_worse(compared, limits, options.rule)
    if options.json:
        document = _document(options, results, common, compared, worse)
        write_whole(options.json, (json.dumps(document, indent=2) + '\n').encode())
    names = [_name(result, path) for result, path in zip(results, (options.a, options.b))]
    print(f'{comparison_table(names, common, compared, worse)}\n\n{_verdict(worse, options)}')
    return 1 if worse else 0


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros compare',
        description='The verb `compare`: holds two evaluations against each other, frame by '
        'frame.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add('a', type=Path, metavar='A.json', help='what evaluate_bag wrote of the model there is')
    add('b', type=Path, metavar='B.json', help='what it wrote of the one that may replace it')
    add('--bound', type=fraction, default=_BOUND, metavar='X',
        help=f'B may be lower by this in score, mIoU and mNSD (default: {_BOUND})')
    add('--class-bound', type=fraction, metavar='X',
        help='and by this in IoU, NSD and IoU where present of each class (default: any)')
    add('--bag-bound', type=fraction, metavar='X',
        help='and by this in score, mIoU and mNSD of each bag (default: any)')
    add('--rule', choices=list(RULES), default='sure', help='see below (default: sure)')
    add('--allow-different', action='store_true',
        help='compare the frames that both have where bags or frames differ; they are counted')
    add('--json', type=Path, metavar='FILE', help='where the numbers go')
    # fmt: on
    return parser


def _name(result: Mapping[str, Any], path: Path) -> str:
    model = result.get('model') or {}
    parts = (model.get('name'), (model.get('weights_sha256') or '')[:12], model.get('runtime'))
    return ', '.join([str(path), *(part for part in parts if part)])


def _verdict(worse: Sequence[str], options: argparse.Namespace) -> str:
    limits = [f'{options.bound:g}']
    limits += [
        f'{value:g} in a {part}'
        for part, value in (('class', options.class_bound), ('bag', options.bag_bound))
        if value is not None
    ]
    allowed = f'{" or ".join(limits)} (rule: {options.rule})'
    if worse:
        return f'B is worse than A by more than {allowed}: {", ".join(worse)}'
    return f'B is not worse than A by more than {allowed}'


def _document(
    options: argparse.Namespace,
    results: Sequence[Mapping[str, Any]],
    common: Common,
    compared: Comparison,
    worse: Sequence[str],
) -> dict[str, Any]:
    sides = {
        side: {'file': str(path), 'kind': result.get('kind'), 'model': result.get('model')}
        for side, path, result in zip('ab', (options.a, options.b), results, strict=True)
    }
    return {
        **sides,
        'is_worse': bool(worse),
        'worse': list(worse),
        'rule': options.rule,
        'bound': options.bound,
        'class_bound': options.class_bound,
        'bag_bound': options.bag_bound,
        'confidence': intervals.CONFIDENCE,
        'resamples': intervals.RESAMPLES,
        'seed': intervals.SEED,
        'drawn': 'bags' if intervals.are_many(len(common.bags)) else 'blocks',
        'frames': common.frames,
        'only_in_a': dict(common.only['A']),
        'only_in_b': dict(common.only['B']),
        'other_files': list(common.other_files),
        **as_json(compared.whole),
        'bags': {
            name: {
                'frames': len(common.bags[name][0].stamps_ns),
                'block_frames': compared.block_frames[name],
                **as_json(group),
            }
            for name, group in compared.bags.items()
        },
    }

# SPDX-License-Identifier: Apache-2.0
"""The verb `compare`: whether a model is worse than another on the same bags."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from surgseg_ros.cli.arguments import fraction
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
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import check_file, write_atomically

_MIN_WIDTH = 18

_BOUND: Final = 0.005

_EPILOG: Final = f"""\
The frames are paired by bag and stamp. Every difference is B minus A, with a 95 % interval from a
bootstrap of the pairs. Frames of a recording are correlated, so blocks of consecutive frames are
drawn, whose length follows from that correlation.
From {intervals.MANY_BAGS} bags on, whole bags are drawn: the interval then holds
for other bags, with fewer only for other frames of these.

--rule defines when a difference is worse than the bound:
  sure       the whole interval lies below -BOUND. B fails only if chance cannot explain it, so
             this is for a test that runs at every change. Few frames make it lenient.
  estimate   the difference itself lies below -BOUND: these frames are all that counts.
  possible   a part of the interval lies below -BOUND: B must prove that it is not worse by more
             (non-inferiority). Few frames make it strict. For a release.

Exit status: 0 B is not worse; 1 it is; 2 the files cannot be compared.
"""


def comparison_table(
    names: Sequence[str], common: Common, compared: Comparison, worse: Sequence[str]
) -> str:
    """
    Format a comparison as tables.

    :param names: descriptions of A and B.
    :param common: the frames.
    :param compared: the differences.
    :param worse: names of the values that are worse by more than their bounds, see `find_worse`.
    :return: the text.
    """
    drawn = 'bags' if intervals.are_many(len(common.bags)) else 'blocks of frames'
    lines = [f'{side}  {name}' for side, name in zip('AB', names, strict=True)]
    frames, bags = counted(common.frames, 'frame'), counted(len(common.bags), 'bag')
    lines.append(f'{frames} of {bags}; the bootstrap drew {drawn}')
    lines += [f'left out: {text}' for text in common.differences()]
    width = max(_MIN_WIDTH, *(len(name) + 2 for name in compared.bags))
    head = ''.join(f'{title:>9}' for title in ('A', 'B', 'B - A', 'from', 'to'))
    for title, rows in _parts(compared):
        lines += ['', f'{title:{width}}{head}']
        for name, row in rows.items():
            full = f'{name}: {title}' if title else name
            lines.append(f'{name:{width}}{_format_row(row)}  {_note(row, full in worse)}'.rstrip())
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


def _format_row(row: Difference) -> str:
    formats = ('9.4f', '9.4f', '+9.4f', '+9.4f', '+9.4f')
    return ''.join(
        f'{"-":>9}' if value is None else format(value, form)
        for value, form in zip(row, formats, strict=True)
    )


def _note(row: Difference, is_worse: bool) -> str:
    """Mark a difference that is worse than its bound, or at least significant."""
    if is_worse:
        return 'WORSE'
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ''
    return 'higher' if row.low > 0 else 'lower'


def main(argv: Sequence[str] | None = None) -> int:
    """
    Compare two results of `evaluate_bag`.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 0 if B is not worse, 1 if it is.
    :raises ResultError: if that cannot be decided.
    :raises OSError: if numbers cannot be written.
    """
    options = _parser().parse_args(argv)
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
        write_atomically(options.json, (json.dumps(document, indent=2) + '\n').encode())
    names = [_name(result, path) for result, path in zip(results, (options.a, options.b))]
    print(f'{comparison_table(names, common, compared, worse)}\n\n{_verdict(worse, options)}')
    return 1 if worse else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros compare',
        description='The verb `compare`: compares two evaluations, frame by frame.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add('a', type=Path, metavar='A.json', help='result of evaluate_bag --json: the present model')
    add('b', type=Path, metavar='B.json', help='another: the model that may replace it')
    add('--bound', type=fraction, default=_BOUND, metavar='X',
        help=f'B may be lower by this in score, mIoU and mNSD (default: {_BOUND})')
    add('--class-bound', type=fraction, metavar='X',
        help='and by this in IoU, NSD and IoU where present of each class (default: any)')
    add('--bag-bound', type=fraction, metavar='X',
        help='and by this in score, mIoU and mNSD of each bag (default: any)')
    add('--rule', choices=list(RULES), default='sure', help='see below (default: sure)')
    add('--allow-different', action='store_true',
        help='compare the frames that both have where bags or frames differ; they are counted')
    add('--json', type=Path, metavar='FILE', help='file for the numbers')
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

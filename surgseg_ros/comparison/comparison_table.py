# SPDX-License-Identifier: Apache-2.0
"""A comparison as lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from surgseg_ros.comparison import intervals
from surgseg_ros.comparison.differences import OF_CLASSES, Comparison, Difference
from surgseg_ros.comparison.pairing import Common

_LEAST_WIDTH = 18


def table(names: Sequence[str], common: Common, compared: Comparison, worse: Sequence[str]) -> str:
    """
    Lay a comparison out.

    :param names: what A and B are.
    :param common: the frames.
    :param compared: the differences.
    :param worse: names of what is worse by more than its bound, see `compare.find_worse`.
    :return: lines.
    """
    about = 'bags were' if intervals.are_many(len(common.bags)) else 'blocks of frames were'
    lines = [f'{side}  {name}' for side, name in zip('AB', names, strict=True)]
    lines.append(f'{common.frames} frames of {len(common.bags)} bags; {about} drawn')
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
        lines += ['', f'in no frame, of the truth or of a mask: {", ".join(absent)}']
    return '\n'.join(lines)


def _parts(compared: Comparison) -> Iterator[tuple[str, Mapping[str, Difference]]]:
    """Go through the tables: all, the classes, the bags."""
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
    """Say whether it is worse, or at least surely different."""
    if is_worse:
        return 'WORSE'
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ''
    return 'higher' if row.low > 0 else 'lower'

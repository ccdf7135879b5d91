# SPDX-License-Identifier: Apache-2.0
"""The numbers on a model's card, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import SCORED

_CHOSEN_ON: Final = {
    'validation': 'These frames chose the checkpoint, the least region size and the margins if '
    'there are any. So they flatter; other videos will score lower.',
}
"""Said of scores of this name, unless they bring an `about` of their own."""


def scores_section(name: str, entry: Any) -> str:
    """
    Tell one set of scores: the means against the floor, then class by class.

    :param name: a key of ModelSpec.scores.
    :param entry: its value; what it does not hold is left out.
    :return: Markdown; empty if there is no number.
    """
    entry = mapping(entry)
    title = f'## Scores: {name.replace("_", " ")}'
    calibration = _calibration(mapping(entry.get('calibration')))
    if not entry.get('raw') or not entry.get('filtered'):
        plain = [f'- {key}: {number(v)}' for key, v in entry.items() if isinstance(v, int | float)]
        return '\n'.join([title, *plain]) + calibration if plain else ''
    kinds = [mapping(entry['raw']), mapping(entry['filtered'])]
    about = entry.get('about') or _CHOSEN_ON.get(name, '')
    counts = ', '.join(f'{entry[key]} {key}' for key in ('videos', 'frames') if key in entry)
    return f"""\
{title}
{'. '.join(part for part in (counts, about) if part)}

By the official definition of SAR-RARP50, at the images' own size. The floor is what a prediction
of nothing but background scores. Filtered is without regions below the least size.

{table(['', 'floor', 'raw', 'filtered'], _means(entry, kinds))}

Per class: the official means, in which an absent class counts 1 if nothing is said of it and 0
otherwise; and the mean IoU over the frames that do show the class.

{table(['class', 'floor', 'IoU, raw', 'filtered', 'NSD, raw', 'filtered', 'IoU where shown, raw',
         'filtered'], _classes(entry, kinds))}{calibration}"""  # fmt: skip


def _means(entry: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    floor = entry.get('floor')
    return [
        [
            key,
            floor.get(key) if isinstance(floor, Mapping) else floor,
            *(kind.get(key) for kind in kinds),
        ]
        for key in ('mIoU', 'mNSD', 'score')
    ]


def _classes(entry: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    columns = ('class_mIoU', 'class_mNSD', 'present_class_IoU')
    return [
        [
            CLASS_NAMES[label],
            at(entry.get('class_floor'), place),
            *(at(kind.get(key), place) for key in columns for kind in kinds),
        ]
        for place, label in enumerate(SCORED)
    ]


def _calibration(values: Mapping[str, Any]) -> str:
    """Tell how far the confidence is a probability, where that was measured."""
    before, after = (mapping(values.get(key)) for key in ('before', 'after'))
    if 'ece' not in before or 'ece' not in after:
        return ''
    rows = [
        [name, *(_fine(kind.get(key)) for kind in (before, after))]
        for key, name in (
            ('ece', 'all pixels'),
            ('instrument_ece', 'pixels said to be of an instrument'),
        )
    ]
    return f"""

Expected calibration error of the confidence ({values.get('bins')} bins), without the temperature
and with it:

{table(['', 'before', 'after'], rows)}"""


def _fine(value: Any) -> str:
    return f'{value:.4f}' if isinstance(value, float) else or_dash(value)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """
    Lay out a table.

    :param heads: of the columns.
    :param rows: cells, which `number` writes.
    :return: Markdown.
    """
    lines = [heads, ['---'] * len(heads), *([number(cell) for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def number(value: Any) -> str:
    """
    Write a float to three places.

    :param value: of any kind.
    :return: its text.
    """
    return f'{value:.3f}' if isinstance(value, float) else or_dash(value)


def or_dash(value: Any) -> str:
    """
    Write a dash for what is not known.

    :param value: of any kind.
    :return: its text.
    """
    return '-' if value is None else str(value)


def at(values: Any, place: int) -> Any:
    """
    Take a value of a list that must not be there.

    :param values: the list, or anything else.
    :param place: in it.
    :return: the value, or None.
    """
    return values[place] if isinstance(values, list | tuple) and len(values) > place else None


def mapping(value: Any) -> Mapping[str, Any]:
    """
    Take what must not be one for a mapping.

    :param value: of any kind.
    :return: itself, or an empty one.
    """
    return value if isinstance(value, Mapping) else {}

# SPDX-License-Identifier: Apache-2.0
"""Parts of the report: what was lost or had no ground truth, and what was evaluated at all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from surgseg_ros.evaluation import charts

_COUNTS: Final = {
    'dropped': 'without a mask',
    'failed': 'network failed',
    'undecided': 'no decision',
    'rejected': 'no image',
}
_TRUTHS: Final = {
    'unmatched': 'truths of no image',
    'ambiguous': 'truths of a doubtful stamp',
    'unusable': 'unusable truths',
}
_STAMPS: Final = {'zero': 'stamp zero', 'equal': 'equal stamps', 'backward': 'backward stamps'}

_NOTE: Final = (
    'Counts of frames and messages. A truth belongs to the image of its stamp, and to none where '
    'the stamp is zero or not the only one of its kind.'
)


def section(results: Mapping[str, Any]) -> str:
    """
    Say what is missing in the scores, and why.

    :param results: what the JSON file of `evaluate_bag` holds.
    :return: the HTML.
    """
    head = ('bag', 'frames', 'without a truth', *_COUNTS.values(), *_TRUTHS.values(),
            *_STAMPS.values())  # fmt: skip
    bags = results['bags']
    rows = [_row(name, bag) for name, bag in bags.items()]
    if len(rows) > 1:
        rows.append(_row('all', results))
    troubles = list(_troubles(results))
    said = charts.table(('bag', 'what', 'how often', 'the first'), troubles) if troubles else ''
    content = f'{charts.table(head, rows)}<div class="words">{said}</div>'
    return charts.section('Lost, or without a truth', content, _NOTE)


def _row(name: str, numbers: Mapping[str, Any]) -> list[object]:
    truths = numbers['ground_truth'] or {}
    return [
        name,
        numbers['frames'],
        numbers['frames'] - numbers['with_ground_truth'],
        *(numbers.get(key, 0) for key in _COUNTS),
        *(truths.get(key) for key in _TRUTHS),
        *(numbers['frames_by_stamp'][key] for key in _STAMPS),
    ]


def _troubles(results: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    for name, text in results['unreadable'].items():
        yield name, 'not evaluated', 1, text
    for name, bag in results['bags'].items():
        if bag['damage']:
            yield name, 'damage', 1, bag['damage']
        for trouble in bag['troubles']:
            yield name, trouble['cause'], trouble['count'], trouble['first']
        if bag.get('strangers'):
            yield name, 'masks of no image', bag['strangers'], None


def identity(results: Mapping[str, Any]) -> str:
    """
    Say of which model and bags the numbers are.

    :param results: what the JSON file of `evaluate_bag` holds.
    :return: the HTML.
    """
    model = results['model'] or {}
    what = {
        'evaluated': f'{results["kind"]}, {results["elapsed_s"]:.1f} s',
        **{f'model: {key.replace("_", " ")}': value for key, value in model.items()},
        'SHA-256 of all masks': results['mask_sha256'],
        **{key.replace('_', ' '): value for key, value in results['options'].items()},
    }
    rows = [
        (name, f'{bag["identity"]["size_bytes"] / 1e6:.1f} MB',
         f'{bag["identity"]["duration_ns"] / 1e9:.1f} s', bag['identity']['fingerprint'],
         bag['mask_sha256'])
        for name, bag in results['bags'].items()
    ]  # fmt: skip
    head = ('bag', 'size', 'duration', 'fingerprint', 'SHA-256 of masks')
    return (
        f'<div class="words">{charts.table(("", ""), what.items())}'
        f'{charts.table(head, rows)}</div>'
    )

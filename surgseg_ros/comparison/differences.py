# SPDX-License-Identifier: Apache-2.0
"""By how much B differs from A on the same frames: overall, per class and per bag."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.comparison import intervals
from surgseg_ros.comparison.pairing import Common, ScoredBag
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import SCORED

OVERALL: Final = ('score', 'mIoU', 'mNSD')
OF_CLASSES: Final = ('IoU', 'NSD', 'IoU where present')

_NINE: Final = len(SCORED)
_SIDE: Final = 3 * _NINE

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """
    A value of A and of B, and the interval of their difference; None where there is no value.

    :param a: the value of A.
    :param b: the value of B.
    :param difference: B minus A.
    :param low: lower end of the interval of the difference.
    :param high: upper end.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None


class Group(NamedTuple):
    """
    The differences over one bag, or over all.

    :param overall: OVERALL to a difference.
    :param classes: name of a class to OF_CLASSES to a difference.
    """

    overall: Mapping[str, Difference]
    classes: Mapping[str, Mapping[str, Difference]]


class Comparison(NamedTuple):
    """
    The result of a comparison.

    :param whole: of all bags, by the official mean over bags.
    :param bags: of each bag.
    :param block_frames: number of consecutive frames that were drawn together, for each bag.
    """

    whole: Group
    bags: Mapping[str, Group]
    block_frames: Mapping[str, int]


def compare_frames(common: Common, resamples: int = intervals.RESAMPLES) -> Comparison:
    """
    Compare two results; draws are seeded, and the order of bags and frames does not matter.

    :param common: the frames.
    :param resamples: number of resamples of the bootstrap.
    :return: the differences.
    """
    rng = np.random.default_rng(intervals.SEED)
    drawn, lengths = {}, {}
    for name, (a, b) in sorted(common.bags.items()):
        series = np.stack([(b.iou - a.iou).mean(1), (b.nsd - a.nsd).mean(1)], 1)
        lengths[name] = intervals.block_length(series)
        drawn[name] = intervals.draw_bag(_columns(a, b), lengths[name], rng, resamples)
    bags = {name: _group([bag], rng) for name, bag in drawn.items()}
    return Comparison(_group(list(drawn.values()), rng), bags, lengths)


def _columns(a: ScoredBag, b: ScoredBag) -> Array:
    """
    Build the columns that are averaged.

    :return: (N, 63): IoU, NSD and IoU where present of A, of B, and where a class is present.
        The last of each are of all frames together, and not a mean over bags: they are
        multiplied by the bag's frames, so that a long bag has more of them.
    """
    weight = len(a.iou)
    present = a.present * float(weight)
    return np.hstack((a.iou, a.nsd, a.iou * present, b.iou, b.nsd, b.iou * present, present))


def _group(bags: list[intervals.Drawn], rng: np.random.Generator) -> Group:
    mean = np.mean([bag.means for bag in bags], 0)
    a, b = (_values(mean, side) for side in (0, 1))
    found = intervals.interval_over_bags(bags, lambda m: _values(m, 1) - _values(m, 0), rng)
    rows = [
        Difference(*(None if np.isnan(value) else float(value) for value in values))
        for values in zip(a, b, *found, strict=True)
    ]
    overall, of_classes = rows[: len(OVERALL)], rows[len(OVERALL) :]
    classes = {
        CLASS_NAMES[label]: dict(zip(OF_CLASSES, of_classes[place::_NINE], strict=True))
        for place, label in enumerate(SCORED)
    }
    return Group(dict(zip(OVERALL, overall, strict=True)), classes)


def _values(means: Array, side: int) -> Array:
    """
    Compute the scores from means of columns; divides last.

    :param means: (…, 63) of `_columns`.
    :param side: 0 for A, 1 for B.
    :return: (…, 30) score, mIoU, mNSD, and nine each of IoU, NSD and IoU where present; NaN
        where a class does not occur.
    """
    own = means[..., side * _SIDE :][..., :_SIDE]
    iou, nsd, seen = (own[..., at : at + _NINE] for at in range(0, _SIDE, _NINE))
    present = means[..., 2 * _SIDE :]
    where_present = np.full_like(seen, np.nan)
    np.divide(seen, present, out=where_present, where=present > 0)
    miou, mnsd = iou.mean(-1, keepdims=True), nsd.mean(-1, keepdims=True)
    return np.concatenate((np.sqrt(miou * mnsd), miou, mnsd, iou, nsd, where_present), -1)


def as_json(group: Group) -> dict[str, Any]:
    """
    Convert to values that can be written as JSON.

    :param group: the differences.
    :return: `mIoU`, `mNSD`, `score`, and `classes`, each with `a`, `b`, `difference`, `low`,
        `high`.
    """
    classes = {
        name: {kind: row._asdict() for kind, row in rows.items()}
        for name, rows in group.classes.items()
    }
    return {**{kind: row._asdict() for kind, row in group.overall.items()}, 'classes': classes}


Rule = Callable[[Difference, float], bool]


def _is_below(value: float | None, bound: float) -> bool:
    return value is not None and value < -bound


RULES: Final[Mapping[str, Rule]] = {
    'sure': lambda row, bound: _is_below(row.high, bound),
    'estimate': lambda row, bound: _is_below(row.difference, bound),
    'possible': lambda row, bound: _is_below(row.low, bound),
}
"""The rules by which B counts as worse by more than a bound."""


class Limits(NamedTuple):
    """By how much B may be lower: overall, in a class, in a bag; None for no limit."""

    overall: float
    classes: float | None
    bags: float | None


def find_worse(compared: Comparison, limits: Limits, rule: str) -> list[str]:
    """
    List everything in which B is worse by more than a bound.

    :param compared: the differences.
    :param limits: the bounds.
    :param rule: a key of RULES.
    :return: the names, such as `mIoU`, `thread: NSD`, `bag_3: score`.
    """
    is_worse = RULES[rule]
    return [name for name, bound, row in _bounded(compared, limits) if is_worse(row, bound)]


def _bounded(compared: Comparison, limits: Limits) -> Iterator[tuple[str, float, Difference]]:
    """Yield name, bound and difference of everything that has a bound."""
    for name, row in compared.whole.overall.items():
        yield name, limits.overall, row
    groups = (
        (limits.classes, compared.whole.classes),
        (limits.bags, {name: group.overall for name, group in compared.bags.items()}),
    )
    for bound, rows_of in groups:
        if bound is not None:
            for name, rows in rows_of.items():
                yield from ((f'{name}: {kind}', bound, row) for kind, row in rows.items())

# SPDX-License-Identifier: Apache-2.0
"""The common frames of two results of `evaluate_bag`, and the differences of their scores."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.comparison import intervals
from surgseg_ros.core.errors import counted
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import SCORED

_NAMED: Final = 5
"""Maximum number of names that a message lists; the others are counted."""


class ResultError(ValueError):
    """Files that cannot be compared; the message gives the problem and a remedy."""


@dataclass(frozen=True)
class ScoredBag:
    """
    The frames of a bag that have a ground truth, ordered by stamp.

    :param stamps_ns: (N,) stamps of the images; unique.
    :param iou: (N, 9) IoU of the classes 1 to 9.
    :param nsd: (N, 9) NSD of the classes 1 to 9.
    :param present: (N, 9) whether the truth shows the class.
    :param fingerprint: fingerprint of the bag's files; empty if unknown.
    """

    stamps_ns: NDArray[np.int64]
    iou: NDArray[np.float64]
    nsd: NDArray[np.float64]
    present: NDArray[np.bool_]
    fingerprint: str = ''

    def at(self, indices: NDArray[np.intp]) -> 'ScoredBag':
        """
        Select some of the frames.

        :param indices: their indices.
        :return: the selected frames.
        """
        return ScoredBag(
            self.stamps_ns[indices],
            self.iou[indices],
            self.nsd[indices],
            self.present[indices],
            self.fingerprint,
        )


@dataclass(frozen=True)
class Common:
    """
    The frames that two results have in common, and those that only one has.

    :param bags: by name, the frames of a bag as scored in A and in B.
    :param only: for 'A' and 'B', the number of scored frames by bag that the other one lacks.
    :param other_files: bags whose files differ between the two.
    """

    bags: Mapping[str, tuple[ScoredBag, ScoredBag]]
    only: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    other_files: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """The number of frames that can be compared."""
        return sum(len(bag.stamps_ns) for bag, _ in self.bags.values())

    def differences(self) -> list[str]:
        """Describe how the frames of A and B differ; empty if they are the same."""
        differences = [
            f'{sum(frames.values())} scored frames are only in {side} ({_named(frames)})'
            for side, frames in self.only.items()
            if frames
        ]
        if self.other_files:
            differences.append(f'the files of {_named(dict.fromkeys(self.other_files))} differ')
        return differences


def _named(names: Mapping[str, int | None]) -> str:
    parts = [name if n is None else f'{name}: {n}' for name, n in sorted(names.items())]
    more = f' and {len(parts) - _NAMED} more' if len(parts) > _NAMED else ''
    return f'{", ".join(parts[:_NAMED])}{more}'


def read_result(path: Path) -> dict[str, Any]:
    """
    Read a file that `evaluate_bag` wrote.

    :param path: the file.
    :return: its content.
    :raises ResultError: if it cannot be read, or is not such a file.
    """
    try:
        result = json.loads(path.read_text('utf-8'))
    except OSError as error:
        raise ResultError(
            f'{str(path)!r} cannot be read ({error.strerror}): check the path'
        ) from error
    except ValueError as error:
        raise ResultError(
            f'{str(path)!r} is not JSON ({error}): give what evaluate_bag --json wrote'
        ) from error
    if not isinstance(result, dict) or not isinstance(result.get('bags'), dict):
        raise ResultError(f'{str(path)!r} has no "bags": give what evaluate_bag --json wrote')
    return result


def scored_bags(result: Mapping[str, Any], name: str) -> dict[str, ScoredBag]:
    """
    Extract the frames with a ground truth from a result.

    :param result: result of `evaluate_bag`.
    :param name: name of the result, for error messages.
    :return: frames by name of the bag, without bags that have none.
    :raises ResultError: if there is none, or a frame is not what `evaluate_bag` writes.
    """
    try:
        bags = {bag: _scored_bag(content) for bag, content in result['bags'].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f'{name!r} is an incomplete result of evaluate_bag ({type(error).__name__}: {error}): '
            'evaluate again'
        ) from error
    if empty := {bag: None for bag in bags if result['bags'][bag].get('masks') == 0}:
        raise ResultError(
            f'{name!r} has bags of which nothing was evaluated, since they have no mask '
            f'({_named(empty)}): evaluate again'
        )
    scored = {bag: frames for bag, frames in bags.items() if len(frames.stamps_ns)}
    if not scored:
        raise ResultError(
            f'{name!r} has no frame with a ground truth: evaluate with --ground-truth-topic'
        )
    return scored


def _scored_bag(content: Mapping[str, Any]) -> ScoredBag:
    frames = sorted(
        (frame for frame in content['over_time'] if frame['iou'] is not None),
        key=lambda frame: frame['stamp_ns'],
    )
    stamps = np.array([frame['stamp_ns'] for frame in frames], np.int64)
    if (np.diff(stamps) == 0).any():
        raise ValueError('two scored frames of a bag have the same stamp')
    shape = len(frames), len(SCORED)
    present = [np.isin(SCORED, frame['truth']) for frame in frames]
    return ScoredBag(
        stamps,
        np.array([frame['iou'] for frame in frames], float).reshape(shape),
        np.array([frame['nsd'] for frame in frames], float).reshape(shape),
        np.array(present, bool).reshape(shape),
        content.get('identity', {}).get('fingerprint', ''),
    )


def find_common(a: Mapping[str, ScoredBag], b: Mapping[str, ScoredBag]) -> Common:
    """
    Pair the frames of two results.

    :param a: bags of the first result.
    :param b: bags of the second result.
    :return: the common frames, and the others.
    :raises ResultError: if they have no frame in common, or a common frame has another truth.
    """
    only: dict[str, dict[str, int]] = {'A': {}, 'B': {}}
    bags: dict[str, tuple[ScoredBag, ScoredBag]] = {}
    for name in sorted({*a, *b}):
        stamps = [
            bags[name].stamps_ns if name in bags else np.zeros(0, np.int64) for bags in (a, b)
        ]
        both, in_a, in_b = np.intersect1d(
            stamps[0], stamps[1], assume_unique=True, return_indices=True
        )
        for side, own in zip(only, stamps, strict=True):
            if alone := len(own) - len(both):
                only[side][name] = alone
        if len(both):
            bags[name] = a[name].at(in_a), b[name].at(in_b)
            _check_truth(name, *bags[name])
    if not bags:
        raise ResultError(
            f'the files have no scored frame in common (A has {_named(only["A"])}; B has '
            f'{_named(only["B"])}): evaluate the same bags, under the same names'
        )
    differing = [bag for bag, (one, other) in bags.items() if _is_other_file(one, other)]
    return Common(bags, only, tuple(differing))


def _is_other_file(a: ScoredBag, b: ScoredBag) -> bool:
    return bool(a.fingerprint and b.fingerprint) and a.fingerprint != b.fingerprint


def _check_truth(name: str, a: ScoredBag, b: ScoredBag) -> None:
    if (differing := (a.present != b.present).any(1)).any():
        stamp = a.stamps_ns[np.argmax(differing)]
        raise ResultError(
            f'bag {name!r}: the ground truth of {counted(int(differing.sum()), "frame")} shows '
            f'other classes in B than in A, first at stamp {stamp} ns: evaluate against the same '
            'truth'
        )


OVERALL: Final = ('score', 'mIoU', 'mNSD')
OF_CLASSES: Final = ('IoU', 'NSD', 'IoU where present')

_SCORED_COUNT: Final = len(SCORED)
_SIDE: Final = 3 * _SCORED_COUNT

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """
    A value of A and of B, and the interval of their difference; None for missing values.

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
    The differences over one bag, or over all bags.

    :param overall: differences by the keys in OVERALL.
    :param classes: differences by name of the class and key in OF_CLASSES.
    """

    overall: Mapping[str, Difference]
    classes: Mapping[str, Mapping[str, Difference]]


class Comparison(NamedTuple):
    """
    The result of a comparison.

    :param whole: differences for all bags, by the official mean over bags.
    :param bags: differences for each bag.
    :param block_frames: number of consecutive frames in a bootstrap block, for each bag.
    """

    whole: Group
    bags: Mapping[str, Group]
    block_frames: Mapping[str, int]


def compare_frames(common: Common, resamples: int = intervals.RESAMPLES) -> Comparison:
    """
    Compare two results; random numbers are seeded, and the order of bags and frames is irrelevant.

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

    :return: (N, 63): IoU, NSD and IoU where present of A, of B, and whether a class is present.
        IoU where present is a mean over all frames, not over bags: these columns are multiplied by
        the number of the bag's frames, so that each frame has the same weight.
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
        CLASS_NAMES[label]: dict(zip(OF_CLASSES, of_classes[index::_SCORED_COUNT], strict=True))
        for index, label in enumerate(SCORED)
    }
    return Group(dict(zip(OVERALL, overall, strict=True)), classes)


def _values(means: Array, side: int) -> Array:
    """
    Compute the scores from means of columns.

    :param means: (…, 63) of `_columns`.
    :param side: 0 for A, 1 for B.
    :return: (…, 30) score, mIoU, mNSD, and nine each of IoU, NSD and IoU where present; NaN
        if a class does not occur.
    """
    own = means[..., side * _SIDE :][..., :_SIDE]
    iou, nsd, seen = (own[..., at : at + _SCORED_COUNT] for at in range(0, _SIDE, _SCORED_COUNT))
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
    """Largest decrease of B that is allowed: overall, in a class, in a bag; None for no limit."""

    overall: float
    classes: float | None
    bags: float | None


def find_worse(compared: Comparison, limits: Limits, rule: str) -> list[str]:
    """
    List the values in which B is worse by more than a bound.

    :param compared: the differences.
    :param limits: the bounds.
    :param rule: a key of RULES.
    :return: the names, such as `mIoU`, `thread: NSD`, `bag_3: score`.
    """
    is_worse = RULES[rule]
    return [name for name, bound, row in _bounded(compared, limits) if is_worse(row, bound)]


def _bounded(compared: Comparison, limits: Limits) -> Iterator[tuple[str, float, Difference]]:
    """Yield name, bound and difference of each value that has a bound."""
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

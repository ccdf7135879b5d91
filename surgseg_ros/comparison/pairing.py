# SPDX-License-Identifier: Apache-2.0
"""The frames that two results of `evaluate_bag` have in common, by bag and stamp."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.metrics import SCORED

_NAMED: Final = 5
"""Number of names that a message lists; the rest is counted."""


class ResultError(ValueError):
    """Files that cannot be compared; the message names what is wrong, and a remedy."""


@dataclass(frozen=True)
class ScoredBag:
    """
    The frames of a bag that have a ground truth, ordered by stamp.

    :param stamps_ns: (N,) of the images; each occurs once.
    :param iou: (N, 9) of the classes 1 to 9.
    :param nsd: (N, 9) of the same.
    :param present: (N, 9) whether the truth shows the class.
    :param fingerprint: of the bag's files; empty if unknown.
    """

    stamps_ns: NDArray[np.int64]
    iou: NDArray[np.float64]
    nsd: NDArray[np.float64]
    present: NDArray[np.bool_]
    fingerprint: str = ''

    def at(self, places: NDArray[np.intp]) -> 'ScoredBag':
        """
        Select some of the frames.

        :param places: their indices.
        :return: the selected frames.
        """
        return ScoredBag(
            self.stamps_ns[places],
            self.iou[places],
            self.nsd[places],
            self.present[places],
            self.fingerprint,
        )


@dataclass(frozen=True)
class Common:
    """
    The frames that two results have in common, and those that only one has.

    :param bags: name to the same frames as A and as B scored them.
    :param only: 'A' and 'B' to bag to the number of scored frames that the other lacks.
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
    :raises ResultError: if it cannot be read, or holds something else.
    """
    try:
        result = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise ResultError(f'{str(path)!r} cannot be read as JSON: {error}') from error
    if not isinstance(result, dict) or not isinstance(result.get('bags'), dict):
        raise ResultError(f'{str(path)!r} has no "bags": give what evaluate_bag --json wrote')
    return result


def scored_bags(result: Mapping[str, Any], name: str) -> dict[str, ScoredBag]:
    """
    Extract the frames with a ground truth from a result.

    :param result: what `evaluate_bag` wrote.
    :param name: of the result, for error messages.
    :return: mapping from the name of each bag that has such frames to them.
    :raises ResultError: if there is none, or a frame is not what `evaluate_bag` writes.
    """
    try:
        bags = {bag: _scored_bag(content) for bag, content in result['bags'].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f'{name!r} is not a whole result of evaluate_bag ({type(error).__name__}: {error}): '
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

    :param a: bags of the first.
    :param b: bags of the second.
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
    differing = [bag for bag, (ours, theirs) in bags.items() if _is_other_file(ours, theirs)]
    return Common(bags, only, tuple(differing))


def _is_other_file(a: ScoredBag, b: ScoredBag) -> bool:
    return bool(a.fingerprint and b.fingerprint) and a.fingerprint != b.fingerprint


def _check_truth(name: str, a: ScoredBag, b: ScoredBag) -> None:
    if (differing := (a.present != b.present).any(1)).any():
        stamp = a.stamps_ns[np.argmax(differing)]
        raise ResultError(
            f'bag {name!r}: the ground truth of {differing.sum()} frames shows other classes in '
            f'B than in A, first at stamp {stamp} ns: evaluate against the same truth'
        )

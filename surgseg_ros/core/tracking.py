# SPDX-License-Identifier: Apache-2.0
"""Assigns instruments of an image to those of previous images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.known_tools import KnownTools
from surgseg_ros.core.runs import cell_side_px
from surgseg_ros.core.segmentation import Field
from surgseg_ros.core.tool_memory import ToolMemory
from surgseg_ros.core.track_observations import (
    MAX_TRACKED,
    Features,
    Observed,
    PreviousInstruments,
    Values,
    observe,
    rejoin_pieces,
)

DEFAULT_TRACK_LOST_MS: Final = 500
LONGEST_LOSS_MS: Final = 10_000

COVERED_TIMES: Final = 10
"""A track that other instruments cover is kept this many times as long."""

_COVERED_SHARE: Final = 0.5
"""Share of a track's pixels that other instruments cover."""

INTERVAL_NS: Final = 10**9 // 30
"""Interval that is assumed between two images if their stamps are missing or equal."""

LONGEST_GAP_NS: Final = 2 * 10**9
"""All tracks end after a longer time without an image."""

# Lengths are in image heights, times in seconds.
_POSITION_SIGMA: Final = 0.04
"""Standard deviation of the centroid of an instrument, which may be partly covered."""

_FIRST_SPEED: Final = 0.4
"""Standard deviation of the speed of a new track."""

_ACCELERATION: Final = 1.0
"""Spectral density of the acceleration, in heights²/s³."""

_JUMP_GATE: Final = 2.0
"""An innovation of more standard deviations is due to something that covers the instrument."""

_GATE: Final = 3.0
"""With an innovation of more standard deviations, track and instrument must overlap."""

_MAX_DISTANCE: Final = 0.5
_MIN_OVERLAP: Final = 0.5

_CLOSE: Final = 0.05
"""Largest distance from where a track was last seen, if it was covered for a long time."""

# Terms of the cost of a match, besides the negative log-likelihood of the position.
_OVERLAP_COST: Final = 8.0
_AXIS_COST: Final = 4.0
_AREA_COST: Final = 1.0

_LOST_TRACK_COST: Final = 3.0
"""For a track that was not seen in the last image: keeps tracks from swapping instruments."""

_NEW_TRACK_COST: Final = 10.0
"""For a new track: if an instrument falls into pieces or becomes one, the older track keeps it."""

_NO_MATCH: Final = 1e3


class _Motion(NamedTuple):
    """
    The state of a constant-velocity Kalman filter of each track; x and y have the same variances.

    :param positions: (n, 2) x and y.
    :param speeds: (n, 2) their change per second.
    :param variances: (n, 3) of position, of position with speed (covariance), of speed.
    """

    positions: Values
    speeds: Values
    variances: Values

    def after(self, dt_s: float) -> _Motion:
        """Predict the state after a time step."""
        position, both, speed = self.variances.T
        variances = [
            position + 2 * dt_s * both + dt_s**2 * speed + _ACCELERATION * dt_s**3 / 3,
            both + dt_s * speed + _ACCELERATION * dt_s**2 / 2,
            speed + _ACCELERATION * dt_s,
        ]
        positions = self.positions + dt_s * self.speeds
        return _Motion(positions, self.speeds, np.stack(variances, axis=1))

    def corrected(self, positions: Values) -> _Motion:
        """Update the state with the observed positions."""
        position, both, speed = self.variances.T
        away = positions - self.positions
        gain_position, gain_speed = np.stack([position, both]) / (position + _POSITION_SIGMA**2)
        # Such an innovation carries no information about the speed.
        jumps = (away**2).sum(axis=1) > _JUMP_GATE**2 * (position + _POSITION_SIGMA**2)
        gain_position = np.where(jumps, 1.0, gain_position)
        gain_speed = np.where(jumps, 0.0, gain_speed)
        seen_position = np.where(jumps, _POSITION_SIGMA**2, (1 - gain_position) * position)
        variances = [seen_position, (1 - gain_position) * both, speed - gain_speed * both]
        return _Motion(
            self.positions + gain_position[:, None] * away,
            self.speeds + gain_speed[:, None] * away,
            np.stack(variances, axis=1),
        )


class _Tracks(NamedTuple):
    """
    The active and the lost tracks; one row each.

    :param numbers: (n,) track ids.
    :param began_ns: (n,) when the instrument was first seen.
    :param seen_ns: (n,) when it was last seen.
    :param covered_ns: (n,) for how long instruments have covered its position since then.
    :param is_covered: (n,) whether they did in the last image.
    :param features: features when it was last seen.
    :param motion: the predicted state.
    """

    numbers: NDArray[np.intp]
    began_ns: NDArray[np.int64]
    seen_ns: NDArray[np.int64]
    covered_ns: NDArray[np.int64]
    is_covered: NDArray[np.bool_]
    features: Features
    motion: _Motion


_Rows = TypeVar('_Rows', bound=tuple[Any, ...])


def _take(rows: _Rows, chosen: NDArray[np.intp]) -> _Rows:
    """Select some rows of features, motions or tracks."""
    columns: Any = rows
    taken = (_take(x, chosen) if isinstance(x, tuple) else x[chosen] for x in columns)
    return cast(_Rows, columns._make(taken))


def _joined(rows: _Rows, others: _Rows) -> _Rows:
    """Append other rows; without any on one side, this is the other, not a copy."""
    if not len(rows[0]) or not len(others[0]):
        return others if len(others[0]) else rows
    columns: Any = rows
    pairs = zip(columns, others)
    joined = (_joined(*x) if isinstance(x[0], tuple) else np.concatenate(x) for x in pairs)
    return cast(_Rows, columns._make(joined))


class Tracker:
    """
    Assigns ids to the instruments of one camera that stay the same from image to image.

    An id is the number of a track, from 1, and is never reused. An instrument continues a track of
    its class that predicts its position and has a similar axis, shape and area. A track never
    changes its class, so that a tool whose class flickers gets its id back.

    Not thread-safe.

    :param lost_ms: how long an instrument may be lost and keep its id, COVERED_TIMES as long while
        other instruments cover its position; 0 ends tracks at once.
    """

    def __init__(self, lost_ms: float = DEFAULT_TRACK_LOST_MS) -> None:
        self._lost_ns = round(lost_ms * 1e6)
        self._last_number = 0
        self._tools = ToolMemory(self._lost_ns, INTERVAL_NS)
        self.end_tracks()

    def end_tracks(self) -> None:
        """End all tracks; instruments that are seen next get new ids."""
        self._tracks: _Tracks | None = None
        self._size = (0, 0)
        self._stamp_ns: int | None = None
        self._now_ns = self._last_ns = 0
        self._tools.forget()

    def update(
        self,
        instruments: Sequence[Instrument],
        size: tuple[int, int],
        stamp_ns: int | None,
        observed: Observed | None = None,
        again: Callable[[KnownTools], Sequence[Instrument]] | None = None,
    ) -> tuple[Instrument, ...]:
        """
        Track the instruments of the next image.

        :param instruments: instruments of the image, as `find_instruments` returns them; without a
            decision, as `without_decision` returns them.
        :param size: (H, W) of the image in pixels.
        :param stamp_ns: stamp of the image; None if there is none.
        :param observed: what `observe` returns for them, if it is known and `may_be_pieces` is
            False; then the instruments need neither runs nor parts.
        :param again: finds the instruments of the image again, and continues the robotic tools of
            the last image; None: the tools of each image are those that it shows alone.
        :return: those of `again` or, else, of `rejoin_pieces`, with `track_id`; it is 0 without a
            decision, and for all but the MAX_TRACKED largest instruments.
        """
        dt_ns = self._elapsed_ns(stamp_ns)
        if size != self._size or not 0 < dt_ns <= LONGEST_GAP_NS:
            self.end_tracks()
            dt_ns = INTERVAL_NS
        self._size, self._stamp_ns = size, stamp_ns
        self._last_ns, self._now_ns = self._now_ns, self._now_ns + dt_ns
        self._predict(dt_ns / 1e9)
        instruments, (indices, seen, samples) = self._observed(instruments, observed, again)
        numbers = np.zeros(len(instruments), np.intp)
        if seen is not None:
            numbers[indices] = self._match(seen)
        tracked = [instruments[index].parts for index in indices]
        self._tools.note(samples, tracked, numbers[indices].tolist(), dt_ns)
        return tuple(
            dataclasses.replace(instrument, track_id=number) if number else instrument
            for instrument, number in zip(instruments, numbers.tolist())
        )

    def _elapsed_ns(self, stamp_ns: int | None) -> int:
        """Return the time since the last image; INTERVAL_NS if stamps are equal or missing."""
        if stamp_ns is None or self._stamp_ns is None:
            return INTERVAL_NS
        return stamp_ns - self._stamp_ns or INTERVAL_NS

    def _rejoined(self, instruments: Sequence[Instrument]) -> Sequence[Instrument]:
        """Join what are pieces of an instrument that was seen in the last image, just before."""
        if self._tracks is None or self._now_ns - self._last_ns > self._lost_ns:
            return instruments
        last = _take(self._tracks, np.flatnonzero(self._tracks.seen_ns == self._last_ns))
        known = last.features
        moved = _shift_masks(known.masks, last.motion.positions - known.centroids, self._size)
        masks = (known.masks > 0) | (moved > 0)
        previous = PreviousInstruments(known.labels, np.exp(known.areas), masks)
        return rejoin_pieces(instruments, previous, self._size)

    def _observed(
        self,
        instruments: Sequence[Instrument],
        observed: Observed | None,
        again: Callable[[KnownTools], Sequence[Instrument]] | None,
    ) -> tuple[Sequence[Instrument], Observed]:
        """Join pieces, and find instruments again if tools of the last image are broken up."""
        if observed is None:
            instruments = self._rejoined(instruments)
            observed = observe(instruments, self._size)
        tracks = self._tracks
        if again is None or tracks is None:
            return instruments, observed
        moved = (tracks.motion.positions - tracks.features.centroids) * self._size[0]
        step, dt_ns = Field(self._size).step, self._now_ns - self._last_ns
        known = self._tools.find_continued(observed.samples, step, tracks.numbers, moved, dt_ns)
        if known is not None:
            with self._tools.forgotten_after_errors():
                observed = observe(instruments := self._rejoined(again(known)), self._size)
        return instruments, observed

    def _match(self, seen: Features) -> NDArray[np.intp]:
        """Match instruments with tracks, start tracks for the others, and return all ids."""
        numbers = np.zeros(len(seen.labels), np.intp)
        tracks = self._tracks
        if tracks is not None and len(tracks.numbers):
            ages_s = (self._now_ns - tracks.began_ns) / 1e9
            recent = self._now_ns - tracks.seen_ns <= self._lost_ns
            costs = _costs(tracks, recent, seen, self._size)
            costs += (_NEW_TRACK_COST / (1 + ages_s))[:, None]
            costs[tracks.seen_ns < self._last_ns] += _LOST_TRACK_COST
            old, new = _assign(costs)
            numbers[new] = tracks.numbers[old]
            found = _take(tracks, old)._replace(
                seen_ns=np.full(len(old), self._now_ns),
                covered_ns=np.zeros(len(old), np.int64),
                is_covered=np.zeros(len(old), bool),
                features=_take(seen, new),
                motion=_take(tracks.motion, old).corrected(seen.centroids[new]),
            )
            lost = np.delete(np.arange(len(tracks.numbers)), old)
            self._tracks = _joined(self._lost(_take(tracks, lost), seen), found)
        fresh = np.flatnonzero(numbers == 0)
        numbers[fresh] = self._last_number + 1 + np.arange(len(fresh))
        self._last_number += len(fresh)
        started = self._started(numbers[fresh], _take(seen, fresh))
        self._tracks = started if self._tracks is None else _joined(self._tracks, started)
        return numbers

    def _lost(self, lost: _Tracks, seen: Features) -> _Tracks:
        """Note which tracks without an instrument are covered, and for how long they were."""
        if not len(lost.numbers):
            return lost
        is_covered = _are_covered(lost, seen, self._size)
        covered_ns = lost.covered_ns + (self._now_ns - self._last_ns) * is_covered
        covered_ns = np.minimum(covered_ns, (COVERED_TIMES - 1) * self._lost_ns)
        return lost._replace(covered_ns=covered_ns, is_covered=is_covered)

    def _started(self, numbers: NDArray[np.intp], seen: Features) -> _Tracks:
        variances = np.tile([_POSITION_SIGMA**2, 0.0, _FIRST_SPEED**2], (len(numbers), 1))
        motion = _Motion(seen.centroids, np.zeros_like(seen.centroids), variances)
        now_ns = np.full(len(numbers), self._now_ns)
        uncovered = np.zeros_like(now_ns), np.zeros(len(numbers), bool)
        return _Tracks(numbers, now_ns, now_ns, *uncovered, seen, motion)

    def _predict(self, dt_s: float) -> None:
        """Predict all tracks; end those lost for too long and, of too many, those lost longest."""
        if self._tracks is None:
            return
        seen_ns = self._tracks.seen_ns
        # Whatever covered a track in the last image is assumed to have covered it until now.
        until_ns = np.where(self._tracks.is_covered, self._last_ns, self._now_ns)
        lost_ns = until_ns - seen_ns - self._tracks.covered_ns
        kept = np.flatnonzero((seen_ns == self._last_ns) | (lost_ns <= self._lost_ns))
        kept = np.sort(kept[np.argsort(-seen_ns[kept], kind='stable')[: 2 * MAX_TRACKED]])
        tracks = _take(self._tracks, kept)
        is_covered = np.zeros(len(kept), bool)
        self._tracks = tracks._replace(motion=tracks.motion.after(dt_s), is_covered=is_covered)


def _costs(
    tracks: _Tracks, recent: NDArray[np.bool_], seen: Features, size: tuple[int, int]
) -> Values:
    """
    Return the (tracks, instruments) matrix of costs; _NO_MATCH if they cannot match.

    A track that is not recent was covered, and continues only where it was last seen: its motion
    since then is unknown. With no other of its class near, it may lie beside its former position,
    since tissue moves.
    """
    known, motion = tracks.features, tracks.motion
    masks = seen.masks.reshape(len(seen.masks), -1).T
    shifts = np.where(recent[:, None], motion.positions - known.centroids, 0)
    moved = _shift_masks(known.masks, shifts, size)
    overlaps = np.maximum(*(x.reshape(len(x), -1) @ masks for x in (known.masks, moved)))
    variances = motion.variances[:, :1] + _POSITION_SIGMA**2
    away = np.hypot(*(motion.positions[:, None] - seen.centroids).transpose(2, 0, 1))
    squares = away**2 / variances
    clear = np.hypot(*known.axes.T)[:, None] * np.hypot(*seen.axes.T)
    costs = (
        np.minimum(squares, _GATE**2) / 2
        + np.log(variances / _POSITION_SIGMA**2) / 2
        + _OVERLAP_COST * (1 - overlaps)
        + _AXIS_COST * (clear - known.axes @ seen.axes.T) / 2
        + _AREA_COST * np.abs(known.areas[:, None] - seen.areas)
    )
    near = recent[:, None] & (squares < _GATE**2) & (away < _MAX_DISTANCE)
    near |= overlaps > _MIN_OVERLAP
    near |= ~recent[:, None] & _are_alone(known, seen)
    allowed = near & (known.labels[:, None] == seen.labels)
    return np.where(allowed, costs, _NO_MATCH)


def _are_alone(known: Features, seen: Features) -> NDArray[np.bool_]:
    """Return (tracks, instruments) whether both are close, and no others of the class are near."""
    away = np.hypot(*(known.centroids[:, None] - seen.centroids).transpose(2, 0, 1))
    near = (known.labels[:, None] == seen.labels) & (away < 2 * _CLOSE)
    alone = (near.sum(axis=0) == 1) & (near.sum(axis=1, keepdims=True) == 1)
    return np.asarray(alone & (away < _CLOSE))


def _are_covered(tracks: _Tracks, seen: Features, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (n,) whether instruments are where each track was last seen, or is predicted."""
    filled = (seen.masks / seen.masks.max(axis=(1, 2), keepdims=True)).sum(axis=0).clip(max=1)
    known = tracks.features.masks
    moved = _shift_masks(known, tracks.motion.positions - tracks.features.centroids, size)
    both = np.stack([known, moved])
    shares = (both * filled).sum(axis=(2, 3)) / np.maximum(both.sum(axis=(2, 3)), 1e-9)
    return np.asarray(shares.max(axis=0) >= _COVERED_SHARE)


def _shift_masks(masks: Values, shifts: Values, size: tuple[int, int]) -> Values:
    """Shift coarse masks by whole cells; cells that leave the image are dropped."""
    side = cell_side_px(size)
    steps = np.rint(shifts * size[0] / side).astype(np.intp)
    moved = masks.copy()
    for index in np.flatnonzero(steps.any(axis=1)).tolist():
        right, down = steps[index].tolist()
        moved[index] = 0
        target = moved[index, max(0, down) :, max(0, right) :]
        source = masks[index, max(0, -down) :, max(0, -right) :]
        rows, columns = (min(a, b) for a, b in zip(target.shape, source.shape))
        target[:rows, :columns] = source[:rows, :columns]
    return moved


def _assign(costs: Values) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the assignment with the smallest total cost."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    fits = costs[rows, columns] < _NO_MATCH
    return rows[fits], columns[fits]

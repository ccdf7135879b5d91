# SPDX-License-Identifier: Apache-2.0
"""
Scores instruments against the ground truth: detections, keypoints and tracks.

An instrument of the truth matches a prediction of its class whose mask has an IoU above MATCH_IOU;
since the masks of a frame are disjoint, there is at most one. Instruments smaller than the minimum
area are not scored, and neither are predictions that match them. Frames are counted separately;
the scores are computed from the sums.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA, TIMES_OF_TOOL
from surgseg_ros.core.instrument_files import ListedInstrument
from surgseg_ros.core.keypoints import Keypoint, KeypointKind
from surgseg_ros.core.labels import LABELS, ROBOTIC_TOOL
from surgseg_ros.evaluation.instrument_folders import InstrumentFrame, read_frame
from surgseg_ros.evaluation.pairs import EvaluationError, Pair, map_tasks
from surgseg_ros.evaluation.tracks import MATCH_IOU, TrackFrame, count_tracks, summarize_tracks

FULL_HEIGHT: Final = 1080
"""Errors are scaled to the pixels of an image with this number of rows."""

TOUCH_PX: Final = 2
"""Robotic tools touch if pixels of two are within this distance, in rows and in columns."""

_NEEDLE_ENDS: Final = (KeypointKind.NEEDLE_POINT, KeypointKind.NEEDLE_TAIL)
_JAW_TIPS: Final = (KeypointKind.LEFT_JAW_TIP, KeypointKind.RIGHT_JAW_TIP)


class PointError(NamedTuple):
    """
    The error of a keypoint in x and y, and its predicted standard deviation.

    All are in pixels of an image of FULL_HEIGHT rows.
    """

    kind: KeypointKind
    x_px: float
    y_px: float
    sigma_px: float

    @property
    def distance_px(self) -> float:
        """Distance from the true position."""
        return math.hypot(self.x_px, self.y_px)


class TipError(NamedTuple):
    """The error of a 3-D tip in x, y and z, and predicted standard deviations, None if unknown."""

    x_mm: float
    y_mm: float
    z_mm: float
    sigma_m: tuple[float, float, float] | None


@dataclass(frozen=True)
class InstrumentCounts:
    """
    The counts of a frame, to which the counts of other frames can be added.

    :param tracks: ids and IoU.
    :param truth_labels: (T,) labels of the instruments of the truth.
    :param predicted_labels: (P,) labels of the predicted instruments.
    :param is_touching: whether robotic tools of the truth touch.
    :param points: errors of keypoints that are visible in both truth and prediction.
    :param missed: keypoints that are visible in the truth but not predicted, by kind.
    :param invented: keypoints that are predicted but not visible in the truth, by kind.
    :param axis_deg: errors of axes.
    :param opening_deg: errors of the angles between jaws.
    :param tip_errors: errors of 3-D tips.
    """

    tracks: TrackFrame
    truth_labels: Sequence[int]
    predicted_labels: Sequence[int]
    is_touching: bool = False
    points: list[PointError] = field(default_factory=list)
    missed: Counter[KeypointKind] = field(default_factory=Counter)
    invented: Counter[KeypointKind] = field(default_factory=Counter)
    axis_deg: list[float] = field(default_factory=list)
    opening_deg: list[float] = field(default_factory=list)
    tip_errors: list[TipError] = field(default_factory=list)

    @property
    def matches(self) -> list[tuple[int, int]]:
        """Indices of matched instruments of the truth and of the prediction."""
        return [(int(i), int(j)) for i, j in np.argwhere(self.tracks.iou > MATCH_IOU)]


def count_instruments(truth: InstrumentFrame, predicted: InstrumentFrame) -> InstrumentCounts:
    """
    Match and count the instruments of a frame.

    :param truth: instruments of the truth.
    :param predicted: predicted instruments.
    :return: the counts.
    :raises ValueError: if the sizes differ.
    """
    if truth.instances.shape != predicted.instances.shape:
        raise ValueError(
            f'the truth has {truth.instances.shape[::-1]} columns and rows, the prediction '
            f'{predicted.instances.shape[::-1]}: both must have the same size'
        )
    iou, tiny = _overlaps(truth, predicted)
    rows: list[int] = np.flatnonzero(~tiny).tolist()
    columns: list[int] = np.flatnonzero(~(iou[tiny] > MATCH_IOU).any(0)).tolist()
    true_ones, found_ones = [truth.listed[i] for i in rows], [predicted.listed[i] for i in columns]
    counts = InstrumentCounts(
        TrackFrame(
            [instrument.track_id or -instrument.number for instrument in true_ones],
            [instrument.track_id or -instrument.number for instrument in found_ones],
            iou[np.ix_(rows, columns)],
        ),
        [instrument.label for instrument in true_ones],
        [instrument.label for instrument in found_ones],
        find_touch(truth),
    )
    scale = FULL_HEIGHT / truth.instances.shape[0]
    for index, other in counts.matches:
        _compare(true_ones[index], found_ones[other], scale, counts)
    return counts


def _overlaps(
    truth: InstrumentFrame, predicted: InstrumentFrame
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (T, P) IoU, 0 if classes differ, and (T,) which truths are too small to score."""
    codes = truth.instances.astype(np.uint16) << 8 | predicted.instances
    shared = np.bincount(codes.ravel(), minlength=1 << 16).reshape(256, 256)
    numbers = [[listed.number for listed in side.listed] for side in (truth, predicted)]
    labels = [np.array([x.label for x in side.listed], int) for side in (truth, predicted)]
    area, other_area = shared.sum(1)[numbers[0]], shared.sum(0)[numbers[1]]
    both = shared[np.ix_(*numbers)] * (labels[0][:, None] == labels[1])
    iou = both / np.maximum(area[:, None] + other_area - both, 1)
    times = np.where(labels[0] == ROBOTIC_TOOL, TIMES_OF_TOOL, 1)
    return iou, area < np.maximum(1, times * DEFAULT_LEAST_AREA * truth.instances.size)


def find_touch(frame: InstrumentFrame) -> bool:
    """
    Return whether robotic tools of a frame touch or cross.

    :param frame: instruments of the frame.
    :return: whether pixels of two of them are within TOUCH_PX of each other.
    """
    kept = np.zeros(256, np.uint8)
    for instrument in frame.listed:
        if instrument.label == ROBOTIC_TOOL:
            kept[instrument.number] = instrument.number
    tools = kept[frame.instances]
    near = cv2.dilate(tools, np.ones((2 * TOUCH_PX + 1,) * 2, np.uint8))
    return bool(((tools > 0) & (near != tools)).any())


def _compare(
    truth: ListedInstrument, predicted: ListedInstrument, scale: float, counts: InstrumentCounts
) -> None:
    """Add the errors of a matched instrument."""
    seen: dict[KeypointKind, bool] = {}
    for point, other in _paired(truth, predicted):
        kind = (point or other).kind  # type: ignore[union-attr]
        seen[kind] = _is_seen(point)
        if point and other and kind == KeypointKind.SHAFT_AXIS:
            turn = math.remainder(point.angle_rad - other.angle_rad, 2 * math.pi)
            counts.axis_deg.append(abs(math.degrees(turn)))
        elif point and other and _is_seen(point) and _is_seen(other):
            away = (other.x_px - point.x_px) * scale, (other.y_px - point.y_px) * scale
            counts.points.append(PointError(kind, *away, other.sigma_px * scale))
        counts.missed[kind] += _is_seen(point) and not _is_seen(other)
        counts.invented[kind] += _is_seen(other) and not _is_seen(point)
    opening, found = truth.geometry.opening_deg, predicted.geometry.opening_deg
    if opening is not None and found is not None and all(seen.get(tip) for tip in _JAW_TIPS):
        counts.opening_deg.append(abs(opening - found))
    if truth.tip_m and predicted.tip_m and seen.get(KeypointKind.TIP, True):
        x, y, z = (1000 * (a - b) for a, b in zip(truth.tip_m, predicted.tip_m, strict=True))
        counts.tip_errors.append(TipError(x, y, z, predicted.tip_sigma_m))


def _paired(
    truth: ListedInstrument, predicted: ListedInstrument
) -> Iterator[tuple[Keypoint | None, Keypoint | None]]:
    """Pair the nearest keypoints of each kind; points along a thread are not paired."""
    for kind in KeypointKind:
        if kind == KeypointKind.THREAD_LINE:
            continue
        true_points, found_points = (
            [point for point in instrument.geometry.keypoints if point.kind == kind]
            for instrument in (truth, predicted)
        )
        away = [[math.dist(a.xy_px, b.xy_px) for b in found_points] for a in true_points]
        rows, columns = linear_sum_assignment(
            np.reshape(away, (len(true_points), len(found_points)))
        )
        yield from ((true_points[i], found_points[j]) for i, j in zip(rows, columns))
        yield from ((point, None) for i, point in enumerate(true_points) if i not in rows)
        yield from ((None, point) for j, point in enumerate(found_points) if j not in columns)


def _is_seen(point: Keypoint | None) -> bool:
    return point is not None and not (point.is_hidden or point.is_beyond)


def count_instrument_pairs(
    pairs: Sequence[Pair], workers: int = 1
) -> dict[str, list[InstrumentCounts]]:
    """
    Count the instruments of many frames.

    :param pairs: sorted, of images in `instances/`; without a file, the prediction is empty.
    :param workers: number of processes.
    :return: the counts of each video's frames, in the order of `pairs`.
    :raises ValueError: if files cannot be read, or those of a frame do not match.
    """
    counts: dict[str, list[InstrumentCounts]] = {}
    counted = map_tasks(_count_pair, pairs, workers)
    progress = tqdm(counted, 'scoring', len(pairs), unit='frame', leave=False)
    for pair, frame in zip(pairs, progress, strict=True):
        counts.setdefault(pair.video, []).append(frame)
    return counts


def _count_pair(pair: Pair) -> InstrumentCounts:
    truth = read_frame(pair.truth)
    nothing = InstrumentFrame(np.zeros_like(truth.instances), ())
    try:
        return count_instruments(truth, read_frame(pair.predicted) if pair.predicted else nothing)
    except ValueError as error:
        raise EvaluationError(f'{pair.name}: {error}') from error


def summarize_instruments(videos: Mapping[str, Sequence[InstrumentCounts]]) -> dict[str, Any]:
    """
    Compute the scores over all frames of all videos.

    :param videos: maps the name of a video to the counts of its frames.
    :return: values for a JSON file, None if the denominator is 0: `frames`; what
        `_summarize_detections`, `_summarize_points` and `summarize_tracks` return;
        `error_3d_mm`, see `_summarize_tips`.
    """
    frames = [frame for video in videos.values() for frame in video]
    return {
        'frames': len(frames),
        **_summarize_detections(frames),
        **_summarize_points(frames),
        **summarize_tracks([count_tracks([x.tracks for x in video]) for video in videos.values()]),
        'error_3d_mm': _summarize_tips([tip for frame in frames for tip in frame.tip_errors]),
    }


def _summarize_tips(tips: Sequence[TipError]) -> dict[str, float | int | None]:
    """
    Score the 3-D positions of tips.

    :return: the medians `across` the line of sight and in `depth`; `sigma_coverage`, the share of
        errors in x, y and z within the predicted standard deviation; `count`.
    """
    across = [math.hypot(tip.x_mm, tip.y_mm) for tip in tips]
    depth = [abs(tip.z_mm) for tip in tips]
    within = [
        abs(error) <= 1000 * sigma
        for tip in tips
        if tip.sigma_m
        for error, sigma in zip(tip[:3], tip.sigma_m, strict=True)
    ]
    return {
        'across': float(np.median(across)) if tips else None,
        'depth': float(np.median(depth)) if tips else None,
        'sigma_coverage': float(np.mean(within)) if within else None,
        'count': len(tips),
    }


def _summarize_detections(frames: Sequence[InstrumentCounts]) -> dict[str, Any]:
    """
    Score the detections.

    :return: `touching_frames`, the number of frames in which robotic tools of the truth touch;
        `f1`, of robotic tools, 2 TP / (2 TP + FP + FN), and `f1_touching`, in such frames only;
        `classes`, by name, see `_of_class`; `pq`, the mean of their panoptic quality.
    """
    touching = [frame for frame in frames if frame.is_touching]
    labels = {x for frame in frames for x in (*frame.truth_labels, *frame.predicted_labels)}
    classes = {LABELS[label]: _of_class(frames, label) for label in sorted(labels)}
    qualities = [values['pq'] for values in classes.values()]
    return {
        'touching_frames': len(touching),
        'f1': _of_class(frames, ROBOTIC_TOOL)['f1'],
        'f1_touching': _of_class(touching, ROBOTIC_TOOL)['f1'],
        'classes': classes,
        'pq': float(np.mean(qualities)) if qualities else None,
    }


def _summarize_points(frames: Sequence[InstrumentCounts]) -> dict[str, Any]:
    """
    Score the keypoints of matched instruments.

    :return: errors as `p50` and `p95` (percentiles) and `count`: `tip_px`, `needle_end_px` (point
        and tail), in pixels of FULL_HEIGHT rows; `axis_deg`, `opening_deg` (where both jaw
        tips are seen). `points`, by name of the kind, and `missed` and `invented`, their sums.
        `sigma_coverage`, the share of errors in x and y within the predicted standard
        deviation.
    """
    points = [point for frame in frames for point in frame.points]
    missed, invented = Counter[KeypointKind](), Counter[KeypointKind]()
    for frame in frames:
        missed += frame.missed
        invented += frame.invented
    kinds = sorted({point.kind for point in points} | missed.keys() | invented.keys())
    by_kind = {kind: [point for point in points if point.kind == kind] for kind in kinds}
    return {
        'tip_px': _spread(_distances(points, KeypointKind.TIP)),
        'needle_end_px': _spread(_distances(points, *_NEEDLE_ENDS)),
        'axis_deg': _spread([value for frame in frames for value in frame.axis_deg]),
        'opening_deg': _spread([value for frame in frames for value in frame.opening_deg]),
        'points': {
            kind.name.lower(): {
                **_spread(_distances(of_kind, kind)),
                'sigma_coverage': _coverage(of_kind),
                'missed': missed[kind],
                'invented': invented[kind],
            }
            for kind, of_kind in by_kind.items()
        },
        'missed': missed.total(),
        'invented': invented.total(),
        'sigma_coverage': _coverage(points),
    }


def _distances(points: Sequence[PointError], *kinds: KeypointKind) -> list[float]:
    return [point.distance_px for point in points if point.kind in kinds]


def _of_class(frames: Sequence[InstrumentCounts], label: int) -> dict[str, Any]:
    """
    Score the detections of a class.

    :return: `truth`, `predicted` and `matched`, the numbers of instruments; `f1`; `pq`, the
        panoptic quality (Kirillov et al., CVPR 2019): the sum of the IoU of the matches /
        (TP + FP / 2 + FN / 2).
    """
    ious = [
        frame.tracks.iou[match]
        for frame in frames
        for match in frame.matches
        if frame.truth_labels[match[0]] == label
    ]
    truth = sum(list(frame.truth_labels).count(label) for frame in frames)
    predicted = sum(list(frame.predicted_labels).count(label) for frame in frames)
    both = truth + predicted
    return {
        'truth': truth,
        'predicted': predicted,
        'matched': len(ious),
        'f1': 2 * len(ious) / both if both else None,
        'pq': 2 * float(np.sum(ious)) / both if both else None,
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    p50, p95 = np.percentile(values, (50, 95)).tolist() if values else (None, None)
    return {'p50': p50, 'p95': p95, 'count': len(values)}


def _coverage(points: Sequence[PointError]) -> float | None:
    within = [abs(x) <= p.sigma_px for p in points for x in (p.x_px, p.y_px)]
    return float(np.mean(within)) if within else None

# SPDX-License-Identifier: Apache-2.0
"""The official SAR-RARP50 metric and additional scores, computed from integer counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, CLASPER, CLASS_COUNT, HOLDER, SHAFT, SUCTION, WRIST

SCORED: Final = tuple(range(BACKGROUND + 1, CLASS_COUNT))
"""The nine classes that the metric scores; arrays of nine values are in this order."""

TOLERANCE_PX: Final = 10
"""Largest Euclidean distance at which the surface Dice counts an edge pixel as matched."""

TOOLS: Final = (CLASPER, WRIST, SHAFT, SUCTION, HOLDER)
"""Classes of rigid tools; scores of tools do not distinguish between them."""

NEAR_PX: Final = 3
"""
Largest distance at which a pixel of a thin class counts as found, for images of NEAR_WIDTH_PX
columns; for others, it is scaled.
"""

NEAR_WIDTH_PX: Final = 640

MEANINGS: Final = {
    'floor': 'the score of a prediction of background only',
    'IoU where present': 'the mean over the frames whose truth has the class; not official',
    'pooled IoU': 'over all pixels of all frames; not official',
}
"""Explanations of words in the tables of reports."""

_OTHER: Final = CLASS_COUNT
_CROSS: Final = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

_GROWTH_PX: Final = ((4, 1), (2, 1), (1, 1), (1, 1), (1, 2), (1, 4))
"""Horizontal and vertical steps that form the disk dx² + dy² ≤ TOLERANCE_PX²; see _grow."""


@dataclass(frozen=True)
class FrameCounts:
    """
    The counts from which a frame's scores are computed; they can be added up.

    :param confusion: (10, 11) pixels by class in the truth and class in the prediction; the last
        column counts predicted values that are not a class, such as NO_DECISION.
    :param met_edge_px: (9,) edge pixels, of both masks, within the tolerance of the other's edge.
    :param edge_px: (9,) edge pixels of both masks.
    :param missing: whether there was no prediction, which officially scores 0 in every class.
    """

    confusion: NDArray[np.int64]
    met_edge_px: NDArray[np.int64]
    edge_px: NDArray[np.int64]
    missing: bool = False

    @property
    def intersection_px(self) -> NDArray[np.int64]:
        """(9,) pixels that truth and prediction share."""
        return np.diagonal(self.confusion)[1:]

    @property
    def truth_px(self) -> NDArray[np.int64]:
        """(9,) pixels of the truth."""
        total: NDArray[np.int64] = self.confusion.sum(1)[1:]
        return total

    @property
    def predicted_px(self) -> NDArray[np.int64]:
        """(9,) pixels of the prediction."""
        total: NDArray[np.int64] = self.confusion.sum(0)[1:_OTHER]
        return total

    @property
    def iou(self) -> NDArray[np.float64]:
        """(9,) intersection over union; 1 if the class is in neither mask, 0 if missing."""
        union = self.truth_px + self.predicted_px - self.intersection_px
        return _ratio(self.intersection_px, union) * (not self.missing)

    @property
    def nsd(self) -> NDArray[np.float64]:
        """(9,) normalized surface Dice; 1 if the class is in neither mask, 0 if missing."""
        return _ratio(self.met_edge_px, self.edge_px) * (not self.missing)


def count_frame(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8] | None, *, edges: bool = True
) -> FrameCounts:
    """
    Count the pixels of one frame.

    :param truth: (H, W) uint8 class index.
    :param predicted: (H, W) uint8 class index or NO_DECISION; None if there is none.
    :param edges: whether to count edge pixels for `nsd` too, which takes most of the time.
    :return: the counts; without `edges`, edge counts are 0.
    :raises ValueError: if the sizes differ, or the truth contains a value that is not a class.
    """
    if predicted is not None and truth.shape != predicted.shape:
        raise ValueError(
            f'the truth has {_size(truth)} pixels, the prediction {_size(predicted)}: '
            "both must have the image's own size"
        )
    if truth.max(initial=0) >= CLASS_COUNT:
        raise ValueError(f'the truth holds the value {truth.max()}, expected 0 to 9')
    missing = predicted is None
    if predicted is None:
        predicted = np.zeros_like(truth)
    confusion = _count_pixels(truth, predicted)
    matched, total = np.zeros((2, len(SCORED)), np.int64)
    if edges:
        edge_pair = _Edges(truth), _Edges(predicted)
        for row, label in enumerate(SCORED):
            matched[row], total[row] = _count_edges(*(edge.of(label) for edge in edge_pair))
    return FrameCounts(confusion, matched, total, missing)


def _count_pixels(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count pairs of classes run by run: masks have far fewer runs than pixels."""
    first, second = truth.ravel(), predicted.ravel()
    changes = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    lengths = np.diff(starts, append=first.size)
    codes = first[starts] * np.uint8(_OTHER + 1) + np.minimum(second[starts], np.uint8(_OTHER))
    counts = np.bincount(codes, lengths, CLASS_COUNT * (_OTHER + 1))  # codes are at most 109
    return counts.astype(np.int64).reshape(CLASS_COUNT, _OTHER + 1)


class _Edges:
    """The edge pixels of a mask's regions: those with a 4-neighbour of another value, or none."""

    def __init__(self, mask: NDArray[np.uint8]) -> None:
        edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, _CROSS) != 0
        edge[[0, -1]] = edge[:, [0, -1]] = True
        pixels = np.flatnonzero(edge)
        self._labels = mask.ravel()[pixels]
        self._points = np.stack(np.divmod(pixels, mask.shape[1]))

    def of(self, label: int) -> NDArray[np.int64]:
        """Return the (2, N) rows and columns of the edge pixels of a class."""
        return self._points[:, self._labels == label]


def _count_edges(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[int, int]:
    """Count edge pixels within the tolerance of the other mask's edge, and all edge pixels."""
    total = first.shape[1] + second.shape[1]
    if not first.size or not second.size:
        return 0, total
    both = np.hstack((first, second))
    corner = both.min(1, keepdims=True)
    height, width = (both.max(1, keepdims=True) - corner + 1).ravel()
    matched = 0
    for points, others in ((first, second), (second, first)):
        window = np.zeros((height, width), np.uint8)
        window[tuple(others - corner)] = 1
        matched += int(np.count_nonzero(_grow(window)[tuple(points - corner)]))
    return matched, total


def _grow(points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """
    Dilate by the disk of the tolerance, several times faster than with a kernel of its 317 pixels.

    The disk is a union of rectangles: the wider they are, the lower. A part that is widened later
    takes part only in the remaining vertical steps, and each step is a few pixels.

    :param points: (H, W) uint8, 0 or 1.
    :return: the dilated array, 1 within the tolerance of a 1.
    """
    wide, near = points.copy(), points.copy()
    for across, upward in _GROWTH_PX:
        cv2.dilate(wide, np.ones((1, 2 * across + 1), np.uint8), dst=wide)
        cv2.dilate(near, np.ones((2 * upward + 1, 1), np.uint8), dst=near)
        cv2.bitwise_or(near, wide, dst=near)
    return near


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; 0 / 0 is 1."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def _size(mask: NDArray[np.uint8]) -> str:
    return 'x'.join(str(side) for side in reversed(mask.shape))


def summarize(videos: Mapping[str, Sequence[FrameCounts]]) -> dict[str, Any]:
    """
    Compute the official means from the counts, and additional scores under other names.

    :param videos: counts of frames by name of the video; at least one video, each with a frame.
    :return: `mIoU`, `mNSD`, `score` (official); `floor`, the same three for a prediction of
        nothing but background; `videos`, name to `mIoU`, `mNSD`, `class_mIoU`, `class_mNSD`;
        `pooled_class_IoU`, over all pixels of all frames; `present_class_IoU`, over the frames
        whose truth has the class; `mean_present_class_IoU`, over the classes that occur.
        A class that never occurs has the value None.
    :raises ValueError: if there is no video, or one has no frame.
    """
    if not videos:
        raise ValueError('there are no videos to score')
    if empty := [name for name, frames in videos.items() if not frames]:
        raise ValueError(f'there are no frames to score in {", ".join(empty)}')
    ious = {name: np.stack([frame.iou for frame in frames]) for name, frames in videos.items()}
    nsds = {name: np.stack([frame.nsd for frame in frames]) for name, frames in videos.items()}
    absent = [
        np.mean([frame.truth_px == 0 for frame in frames], dtype=float)
        for frames in videos.values()
    ]
    floor = float(np.mean(absent))
    miou, mnsd = (float(np.mean([v.mean() for v in values.values()])) for values in (ious, nsds))
    return {
        'mIoU': miou,
        'mNSD': mnsd,
        'score': math.sqrt(miou * mnsd),
        'floor': {'mIoU': floor, 'mNSD': floor, 'score': floor},
        'videos': {
            name: {
                'mIoU': float(ious[name].mean()),
                'mNSD': float(nsds[name].mean()),
                'class_mIoU': ious[name].mean(0).tolist(),
                'class_mNSD': nsds[name].mean(0).tolist(),
            }
            for name in videos
        },
        **_unofficial_scores([frame for frames in videos.values() for frame in frames]),
    }


def _unofficial_scores(frames: Sequence[FrameCounts]) -> dict[str, Any]:
    """Compute the scores that are not official."""
    truth = np.stack([frame.truth_px for frame in frames])
    predicted = np.stack([frame.predicted_px for frame in frames])
    shared = np.stack([frame.intersection_px for frame in frames])
    union = (truth + predicted - shared).sum(0)
    present = truth > 0
    seen = np.stack([frame.iou for frame in frames]) * present
    pooled = [float(s / u) if u else None for s, u in zip(shared.sum(0), union, strict=True)]
    in_present = [
        float(total / count) if count else None
        for total, count in zip(seen.sum(0), present.sum(0), strict=True)
    ]
    known = [value for value in in_present if value is not None]
    return {
        'pooled_class_IoU': pooled,
        'present_class_IoU': in_present,
        'mean_present_class_IoU': float(np.mean(known)) if known else None,
    }


def pooled_iou(frames: Sequence[FrameCounts], labels: Sequence[int]) -> float | None:
    """
    Compute the IoU of several classes, merged into one, over all pixels of all frames.

    :param frames: the counts.
    :param labels: the classes.
    :return: the IoU; None if neither truth nor prediction has one of them.
    """
    total = np.sum([frame.confusion for frame in frames], 0)
    shared = total[np.ix_(labels, labels)].sum()
    union = total[labels, :].sum() + total[:, labels].sum() - shared
    return float(shared / union) if union else None


class NearCounts(NamedTuple):
    """
    The counts of a thin class, whose IoU would suffer from a shift of one pixel; they add up.

    :param right_px: predicted pixels that are near a pixel of the truth.
    :param predicted_px: predicted pixels.
    :param found_px: pixels of the truth that are near a predicted one.
    :param truth_px: pixels of the truth.
    """

    right_px: int
    predicted_px: int
    found_px: int
    truth_px: int


def count_near(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NearCounts:
    """
    Count the pixels of a thin class that are near those of the other mask; see NEAR_PX.

    :param truth: (H, W) bool.
    :param predicted: (H, W) bool.
    :return: the counts.
    """
    tolerance_px = NEAR_PX * truth.shape[1] / NEAR_WIDTH_PX
    return NearCounts(
        _count_within(predicted, truth, tolerance_px),
        int(np.count_nonzero(predicted)),
        _count_within(truth, predicted, tolerance_px),
        int(np.count_nonzero(truth)),
    )


def _count_within(first: NDArray[np.bool_], second: NDArray[np.bool_], tolerance_px: float) -> int:
    if not first.any() or not second.any():
        return 0
    away = (~second).astype(np.uint8)
    distance_px = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance_px[first] <= tolerance_px))


def summarize_near(frames: Sequence[NearCounts]) -> dict[str, float | None]:
    """
    Compute the scores of a thin class over all pixels of all frames.

    :param frames: the counts.
    :return: `precision`, None if nothing was predicted; `recall`, None if the class is not in the
        truth; `f1`, None if it is in neither mask.
    """
    right, predicted, found, truth = (sum(column) for column in zip(*frames, strict=True))
    precision = right / predicted if predicted else None
    recall = found / truth if truth else None
    if precision is None and recall is None:
        return {'precision': None, 'recall': None, 'f1': None}
    both = (precision or 0.0, recall or 0.0)
    f1 = 2 * both[0] * both[1] / sum(both) if any(both) else 0.0
    return {'precision': precision, 'recall': recall, 'f1': f1}

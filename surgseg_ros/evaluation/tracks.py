# SPDX-License-Identifier: Apache-2.0
"""
Metrics of tracks: id switches, IDF1 and HOTA, computed from counts of each video.

- Id switches: CLEAR MOT, Bernardin and Stiefelhagen, EURASIP Journal on Image and Video
  Processing, 2008.
- IDF1: Ristani et al., ECCV Workshops, 2016.
- HOTA: Luiten et al., International Journal of Computer Vision, 2021.

Results equal those of TrackEval, the reference implementation of HOTA, except that an IoU of
exactly MATCH_IOU is not a match here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

MATCH_IOU: Final = 0.5
"""An instrument matches a prediction of its class with a greater IoU: there is at most one."""

ALPHAS: Final = np.arange(1, 20) / 20
"""IoU thresholds of HOTA, which is the mean over them."""

_EPSILON: Final = 1e-12


class TrackFrame(NamedTuple):
    """
    The tracks in a frame.

    :param truth: ids of the T instruments of the truth, the same in all frames of a video.
    :param predicted: ids of the P predicted instruments.
    :param iou: (T, P) IoU of their masks; 0 where their classes differ.
    """

    truth: Sequence[int]
    predicted: Sequence[int]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class TrackCounts:
    """
    The counts of videos from which the metrics are computed; they can be added up.

    :param frames: number of frames.
    :param truth: number of instruments of the truth in all frames.
    :param predicted: number of predicted instruments in all frames.
    :param switches: how often an instrument of the truth is matched with another id than before.
    :param id_matched: the largest number of matches, over all frames, of a one-to-one assignment
        of true to predicted tracks.
    :param matched: (19,) matches by threshold in ALPHAS.
    :param associated: (19,) sum of the association scores of all matches, by threshold in ALPHAS.
    """

    frames: int
    truth: int
    predicted: int
    switches: int
    id_matched: int
    matched: NDArray[np.float64]
    associated: NDArray[np.float64]


def count_tracks(frames: Sequence[TrackFrame]) -> TrackCounts:
    """
    Count the tracks of a video.

    :param frames: its frames, in order.
    :return: the counts.
    """
    numbers = [
        {track: index for index, track in enumerate(sorted({i for ids in side for i in ids}))}
        for side in ([frame.truth for frame in frames], [frame.predicted for frame in frames])
    ]
    coded = [
        TrackFrame(
            [numbers[0][track] for track in frame.truth],
            [numbers[1][track] for track in frame.predicted],
            frame.iou,
        )
        for frame in frames
    ]
    size = len(numbers[0]), len(numbers[1])
    totals = [np.zeros(size[0]), np.zeros(size[1])]
    for frame in coded:
        totals[0][frame.truth] += 1
        totals[1][frame.predicted] += 1
    return TrackCounts(
        len(frames),
        int(totals[0].sum()),
        int(totals[1].sum()),
        _count_switches(coded),
        _count_ids(coded, size),
        *_count_associations(coded, totals[0][:, None], totals[1]),
    )


def _count_switches(frames: Sequence[TrackFrame]) -> int:
    """Count changes of the matched id, whether or not the instrument was lost in between."""
    last: dict[int, int] = {}
    switches = 0
    for frame in frames:
        for index, other in zip(*np.nonzero(frame.iou > MATCH_IOU)):
            track, found = frame.truth[index], frame.predicted[other]
            switches += last.get(track, found) != found
            last[track] = found
    return switches


def _count_ids(frames: Sequence[TrackFrame], size: tuple[int, int]) -> int:
    """Return the number of frames in which optimally assigned tracks match (for IDF1)."""
    matches = np.zeros(size)
    for frame in frames:
        matches[np.ix_(frame.truth, frame.predicted)] += frame.iou > MATCH_IOU
    return int(matches[linear_sum_assignment(-matches)].sum())


def _count_associations(
    frames: Sequence[TrackFrame], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Match each frame, and prefer pairs of tracks that overlap in the whole video, as HOTA does.

    :param truth: (T, 1) number of frames of each track.
    :param predicted: (P,) likewise.
    :return: matches, and the sum of their association scores, by threshold in ALPHAS.
    """
    alignment = np.zeros((len(truth), len(predicted)))
    for frame in frames:
        union = frame.iou.sum(0) + frame.iou.sum(1)[:, None] - frame.iou
        alignment[np.ix_(frame.truth, frame.predicted)] += frame.iou / np.maximum(union, _EPSILON)
    alignment /= truth + predicted - alignment
    matches = np.zeros((len(ALPHAS), *alignment.shape))
    for frame in frames:
        score = alignment[np.ix_(frame.truth, frame.predicted)] * frame.iou
        rows, columns = linear_sum_assignment(-score)
        is_match = frame.iou[rows, columns] >= ALPHAS[:, None] - _EPSILON
        tracks = np.take(frame.truth, rows), np.take(frame.predicted, columns)
        matches[:, tracks[0].astype(int), tracks[1].astype(int)] += is_match
    both = truth + predicted - matches
    return matches.sum((1, 2)), (matches * matches / both).sum((1, 2))


def summarize_tracks(videos: Sequence[TrackCounts]) -> dict[str, float | int | None]:
    """
    Compute the metrics over all videos.

    :param videos: the counts of each video.
    :return: `id_switches`, `id_switches_per_1000` frames, `idf1`, `hota`; None where there is
        a denominator of 0.
    """
    frames, truth, predicted, switches, id_matched = (
        sum(getattr(video, key) for video in videos)
        for key in ('frames', 'truth', 'predicted', 'switches', 'id_matched')
    )
    summary: dict[str, float | int | None] = {
        'id_switches': switches,
        'id_switches_per_1000': 1000 * switches / frames if frames else None,
        'idf1': None,
        'hota': None,
    }
    if truth + predicted:
        matched = np.sum([video.matched for video in videos], 0)
        associated = np.sum([video.associated for video in videos], 0)
        detection = matched / (truth + predicted - matched)
        association = associated / np.maximum(matched, 1)
        summary['idf1'] = 2 * id_matched / (truth + predicted)
        summary['hota'] = float(np.sqrt(detection * association).mean())
    return summary

# SPDX-License-Identifier: Apache-2.0
"""
Metrics of tracks: id switches, IDF1 and HOTA; count each video first, divide last.

- Id switches: CLEAR MOT, Bernardin and Stiefelhagen, EURASIP Journal on Image and Video
  Processing, 2008.
- IDF1: Ristani et al., ECCV Workshops, 2016.
- HOTA: Luiten et al., International Journal of Computer Vision, 2021.

Results equal those of TrackEval, the reference implementation of HOTA, but for an IoU of exactly
MATCH_IOU, which is no match here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

MATCH_IOU: Final = 0.5
"""An instrument is found by one of its class whose mask has a greater IoU: at most one does."""

ALPHAS: Final = np.arange(1, 20) / 20
"""The IoU at which HOTA counts a match; it is the mean over these."""

_EPSILON: Final = 1e-12


class TrackFrame(NamedTuple):
    """
    The tracks in a frame.

    :param truth: ids of the T instruments of the truth, the same in all frames of a video.
    :param predicted: ids of the P predicted ones.
    :param iou: (T, P) IoU of their masks; 0 where their classes differ.
    """

    truth: Sequence[int]
    predicted: Sequence[int]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class TrackCounts:
    """
    The counts of videos from which the metrics are computed; only these may be added up.

    :param frames: number of frames.
    :param truth: instruments of the truth over all frames.
    :param predicted: predicted ones.
    :param switches: how often an instrument of the truth is found with another id than before.
    :param id_matched: the most instruments that are found if each track of the truth may be one
        predicted track only, and the reverse.
    :param matched: (19,) matches by ALPHAS.
    :param associated: (19,) sum of the association score of all matches, by ALPHAS.
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
        {track: place for place, track in enumerate(sorted({i for ids in side for i in ids}))}
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
    """Count changes of the id by which an instrument is found, lost or not in between."""
    last: dict[int, int] = {}
    switches = 0
    for frame in frames:
        for place, other in zip(*np.nonzero(frame.iou > MATCH_IOU)):
            track, found = frame.truth[place], frame.predicted[other]
            switches += last.get(track, found) != found
            last[track] = found
    return switches


def _count_ids(frames: Sequence[TrackFrame], size: tuple[int, int]) -> int:
    """Assign tracks to tracks over the whole video, and count the frames in which they match."""
    together = np.zeros(size)
    for frame in frames:
        together[np.ix_(frame.truth, frame.predicted)] += frame.iou > MATCH_IOU
    return int(together[linear_sum_assignment(-together)].sum())


def _count_associations(
    frames: Sequence[TrackFrame], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Match each frame, preferring pairs of tracks that overlap in the whole video.

    :param truth: (T, 1) number of frames of each track.
    :param predicted: (P,) the same.
    :return: matches, and the sum over them of how far both tracks are the same, by ALPHAS.
    """
    alike = np.zeros((len(truth), len(predicted)))
    for frame in frames:
        union = frame.iou.sum(0) + frame.iou.sum(1)[:, None] - frame.iou
        alike[np.ix_(frame.truth, frame.predicted)] += frame.iou / np.maximum(union, _EPSILON)
    alike /= truth + predicted - alike
    together = np.zeros((len(ALPHAS), *alike.shape))
    for frame in frames:
        score = alike[np.ix_(frame.truth, frame.predicted)] * frame.iou
        rows, columns = linear_sum_assignment(-score)
        is_match = frame.iou[rows, columns] >= ALPHAS[:, None] - _EPSILON
        places = np.take(frame.truth, rows), np.take(frame.predicted, columns)
        together[:, places[0].astype(int), places[1].astype(int)] += is_match
    both = truth + predicted - together
    return together.sum((1, 2)), (together * together / both).sum((1, 2))


def summarize_tracks(videos: Sequence[TrackCounts]) -> dict[str, float | int | None]:
    """
    Compute the metrics over all videos.

    :param videos: the counts of each.
    :return: `id_switches`, `id_switches_per_1000` frames, `idf1`, `hota`; None where there is
        nothing to divide by.
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

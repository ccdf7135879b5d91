# SPDX-License-Identifier: Apache-2.0
"""The report for people: one HTML file that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from surgseg_ros.core.files import write_whole
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation import charts
from surgseg_ros.evaluation.flicker import report
from surgseg_ros.evaluation.metrics import SCORED, FrameCounts
from surgseg_ros.evaluation.pairs import Pair
from surgseg_ros.evaluation.panels import draw_panels

FILE_NAME: Final = 'report.html'

_SHOWN: Final = 8
"""So many of the worst frames are drawn."""

MEANINGS: Final = {
    'floor': 'what a prediction of nothing but background scores',
    'IoU where present': 'the mean over the frames whose truth has the class; not official',
    'pooled IoU': 'over all pixels of all frames; not official',
}
"""Of those words in the tables that do not speak for themselves."""

_NAMES: Final = tuple(CLASS_NAMES[label] for label in SCORED)

_NOTES: Final = {
    'classes': (
        'IoU and NSD are the official ones: a class that is in neither mask of a frame scores 1, '
        'and the mean goes over frames, then over videos. The dark tick is the floor.'
    ),
    'confusion': (
        'Of 100 pixels of a class in the truth (row), so many were predicted as each class '
        '(column), over all frames that have a prediction.'
    ),
    'worst': (
        'The lowest official IoU, the worst frame of each video first. The numbers are IoU and '
        'NSD of the classes that are in the truth or in the prediction.'
    ),
}


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    pairs: Sequence[Pair],
    counts: Mapping[str, Sequence[FrameCounts]],
    frames: Path | None = None,
) -> Path:
    """
    Write the report.

    :param folder: where; it is made if need be.
    :param summary: the numbers, from `summarize`.
    :param pairs: the masks, by video.
    :param counts: the counts of `pairs`, in the same order.
    :param frames: folder of videos with images, to show the worst frames' input too.
    :return: the file.
    """
    sections = (
        charts.section('Official score', _scores(summary), _about(pairs, summary)),
        charts.section('Classes', _classes(summary, counts), _NOTES['classes']),
        charts.section('Videos', _videos(summary, counts)),
        charts.section('Confusion', _confusion(counts), _NOTES['confusion']),
        charts.section('Worst frames', _worst(pairs, counts, frames), _NOTES['worst']),
    )
    path = folder / FILE_NAME
    html = charts.page('Segmentation against the truth', ''.join(sections))
    write_whole(path, html.encode())
    return path


def _about(pairs: Sequence[Pair], summary: Mapping[str, Any]) -> str:
    missing = sum(pair.predicted is None for pair in pairs)
    absent = f'; without prediction, scored 0: {missing}' if missing else ''
    floor = f'The floor is {MEANINGS["floor"]}.'
    flicker = report(summary['flicker']).capitalize() if 'flicker' in summary else ''
    return f'{len(pairs)} frames of {len(summary["videos"])} videos{absent}. {floor} {flicker}'


def _scores(summary: Mapping[str, Any]) -> str:
    floor = summary['floor']
    return charts.cards([(key, summary[key], floor[key]) for key in floor])


def _classes(summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]) -> str:
    """Bars for each class, and the same as numbers."""
    videos = summary['videos'].values()
    iou, nsd = (
        np.mean([video[key] for video in videos], 0).tolist()
        for key in ('class_mIoU', 'class_mNSD')
    )
    absent = [np.mean([f.truth_px == 0 for f in of_video], 0) for of_video in counts.values()]
    floor = np.mean(absent, 0).tolist()
    seen = np.sum([f.truth_px > 0 for f in chain.from_iterable(counts.values())], 0).tolist()
    present, pooled = summary['present_class_IoU'], summary['pooled_class_IoU']
    bars = charts.bars(
        _NAMES,
        {'IoU': (iou, floor), 'NSD': (nsd, floor), 'IoU where present': (present, None)},
    )
    head = ('class', 'frames with it', 'IoU', 'NSD', 'floor of both', 'IoU where present',
            'pooled IoU')  # fmt: skip
    rows = zip(_NAMES, seen, iou, nsd, floor, present, pooled, strict=True)
    meanings = '. '.join(f'{word}: {meaning}' for word, meaning in MEANINGS.items())
    return bars + charts.table(head, rows) + charts.explain(f'{meanings}.')


def _videos(summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]) -> str:
    head = ('video', 'frames', 'without prediction', 'mIoU', 'mNSD', 'floor of both')
    rows = []
    for name, values in summary['videos'].items():
        frames = counts[name]
        floor = float(np.mean([frame.truth_px == 0 for frame in frames]))
        missing = sum(frame.missing for frame in frames)
        rows.append((name, len(frames), missing, values['mIoU'], values['mNSD'], floor))
    return charts.table(head, rows)


def _confusion(counts: Mapping[str, Sequence[FrameCounts]]) -> str:
    frames = [frame for frame in chain.from_iterable(counts.values()) if not frame.missing]
    if not frames:
        return '<p>No frame has a prediction.</p>'
    total = np.sum([frame.confusion for frame in frames], 0)
    return charts.matrix(total, CLASS_NAMES, (*CLASS_NAMES, 'no decision'))


def _worst(
    pairs: Sequence[Pair], counts: Mapping[str, Sequence[FrameCounts]], frames: Path | None
) -> str:
    """Draw the worst frames, worst first."""
    figures = []
    counted = list(chain.from_iterable(counts.values()))
    for place in worst_places(counts):
        pair, frame = pairs[place], counted[place]
        title = f'{pair.video} · {pair.truth.stem}'
        values = f'IoU {frame.iou.mean():.3f} · NSD {frame.nsd.mean():.3f}'
        figures.append(charts.figure(title, values, draw_panels(pair, frames), _chips(frame)))
    return ''.join(figures)


def worst_places(counts: Mapping[str, Sequence[FrameCounts]], number: int = _SHOWN) -> list[int]:
    """
    Choose the worst frames: the worst of each video before the second worst of any.

    :param counts: the counts of each video's frames.
    :param number: how many at most.
    :return: their places among all frames, video by video; the lowest IoU first.
    """
    ranked, start = [], 0
    for frames in counts.values():
        values = [(float(f.iou.mean()), float(f.nsd.mean())) for f in frames]
        order = sorted(range(len(frames)), key=values.__getitem__)
        ranked += [(rank, values[place], start + place) for rank, place in enumerate(order)]
        start += len(frames)
    return [place for _, _, place in sorted(sorted(ranked)[:number], key=lambda r: r[1:])]


def _chips(frame: FrameCounts) -> str:
    """Name the classes in a frame with their values, the lowest IoU first."""
    present = np.flatnonzero(frame.truth_px + frame.predicted_px)
    return ''.join(
        charts.chip(
            SCORED[place], f'{_NAMES[place]} {frame.iou[place]:.2f} / {frame.nsd[place]:.2f}'
        )
        for place in sorted(present, key=lambda place: frame.iou[place])
    )

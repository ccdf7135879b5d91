# SPDX-License-Identifier: Apache-2.0
"""The report for people: one HTML file that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.flicker import report
from surgseg_ros.evaluation.metrics import MEANINGS, SCORED, FrameCounts
from surgseg_ros.evaluation.pairs import Pair
from surgseg_ros.evaluation.panels import ShownFrame, draw_panels
from surgseg_ros.reports import FILE_NAME
from surgseg_ros.reports.charts import class_bars
from surgseg_ros.reports.pages import write_page

_SHOWN: Final = 8
"""So many of the worst frames are drawn."""

_NAMES: Final = tuple(CLASS_NAMES[label] for label in SCORED)


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
    floor = summary['floor']
    bars, classes = _classes(summary, counts)
    return write_page(
        folder / FILE_NAME,
        'evaluation.html.j2',
        title='Segmentation against the truth',
        meanings=MEANINGS,
        frames=len(pairs),
        missing=sum(pair.predicted is None for pair in pairs),
        flicker=report(summary['flicker']).capitalize() if 'flicker' in summary else '',
        scores=[(key, summary[key], floor[key]) for key in floor],
        bars=bars,
        classes=classes,
        videos=_videos(summary, counts),
        confusion=_confusion(counts),
        predicted_names=(*CLASS_NAMES, 'no decision'),
        worst=_worst(pairs, counts, frames),
    )


def _classes(
    summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]
) -> tuple[Markup, list[Sequence[object]]]:
    """Make bars for each class, and the rows of a table."""
    videos = summary['videos'].values()
    iou, nsd = (
        np.mean([video[key] for video in videos], 0).tolist()
        for key in ('class_mIoU', 'class_mNSD')
    )
    absent = [np.mean([f.truth_px == 0 for f in of_video], 0) for of_video in counts.values()]
    seen = np.sum([f.truth_px > 0 for f in chain.from_iterable(counts.values())], 0).tolist()
    floor, present = np.mean(absent, 0).tolist(), summary['present_class_IoU']
    bars = {'IoU': (iou, floor), 'NSD': (nsd, floor), 'IoU where present': (present, None)}
    rows = zip(_NAMES, seen, iou, nsd, floor, present, summary['pooled_class_IoU'], strict=True)
    return class_bars(SCORED, bars), list(rows)


def _videos(
    summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]
) -> list[Sequence[object]]:
    floors = {k: float(np.mean([f.truth_px == 0 for f in of])) for k, of in counts.items()}
    missing = {k: sum(f.missing for f in of) for k, of in counts.items()}
    return [
        (name, len(counts[name]), missing[name], values['mIoU'], values['mNSD'], floors[name])
        for name, values in summary['videos'].items()
    ]


def _confusion(
    counts: Mapping[str, Sequence[FrameCounts]],
) -> list[tuple[str, list[float | None]]]:
    """Give the shares of each class's pixels; nothing where no frame has a prediction."""
    frames = [frame for frame in chain.from_iterable(counts.values()) if not frame.missing]
    if not frames:
        return []
    total = np.sum([frame.confusion for frame in frames], 0)
    return [
        (name, (row / row.sum()).tolist() if row.any() else [None] * len(row))
        for name, row in zip(CLASS_NAMES, total, strict=True)
    ]


def _worst(
    pairs: Sequence[Pair], counts: Mapping[str, Sequence[FrameCounts]], frames: Path | None
) -> list[ShownFrame]:
    """Draw the worst frames, worst first."""
    shown = []
    counted = list(chain.from_iterable(counts.values()))
    for place in worst_places(counts):
        pair, frame = pairs[place], counted[place]
        title = f'{pair.video} · {pair.truth.stem}'
        numbers = f'IoU {frame.iou.mean():.3f} · NSD {frame.nsd.mean():.3f}'
        shown.append(ShownFrame(title, numbers, draw_panels(pair, frames), _present(frame)))
    return shown


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


def _present(frame: FrameCounts) -> list[tuple[int, str]]:
    """Name the classes in a frame with their values, the lowest IoU first."""
    present = np.flatnonzero(frame.truth_px + frame.predicted_px)
    return [
        (SCORED[place], f'{_NAMES[place]} {frame.iou[place]:.2f} / {frame.nsd[place]:.2f}')
        for place in sorted(present, key=lambda place: frame.iou[place])
    ]

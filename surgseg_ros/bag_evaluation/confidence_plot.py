# SPDX-License-Identifier: Apache-2.0
"""Confidence against IoU as SVG: whether the network knows when it is wrong."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.series import Series
from surgseg_ros.bag_evaluation.timeline import round_down, text
from surgseg_ros.evaluation import charts

STYLE: Final = """
.cloud { display: block; width: 100%; max-width: 700px; font-size: 13px; }
.cloud text { fill: var(--soft); } .cloud .name { fill: var(--ink); }
.cloud .grid { stroke: var(--line); fill: none; }
"""

Array = NDArray[np.float64]


def calibration(series: Mapping[str, Series]) -> str:
    """
    Say how good the frames are that the network is more or less sure of.

    :param series: name of each bag to its frames.
    :return: HTML: the image and a table.
    """
    confidence, iou, floor = (
        np.concatenate([getattr(s, key) for s in series.values()])
        for key in ('confidence', 'iou', 'floor')
    )
    known = np.flatnonzero(~np.isnan(confidence) & ~np.isnan(iou))
    if not known.size:
        return '<p>No scored frame has a confidence.</p>'
    order = known[np.argsort(confidence[known], kind='stable')]
    groups = [group for group in np.array_split(order, 10) if group.size]
    rows = [
        (f'{confidence[g].min():.3f} to {confidence[g].max():.3f}', len(g),
         float(iou[g].mean()), float(iou[g].min()), float(floor[g].mean()))
        for g in groups
    ]  # fmt: skip
    plot = draw_cloud(confidence[known], iou[known])
    return plot + charts.table(('confidence', 'frames', 'mIoU', 'least IoU', 'floor'), rows)


def draw_cloud(confidence: Array, iou: Array) -> str:
    """
    Draw how many frames have which confidence and which IoU.

    :param confidence: (N,) of the frames.
    :param iou: (N,) of the same.
    :return: SVG.
    """
    edges = np.linspace(round_down(confidence.min()), 1, 61), np.linspace(0, 1, 41)
    counts, *_ = np.histogram2d(confidence, iou, edges)
    left, top, width, height = 60, 12, 560, 260
    cell_x, cell_y = width / 60, height / 40
    drawn = ''
    for tick in np.linspace(0, 1, 5):
        y = top + height * (1 - tick)
        drawn += f'<path class="grid" d="M{left} {y:.1f}h{width}"/>'
        drawn += text(left - 8, y + 4, f'{tick:g}', 'end')
        x, value = left + width * tick, edges[0][0] + (1 - edges[0][0]) * tick
        drawn += text(x, top + height + 20, f'{value:.4g}', 'middle')
    for column, row in zip(*np.nonzero(counts), strict=True):
        share = np.sqrt(counts[column, row] / counts.max())
        drawn += (
            f'<rect x="{left + column * cell_x:.1f}" y="{top + height - (row + 1) * cell_y:.1f}" '
            f'width="{cell_x:.1f}" height="{cell_y:.1f}" fill="#1f5f99" '
            f'fill-opacity="{max(share, 0.15):.2f}"/>'
        )
    drawn += text(left + width, top + height + 38, 'confidence', 'end', 'name')
    drawn += text(left - 8, top + height / 8 + 4, 'IoU', 'end', 'name')
    return f'<svg class="cloud" role="img" viewBox="0 0 700 320">{drawn}</svg>'

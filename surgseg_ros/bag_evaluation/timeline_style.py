# SPDX-License-Identifier: Apache-2.0
"""How the timelines look, and what their colours stand for."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from surgseg_ros.bag_evaluation.series import Series

STYLE: Final = """
.timeline { display: block; width: 100%; min-width: 760px; font-size: 13px; }
.timeline text { fill: var(--soft); } .timeline .name { fill: var(--ink); }
.timeline .grid { stroke: var(--line); } .timeline .edge { fill: none; stroke: var(--line); }
.timeline .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.timeline .iou, .key.iou { stroke: #1f5f99; background: #1f5f99; }
.timeline .nsd, .key.nsd { stroke: #c2570c; background: #c2570c; }
.timeline .sure, .key.sure { stroke: #2c7a4b; background: #2c7a4b; }
.timeline .many { stroke: #5b3a8c; }
.timeline .band { stroke: none; opacity: .22; } .band.iou { fill: #1f5f99; }
.band.sure { fill: #2c7a4b; } .band.many { fill: #5b3a8c; }
.timeline .floor, .key.floor { fill: #e3e8ee; background: #e3e8ee; }
.timeline .lost, .key.lost { fill: #c0232c; background: #c0232c; }
.words .numbers td { overflow-wrap: anywhere; text-align: left; }
.words .numbers th { text-align: left; }
.key { display: inline-block; width: 18px; height: 10px; margin: 0 6px 0 0; border-radius: 2px; }
.keys { margin: 0 0 10px; font-size: 13px; } .keys span { margin-right: 4px; }
.keys span + span { margin-left: 16px; } .keys span .key { margin-left: 0; }
h3 { font-size: 16px; margin: 22px 0 2px; }
"""

KEYS: Final = {
    'iou': ('truth', 'IoU (band: least to greatest)'),
    'nsd': ('truth', 'NSD'),
    'floor': ('truth', 'floor'),
    'sure': ('confidence', 'confidence (band: least to greatest)'),
    'lost': ('lost', 'without a mask of the network, or without a decision'),
}
"""Class of a colour to what must be there for it to be seen, and what it stands for."""


def keys(bags: Iterable[Series]) -> list[tuple[str, str]]:
    """
    Explain the colours that occur.

    :param bags: what is drawn.
    :return: class of a colour, and what it stands for.
    """
    drawn = list(bags)
    occurs = {
        'confidence': any(not np.isnan(series.confidence).all() for series in drawn),
        'truth': any(not np.isnan(series.iou).all() for series in drawn),
        'lost': any(series.lost.any() or np.nansum(series.no_decision) for series in drawn),
    }
    return [(kind, said) for kind, (need, said) in KEYS.items() if occurs[need]]

# SPDX-License-Identifier: Apache-2.0
"""Robotic tools whose parts contradict each other: no tip rather than one at the wrong end."""

import pytest
from drawn_masks import bar, empty, find

from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST

KINDS = KeypointKind


def largest(mask):
    """Return the largest instrument, and its keypoints by kind."""
    found = find(mask)
    index = max(range(len(found)), key=lambda n: found[n].area_px)
    geometry = find_geometries(found, mask)[index]
    return found[index], {point.kind: point for point in geometry.keypoints}


@pytest.mark.parametrize('has_wrist', [False, True])
def test_a_clasper_beside_the_shaft_is_no_jaw(has_wrist):
    mask = bar(empty(), (-20, 130), (300, 130), 30, SHAFT)
    if has_wrist:
        bar(mask, (300, 130), (340, 130), 30, WRIST)
    bar(mask, (120, 108), (160, 108), 20, CLASPER)
    _, points = largest(mask)
    assert KINDS.SHAFT_AXIS in points
    assert not points.keys() & {KINDS.TIP, KINDS.LEFT_JAW_TIP, KINDS.JAW_PIVOT}

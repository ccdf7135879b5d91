# SPDX-License-Identifier: Apache-2.0
"""Standard deviations of keypoints: on exact masks, and on those of a network."""

import numpy as np
import pytest
from drawn_masks import bar, empty, find, tool

from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import CATHETER, CLAMPS, HOLDER, SUCTION, THREAD
from surgseg_ros.core.segmentation import Field
from surgseg_ros.core.tool_geometry import tool_geometry

KINDS = KeypointKind


def deviations(mask, confidence):
    (found,) = find(mask, confidence=confidence)
    (geometry,) = find_geometries([found], mask)
    return {point.kind: point.sigma_px for point in geometry.keypoints}, found


def test_deviations_on_exact_masks_are_those_of_the_geometry_alone():
    mask = tool(empty(), (-20, 130), (300, 130))
    sigmas, found = deviations(mask, 255)
    alone = tool_geometry(found.parts, Field(mask.shape)).keypoints
    assert sigmas == {point.kind: point.sigma_px for point in alone}
    assert sigmas[KINDS.TIP] < 1


SHARES = {
    KINDS.TIP: 0.4,
    KINDS.LEFT_JAW_TIP: 0.5,
    KINDS.RIGHT_JAW_TIP: 0.5,
    KINDS.JAW_PIVOT: 0.25,
    KINDS.WRIST_JOINT: 0.2,
}
"""Deviations fitted to a model's errors, in sides of a square of the pixels that may be wrong."""


@pytest.mark.parametrize('confidence', [252, 230, 153])
def test_deviations_on_masks_of_a_network_follow_the_pixels_expected_to_be_wrong(confidence):
    mask = tool(empty(), (-20, 130), (300, 130))
    sigmas, found = deviations(mask, confidence)
    exact, _ = deviations(mask, 255)
    side = np.sqrt((1 - confidence / 255) * found.area_px)
    for kind, share in SHARES.items():
        assert sigmas[kind] == pytest.approx(np.hypot(exact[kind], share * side))
    for kind in (KINDS.SHAFT_ENTRY, KINDS.LEFT_SHAFT_EDGE):
        assert sigmas[kind] == exact[kind]


@pytest.mark.parametrize(
    ('label', 'kind', 'grows'),
    [
        (THREAD, KINDS.THREAD_END, True),
        (CLAMPS, KINDS.CENTRE, True),
        (CATHETER, KINDS.CENTRE, True),
        (HOLDER, KINDS.TIP, True),
        (SUCTION, KINDS.TIP, False),
    ],
)
def test_deviations_grow_as_the_score_falls(label, kind, grows):
    mask = bar(empty(), (-20, 130), (300, 130), 6, label)
    certain, middling, uncertain = (deviations(mask, x)[0][kind] for x in (255, 204, 153))
    assert (certain < middling < uncertain) if grows else (certain == middling == uncertain)

# SPDX-License-Identifier: Apache-2.0
"""The border where instruments are cut off: of the image, of a roi or of a circle."""

import dataclasses

import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, find, tool

from surgseg_ros.core.detections import find_instruments
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import NO_DECISION, ROBOTIC_TOOL, SHAFT
from surgseg_ros.core.parts import find_parts
from surgseg_ros.core.segmentation import Circle, Field, Roi, Segmentation

CIRCLE = Circle(240, 135, 130)
ROUND = Roi(110, 5, 261, 261, CIRCLE)


@pytest.mark.parametrize(
    ('field', 'gaps'),
    [
        (Field(SIZE), [0, 10, -5, 134]),
        (Field(SIZE, Roi(10, 20, 400, 200)), [-10, 0, -15, 84]),
        (Field(SIZE, ROUND), [-124.6, -115.2, -129.3, 129]),
    ],
)
def test_gaps_are_distances_to_the_nearest_border(field, gaps):
    points = np.array([[0, 50], [10, 50], [-5, 50], [239, 135]], float)
    np.testing.assert_allclose(field.gaps(points), gaps, atol=0.1)


@pytest.mark.parametrize(
    ('roi', 'position'),
    [
        (None, (479, 135)),
        (Roi(10, 20, 400, 200), (409, 135)),
        (ROUND, (370, 135)),
    ],
)
def test_a_ray_is_followed_to_the_border(roi, position):
    probes = Field(SIZE, roi).border_hit(np.array([200.0, 135]), np.array([1.0, 0]))
    np.testing.assert_allclose(probes, position)


def segmented(mask, roi):
    whole = np.where(mask == NO_DECISION, 0, 204).astype(np.uint8)
    return dataclasses.replace(Segmentation(mask, whole), roi=roi)


def test_instruments_in_a_roi_are_those_of_the_cropped_mask():
    view = tool(tool(empty(), (-20, 60), (330, 200)), (-20, 220), (330, 40))
    mask = np.full((SIZE[0] + 60, SIZE[1] + 100), NO_DECISION, np.uint8)
    roi = Roi(70, 40, SIZE[1], SIZE[0])
    roi.view(mask)[:] = view
    alone, inside = find(view), find_instruments(segmented(mask, roi), 0.0)
    assert [i.label for i in inside] == [i.label for i in alone] == [ROBOTIC_TOOL] * 2
    assert [i.area_px for i in inside] == pytest.approx([i.area_px for i in alone], rel=0.02)
    points = [find_geometries(alone, view), find_geometries(inside, mask, roi)]
    for first, second in zip(*points):
        assert [p.kind for p in first.keypoints] == [p.kind for p in second.keypoints]
        for one, other in zip(first.keypoints, second.keypoints):
            assert (other.x_px - 70, other.y_px - 40) == pytest.approx(one[1:3], abs=4)
            assert other.is_hidden == one.is_hidden


def test_tools_that_enter_at_the_edge_of_a_circle_are_separated_and_enter_there():
    mask = tool(tool(empty(), (60, 60), (330, 200)), (60, 220), (330, 40))
    ROUND.view(mask)[ROUND.outside() > 0] = NO_DECISION
    mask[:, :110] = mask[:, 371:] = mask[:5] = mask[266:] = NO_DECISION
    found = find_instruments(segmented(mask, ROUND), 0.0)
    assert [i.label for i in found] == [ROBOTIC_TOOL] * 2
    for geometry in find_geometries(found, mask, ROUND):
        (entry,) = [p for p in geometry.keypoints if p.kind == KeypointKind.SHAFT_ENTRY]
        assert not entry.is_hidden
        assert np.hypot(entry.x_px - 240, entry.y_px - 135) == pytest.approx(130, abs=3)


def test_a_shaft_touches_a_circle_that_is_a_little_too_large_once():
    drawn, mask = bar(empty(), (60, 60), (330, 200), 30, SHAFT), empty()
    ROUND.view(mask)[:] = np.where(ROUND.outside(), NO_DECISION, ROUND.view(drawn))
    larger = dataclasses.replace(ROUND, circle=Circle(240, 135, 131.2))
    (shaft,) = find_parts(mask, (SHAFT,), 1)
    for roi in (ROUND, larger):
        assert len(Field(SIZE, roi).contacts(shaft.points)) == 1


@pytest.mark.parametrize('excess_px', [0, 1.2, 2])
def test_a_jaw_that_ends_at_a_circle_that_is_a_little_too_large_is_cut_off(excess_px):
    drawn, mask = tool(empty(), (60, 60), (420, 180)), empty()
    ROUND.view(mask)[:] = np.where(ROUND.outside(), NO_DECISION, ROUND.view(drawn))
    larger = dataclasses.replace(ROUND, circle=Circle(240, 135, 130 + excess_px))
    (found,) = find_instruments(segmented(mask, larger), 0.0)
    (geometry,) = find_geometries([found], mask, larger)
    ends = KeypointKind.LEFT_JAW_TIP, KeypointKind.RIGHT_JAW_TIP
    assert [p.is_beyond for p in geometry.keypoints if p.kind in ends] == [True, True]

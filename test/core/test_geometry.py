# SPDX-License-Identifier: Apache-2.0
"""Keypoints of instruments: their positions, standard deviations and flags of hidden ones."""

import dataclasses
from collections import defaultdict

import cv2
import numpy as np
import pytest
from drawn_masks import bar, empty, find, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core.curves import LINE_POINTS
from surgseg_ros.core.detections import find_instruments, instance_image, without_decision
from surgseg_ros.core.geometry import MAX_INSTRUMENTS, find_geometries, min_distances
from surgseg_ros.core.keypoints import Geometry, KeypointKind
from surgseg_ros.core.labels import (
    CLAMPS,
    CLASPER,
    KEYPOINT_LABELS,
    NEEDLE,
    NO_DECISION,
    ROBOTIC_TOOL,
    SHAFT,
    SUCTION,
    THREAD,
    WRIST,
)
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.synthetic import Scene

KINDS = KeypointKind


def points_of(mask, label=None):
    """Find the keypoints of the only instrument, or of the only one of a class."""
    found = find(mask)
    (one,) = [i for i in found if label in (None, i.label)]
    geometry = find_geometries(found, mask)[found.index(one)]
    return {point.kind: point for point in geometry.keypoints}, geometry


def test_kinds_of_keypoints_have_the_names_of_the_labels():
    assert {kind.value: kind.name.lower() for kind in KINDS} == {
        number: name for number, name in KEYPOINT_LABELS.items() if number < 60
    }


def test_keypoints_of_a_tool_are_where_it_is_drawn():
    points, geometry = points_of(tool(empty(), (-20, 130), (400, 130)))
    assert points[KINDS.TIP].xy_px == pytest.approx((400, 130), abs=2)
    assert points[KINDS.JAW_PIVOT].xy_px == pytest.approx((316, 130), abs=8)
    assert points[KINDS.WRIST_JOINT].xy_px == pytest.approx((232, 130), abs=5)
    assert points[KINDS.SHAFT_ENTRY].xy_px == pytest.approx((0, 130), abs=1)
    assert points[KINDS.LEFT_SHAFT_EDGE].xy_px == pytest.approx((0, 115), abs=2)
    assert points[KINDS.RIGHT_SHAFT_EDGE].xy_px == pytest.approx((0, 145), abs=2)
    assert points[KINDS.SHAFT_AXIS].angle_rad == pytest.approx(0, abs=0.01)
    assert geometry.shaft_width_px == pytest.approx(30, abs=2)
    assert not any(point.is_hidden or point.is_beyond for point in points.values())


def test_open_jaws_have_two_tips_and_an_angle():
    mask = tool(empty(), (-20, 130), (300, 130))
    mask[mask == CLASPER] = 0
    pivot = np.array([236.0, 130])
    for degrees in (-30, 30):
        away = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        bar(mask, pivot, pivot + 90 * away, 10, CLASPER)
    points, geometry = points_of(mask)
    assert geometry.opening_deg == pytest.approx(60, abs=6)
    left, right = points[KINDS.LEFT_JAW_TIP], points[KINDS.RIGHT_JAW_TIP]
    assert left.xy_px == pytest.approx(pivot + np.array([78, -45]), abs=4)
    assert right.xy_px == pytest.approx(pivot + np.array([78, 45]), abs=4)
    assert points[KINDS.TIP].xy_px == pytest.approx((left.xy_px + right.xy_px) / 2, abs=0.1)


def test_jaws_without_a_wrist_open_about_the_end_of_their_cover():
    pivot = np.array([236.0, 160])
    mask = bar(empty(), (-20, 130), (190, 130), 40, SHAFT)
    for degrees in (-15, 75):
        away = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        bar(mask, pivot, pivot + 60 * away, 10, CLASPER)
    cover = np.array([(190, 110), (236, 149), (245, 160), (236, 171), (190, 150)], np.int32)
    cv2.fillPoly(mask, [cover], SHAFT)
    points, geometry = points_of(mask)
    assert points[KINDS.LEFT_JAW_TIP].xy_px == pytest.approx(pivot + np.array([58, -16]), abs=3)
    assert points[KINDS.RIGHT_JAW_TIP].xy_px == pytest.approx(pivot + np.array([16, 58]), abs=3)
    assert geometry.opening_deg == pytest.approx(90, abs=8)


def test_the_pivot_is_between_wide_jaws_of_which_one_reaches_farther_back():
    mask = bar(empty(), (-20, 130), (200, 130), 60, SHAFT)
    for first, last in ((-70, -5), (5, 125)):
        cv2.ellipse(mask, (260, 130), (80, 80), 0, first, last, CLASPER, -1)
    cv2.circle(mask, (260, 130), 45, WRIST, -1)
    bar(mask, (195, 130), (260, 130), 60, WRIST)
    points, geometry = points_of(mask)
    assert points[KINDS.JAW_PIVOT].xy_px == pytest.approx((268, 140), abs=12)
    assert geometry.opening_deg > 20


def test_a_small_clasper_behind_the_wrist_is_no_jaw():
    plain = tool(empty(), (-20, 130), (300, 130))
    mask = plain.copy()
    wrist = np.argwhere(plain == WRIST)
    row, column = wrist[:, 0].min(), wrist[:, 1].min()
    mask[row - 6 : row + 6, column : column + 16] = CLASPER
    (instrument,) = find(mask)
    assert len(instrument.parts.claspers) == 2
    found, expected = (points_of(x)[0] for x in (mask, plain))
    for kind in (KINDS.TIP, KINDS.JAW_PIVOT):
        assert found[kind].xy_px == pytest.approx(expected[kind].xy_px, abs=6)


def test_tips_of_wide_jaws_are_where_their_edges_meet():
    mask = bar(empty(), (-20, 130), (200, 130), 60, SHAFT)
    expected = {}
    for kind, side in ((KINDS.LEFT_JAW_TIP, -1), (KINDS.RIGHT_JAW_TIP, 1)):
        turn = side * 0.3
        along = np.array([np.cos(turn), np.sin(turn)])
        out = side * np.array([-along[1], along[0]])
        form = ((0, 0), (90, 0), (90, 5), (75, 32), (40, 44), (0, 44))
        positions = [np.array([250, 130]) + x * along + y * out for x, y in form]
        cv2.fillPoly(mask, [np.rint(positions).astype(np.int32)], CLASPER)
        expected[kind] = positions[1]
    bar(mask, (200, 130), (262, 130), 50, WRIST)
    points, _ = points_of(mask)
    for kind, position in expected.items():
        assert points[kind].xy_px == pytest.approx(position, abs=6)


def test_jaws_that_the_border_cuts_off_have_no_visible_tip():
    mask = bar(empty(), (-20, 60), (200, 60), 40, SHAFT)
    bar(mask, (200, 60), (236, 60), 30, WRIST)
    for degrees in (-60, 30):
        away = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        bar(mask, (236, 60), np.array([236, 60]) + 90 * away, 12, CLASPER)
    points, _ = points_of(mask)
    assert points[KINDS.LEFT_JAW_TIP].is_beyond
    assert points[KINDS.TIP].is_hidden
    right = points[KINDS.RIGHT_JAW_TIP]
    assert (right.is_hidden, right.is_beyond) == (False, False)


def test_tips_are_hidden_if_the_wrist_is_divided_between_tools():
    mask = bar(empty(), (-20, 100), (150, 100), 40, SHAFT)
    bar(mask, (500, 141), (330, 141), 40, SHAFT)
    bar(mask, (150, 100), (300, 100), 40, WRIST)
    bar(mask, (330, 141), (250, 141), 40, WRIST)
    bar(mask, (300, 90), (360, 60), 14, CLASPER)
    bar(mask, (250, 150), (190, 180), 14, CLASPER)
    found = find(mask)
    assert len(found) == 2
    for geometry in find_geometries(found, mask):
        (tip,) = (point for point in geometry.keypoints if point.kind == KINDS.TIP)
        assert tip.is_hidden


def test_left_and_right_are_as_seen_along_the_shaft():
    points, _ = points_of(tool(empty(), (500, 130), (200, 130)))
    assert points[KINDS.LEFT_SHAFT_EDGE].y_px > points[KINDS.RIGHT_SHAFT_EDGE].y_px
    assert abs(points[KINDS.SHAFT_AXIS].angle_rad) == pytest.approx(np.pi, abs=0.01)


def test_a_covered_entry_is_hidden():
    mask = tool(empty(), (-20, 130), (400, 130))
    mask[:, :100] = THREAD
    points, _ = points_of(mask, ROBOTIC_TOOL)
    assert points[KINDS.SHAFT_ENTRY].is_hidden
    assert KINDS.LEFT_SHAFT_EDGE not in points


def test_tip_of_a_rod_is_at_the_end_away_from_the_border():
    points, geometry = points_of(bar(empty(), (200, -20), (240, 160), 16, SUCTION))
    assert points[KINDS.TIP].xy_px == pytest.approx((240, 160), abs=3)
    assert geometry.shaft_width_px == pytest.approx(17, abs=1.6)


def test_the_thread_determines_the_tail_of_a_needle():
    mask = empty()
    cv2.ellipse(mask, (240, 130), (60, 60), 0, 0, 170, NEEDLE, 6)
    line = [np.array([(300, 130), (340, 100), (420, 90)], np.int32)]
    cv2.polylines(mask, line, False, THREAD, 3)
    points, geometry = points_of(mask, NEEDLE)
    assert points[KINDS.NEEDLE_TAIL].xy_px == pytest.approx((300, 130), abs=5)
    assert points[KINDS.NEEDLE_POINT].xy_px == pytest.approx((181, 140), abs=5)
    assert points[KINDS.NEEDLE_CENTRE].xy_px == pytest.approx((240, 130), abs=2)
    assert points[KINDS.NEEDLE_THREAD_END].xy_px == pytest.approx((300, 130), abs=5)
    assert geometry.needle_radius_px == pytest.approx(60, abs=2)


def test_a_thread_is_a_line_of_points_in_order():
    mask = empty()
    x = np.linspace(30, 450, 100)
    curve = np.stack([x, 130 + 60 * np.sin(x / 60)], axis=1)
    cv2.polylines(mask, [np.rint(curve).astype(np.int32)], False, THREAD, 4)
    (found,) = find(mask)
    points = find_geometries([found], mask)[0].keypoints
    line = np.array([p.xy_px for p in points if p.kind == KINDS.THREAD_LINE])
    ends = np.array([p.xy_px for p in points if p.kind == KINDS.THREAD_END])
    assert len(line) == LINE_POINTS
    assert (np.diff(line[:, 0]) > 0).all() or (np.diff(line[:, 0]) < 0).all()
    assert sorted(ends[:, 0]) == pytest.approx([30, 450], abs=6)
    gaps = np.hypot(*(line[:, None] - curve[None]).transpose(2, 0, 1)).min(axis=1)
    assert gaps.max() < 4


@pytest.mark.parametrize('shape', ['loop', 'speck', 'full'])
@pytest.mark.parametrize('label', [NEEDLE, THREAD, SUCTION, CLASPER, CLAMPS])
def test_unusual_shapes_cause_no_error(shape, label):
    mask = empty()
    if shape == 'loop':
        cv2.circle(mask, (240, 130), 50, label, 4)
    elif shape == 'speck':
        mask[100, 100] = label
    else:
        mask[:] = label
    for geometry in find_geometries(find(mask), mask):
        for point in geometry.keypoints:
            assert np.isfinite(point[1:5]).all()


def test_no_decision_has_no_keypoints():
    mask = np.full((270, 480), NO_DECISION, np.uint8)
    (unknown,) = without_decision(mask.shape)
    assert find_geometries([unknown], mask)[0].keypoints == ()


ANYWHERE = (KINDS.THREAD_LINE, KINDS.THREAD_END, KINDS.SHAFT_AXIS)
"""Kinds of which there are several, or that may be anywhere on a line."""


def test_keypoints_of_synthetic_scenes_are_accurate_and_their_deviations_calibrated():
    """On ground-truth masks: errors come from the definitions and from occlusion."""
    errors, inside = defaultdict(list), []
    for seed in range(5_000_030, 5_000_060):
        scene = Scene(seed, (270, 480))
        frame = scene.frame(20)
        instruments = scene.truth(20, frame.instances)
        found = find(frame.mask, 4e-4, 255)
        drawn = instance_image(found, frame.mask)
        for number, geometry in enumerate(find_geometries(found, frame.mask), 1):
            owners = np.bincount(frame.instances[drawn == number])
            if owners.max() < 0.8 * owners.sum():
                continue
            true = [t for t in instruments if t.number == owners.argmax()]
            seen = {p.kind: p for t in true for p in t.geometry.keypoints if _is_visible(p)}
            for point in geometry.keypoints:
                if point.kind in seen and point.kind not in ANYWHERE:
                    away = np.abs(point.xy_px - seen[point.kind].xy_px)
                    errors[point.kind].append(np.hypot(*away) * 4)  # scaled to 1080 rows
                    inside += (away <= point.sigma_px).tolist()
    assert np.median(errors[KINDS.TIP]) < 16
    assert np.median(errors[KINDS.SHAFT_ENTRY]) < 6
    assert np.median(errors[KINDS.NEEDLE_POINT]) < 20
    assert 0.5 < np.mean(inside) < 0.85


def _is_visible(point):
    return not (point.is_hidden or point.is_beyond)


def test_a_tip_covered_by_another_tool_is_hidden():
    mask = tool(empty(), (-20, 130), (400, 130))
    bar(mask, (380, -10), (380, 280), 60, SHAFT)
    found = find(mask)
    geometries = [g for i, g in zip(found, find_geometries(found, mask)) if len(i.parts.wrists)]
    tips = {point.kind: point for point in geometries[0].keypoints}
    for kind in (KINDS.TIP, KINDS.LEFT_JAW_TIP, KINDS.RIGHT_JAW_TIP):
        assert tips[kind].is_hidden
        assert tips[kind].score == 0


def test_the_line_of_a_thread_runs_through_all_its_pieces():
    mask = empty()
    for first, last in ((20, 140), (155, 300), (316, 450)):
        cv2.line(mask, (first, 100), (last, 100), THREAD, 3)
    (found,) = find(mask)
    (geometry,) = find_geometries([found], mask)
    line = [point for point in geometry.keypoints if point.kind == KINDS.THREAD_LINE]
    x = [point.x_px for point in line]
    assert sorted(x) in (x, x[::-1])
    assert (min(x), max(x)) == pytest.approx((20, 450), abs=4)


def test_distances_are_to_the_nearest_visible_points():
    mask = tool(tool(empty(), (-20, 60), (200, 60), 24), (500, 70), (280, 70), 24)
    cv2.ellipse(mask, (240, 180), (40, 40), 0, 0, 180, NEEDLE, 6)
    found = find(mask, confidence=255)
    geometries = find_geometries(found, mask)
    distances = min_distances(found, geometries)
    assert distances.tip_to_tip.px == pytest.approx(80.6, abs=3)
    assert {found[n].label for n in distances.tip_to_tip[2:]} == {ROBOTIC_TOOL}
    assert found[distances.needle_to_tip.first].label == NEEDLE
    positions = [p.xy_px for g in geometries for p in g.keypoints if p.kind == KINDS.TIP]
    (point,) = [p.xy_px for g in geometries for p in g.keypoints if p.kind == KINDS.NEEDLE_POINT]
    minimum = min(np.hypot(*(position - point)) for position in positions)
    assert distances.needle_to_tip.px == pytest.approx(minimum)
    assert 0 < distances.needle_to_tip.sigma_px < 20
    hidden = [
        dataclasses.replace(g, keypoints=tuple(p._replace(is_hidden=True) for p in g.keypoints))
        for g in geometries
    ]
    assert min_distances(found, hidden) == (None, None)
    assert min_distances(found[:1], geometries[:1]) == (None, None)


def test_in_noise_only_the_largest_instruments_have_keypoints():
    mask = np.random.default_rng(0).integers(0, 10, (90, 160), dtype=np.uint8)
    found = find(mask)
    geometries = find_geometries(found, mask)
    assert len(found) == len(geometries) > 10 * MAX_INSTRUMENTS
    assert 0 < sum(bool(geometry.keypoints) for geometry in geometries) <= MAX_INSTRUMENTS


def test_tips_of_jaws_shared_by_two_tools_are_estimated():
    mask = bar(empty(), (-20, 130), (120, 130), 40, SHAFT)
    bar(mask, (120, 130), (180, 130), 30, WRIST)
    bar(mask, (500, 150), (360, 150), 40, SHAFT)
    bar(mask, (360, 150), (300, 150), 30, WRIST)
    bar(mask, (180, 132), (300, 148), 14, CLASPER)
    found = find(mask)
    assert [i.label for i in found] == [ROBOTIC_TOOL] * 2
    for geometry in find_geometries(found, mask):
        points = {point.kind: point for point in geometry.keypoints}
        for kind in (KINDS.TIP, KINDS.LEFT_JAW_TIP, KINDS.RIGHT_JAW_TIP):
            assert points[kind].is_hidden
            assert points[kind].sigma_px > 0.3 * geometry.shaft_width_px
        assert not points[KINDS.WRIST_JOINT].is_hidden


def open_tool(row, tip, degrees):
    """Draw a tool from the left border, with jaws that open by an angle."""
    mask = tool(empty(), (-20, row), tip, 24)
    mask[mask == CLASPER] = 0
    away = np.subtract(tip, (-20, row))
    pivot, heading = np.array(tip) - 0.2 * away, np.degrees(np.arctan2(away[1], away[0]))
    for side in (-0.5, 0.5):
        out = np.radians(heading + side * degrees)
        bar(mask, pivot, pivot + 60 * np.array([np.cos(out), np.sin(out)]), 9, CLASPER)
    return mask


OPEN_TOOLS = given(
    row=st.integers(90, 170),
    tip=st.tuples(st.integers(220, 330), st.integers(100, 160)),
    degrees=st.integers(20, 80),
)
MIRRORED = {KINDS.LEFT_JAW_TIP: KINDS.RIGHT_JAW_TIP, KINDS.LEFT_SHAFT_EDGE: KINDS.RIGHT_SHAFT_EDGE}
MIRRORED |= {right: left for left, right in MIRRORED.items()}


@settings(derandomize=True, max_examples=30, deadline=None)
@OPEN_TOOLS
def test_a_mirrored_mask_has_mirrored_points(row, tip, degrees):
    mask = open_tool(row, tip, degrees)
    points, geometry = points_of(mask)
    for axis, last in ((1, 479), (0, 269)):
        other_points, other = points_of(np.ascontiguousarray(np.flip(mask, axis)))
        assert other.opening_deg == pytest.approx(geometry.opening_deg, abs=2)
        assert {MIRRORED.get(kind, kind) for kind in other_points} == set(points)
        for kind, point in other_points.items():
            position = point.xy_px
            position[1 - axis] = last - position[1 - axis]
            assert position == pytest.approx(points[MIRRORED.get(kind, kind)].xy_px, abs=2), kind


@settings(derandomize=True, max_examples=30, deadline=None)
@OPEN_TOOLS
def test_points_of_a_shifted_mask_are_shifted_and_visible_ones_are_in_the_hull(row, tip, degrees):
    mask = open_tool(row, tip, degrees)
    larger = np.full((mask.shape[0] + 30, mask.shape[1] + 50), NO_DECISION, np.uint8)
    roi = Roi(40, 20, mask.shape[1], mask.shape[0])
    roi.view(larger)[:] = mask
    segmented = Segmentation(larger, np.full(larger.shape, 204, np.uint8), roi=roi)
    (shifted,) = find_geometries(find_instruments(segmented, 0.0), larger, roi)
    points, _ = points_of(mask)
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.float32))
    for point in shifted.keypoints:
        assert point.xy_px - (40, 20) == pytest.approx(points[point.kind].xy_px, abs=1.5)
        if not (point.is_hidden or point.is_beyond):
            x, y = (point.xy_px - (40, 20)).tolist()
            assert cv2.pointPolygonTest(hull, (x, y), True) > -2, point


def test_errors_name_the_remedy() -> None:
    request = r'use those of a result of segment\(image, instruments=True\)'
    with pytest.raises(TypeError, match=request):
        find_geometries(None, np.zeros((4, 4), np.uint8))
    with pytest.raises(TypeError, match=request):
        min_distances(None, [])
    with pytest.raises(TypeError, match='expected what find_geometries returns'):
        min_distances([], None)
    with pytest.raises(ValueError, match='there are 1 geometries of 0 instruments'):
        min_distances([], [Geometry()])

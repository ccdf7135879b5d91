# SPDX-License-Identifier: Apache-2.0
"""Instruments that touch are separated, and pieces of one instrument are joined."""

import math

import cv2
import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, find, tool, tools_of
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core.detections import instance_image
from surgseg_ros.core.labels import (
    CATHETER,
    CLAMPS,
    CLASPER,
    HOLDER,
    NEEDLE,
    NO_DECISION,
    ROBOTIC_TOOL,
    SHAFT,
    SUCTION,
    THREAD,
    WRIST,
)
from surgseg_ros.core.robotic_tools import group_tools
from surgseg_ros.core.segmentation import Field
from surgseg_ros.synthetic import Scene


def test_crossing_tools_are_two_with_their_own_wrists_and_claspers():
    mask = tool(tool(empty(), (-20, 60), (330, 200)), (-20, 220), (330, 40))
    first, second = tools_of(mask)
    assert first.area_px + second.area_px == np.count_nonzero(mask)
    assert 0.6 < first.area_px / second.area_px < 1.7
    for one in (first, second):
        assert {part.label for part in one.parts.parts} == {SHAFT, WRIST, CLASPER}


def test_a_tip_that_touches_another_shaft_stays_with_its_tool():
    mask = tool(empty(), (-20, 60), (450, 60), 36)
    tool(mask, (200, 300), (200, 80), 30)
    sizes = sorted(i.area_px for i in tools_of(mask))
    alone = np.count_nonzero(tool(empty(), (200, 300), (200, 80), 30))
    assert len(sizes) == 2
    assert sizes[0] == pytest.approx(alone, rel=0.05)


def test_a_partly_covered_shaft_is_one_and_so_is_its_wrist():
    mask = tool(empty(), (-20, 130), (400, 140))
    bar(mask, (120, 0), (120, 269), 20, THREAD)
    bar(mask, (300, 0), (240, 269), 12, NEEDLE)
    assert len(tools_of(mask)) == 1


def test_a_curved_occluder_does_not_split_a_shaft():
    mask = bar(empty(), (-20, 60), (200, 80), 40, SHAFT)
    bar(mask, (195, 80), (300, 160), 38, SHAFT)
    assert len(tools_of(mask)) == 1


def test_shafts_from_opposite_sides_are_two_even_if_aligned():
    mask = bar(empty(), (-20, 130), (200, 130), 30, SHAFT)
    bar(mask, (500, 132), (290, 132), 30, SHAFT)
    bar(mask, (200, 130), (235, 130), 24, WRIST)
    bar(mask, (290, 132), (250, 132), 24, WRIST)
    assert len(tools_of(mask)) == 2


def test_shafts_that_come_from_opposite_sides_and_touch_are_two():
    mask = bar(empty(), (-20, 120), (250, 140), 40, SHAFT)
    bar(mask, (500, 120), (230, 142), 30, SHAFT)
    bar(mask, (250, 140), (290, 143), 26, WRIST)
    first, second = tools_of(mask)
    assert 0.5 < first.area_px / second.area_px < 2.6
    straight = bar(empty(), (-20, 120), (500, 140), 40, SHAFT)
    assert len(tools_of(straight)) == 1


def test_a_shaft_that_touches_another_before_the_border_is_separate():
    mask = bar(empty(), (-20, 220), (300, 60), 40, SHAFT)
    bar(mask, (400, 250), (180, 120), 30, SHAFT)
    first, second = tools_of(mask)
    assert 0.4 < first.area_px / second.area_px < 2.5


def test_opposite_shafts_are_two_if_one_is_partly_covered():
    mask = bar(empty(), (-20, 130), (180, 130), 30, SHAFT)
    bar(mask, (500, 130), (290, 130), 30, SHAFT)
    bar(mask, (180, 130), (215, 130), 24, WRIST)
    bar(mask, (215, 130), (288, 130), 12, CLASPER)
    bar(mask, (80, 0), (80, 269), 20, THREAD)
    assert len(tools_of(mask)) == 2


def test_a_piece_of_a_shaft_beside_its_occluder_belongs_to_it():
    mask = bar(empty(), (-20, 130), (400, 130), 60, SHAFT)
    cv2.ellipse(mask, (200, 110), (30, 26), 0, 0, 360, NEEDLE, 5)
    assert len(tools_of(mask)) == 1


@pytest.mark.parametrize('turned', [False, True])
def test_a_shaft_that_ends_before_the_border_points_to_its_wrist(turned):
    mask = tool(empty(), (90, 200), (330, 100), 40)
    mask = np.ascontiguousarray(mask[::-1, ::-1] if turned else mask)
    (found,) = tools_of(mask)
    direction = found.parts.shafts[0].strip.direction
    assert direction @ np.array([240, -100]) * (-1 if turned else 1) > 0
    assert found.parts.wrists


def test_a_jaw_goes_to_the_tool_that_it_touches_and_not_to_a_wrist_beside_it():
    mask = tool(empty(), (-20, 60), (300, 60), 40)
    tool(mask, (500, 200), (180, 118), 40)
    alone = np.count_nonzero(tool(empty(), (-20, 60), (300, 60), 40))
    assert sorted(abs(i.area_px - alone) for i in tools_of(mask))[0] < 0.02 * alone


def test_a_jaw_in_pieces_belongs_to_its_tool():
    mask = bar(empty(), (-20, 130), (60, 130), 30, WRIST)
    bar(mask, (60, 122), (300, 90), 12, CLASPER)
    bar(mask, (60, 138), (300, 170), 12, CLASPER)
    bar(mask, (200, 0), (240, 269), 8, THREAD)
    assert len(tools_of(mask)) == 1


def test_two_jaws_with_a_hidden_wrist_are_one_tool():
    mask = bar(empty(), (480, 170), (400, 130), 10, CLASPER)
    bar(mask, (480, 205), (400, 225), 10, CLASPER)
    assert len(tools_of(mask)) == 1


@pytest.mark.parametrize('joined', [False, True])
def test_the_visible_part_of_a_fork_around_a_wrist_is_not_a_separate_tool(joined):
    mask = bar(empty(), (-20, 130), (120, 130), 110, WRIST)
    bar(mask, (-20, 75), (10, 75), 12, SHAFT)
    bar(mask, (-20, 185), (16, 185), 16, SHAFT)
    if joined:
        bar(mask, (3, 70), (3, 190), 7, SHAFT)
    assert len(tools_of(mask)) == 1


def test_long_ears_of_a_fork_that_enter_separately_are_one_tool():
    mask = bar(empty(), (-20, 130), (150, 130), 70, WRIST)
    bar(mask, (-20, 75), (120, 75), 40, SHAFT)
    bar(mask, (-20, 185), (120, 185), 40, SHAFT)
    assert len(tools_of(mask)) == 1


def test_shafts_that_are_not_parallel_are_no_ears_of_a_wrist_between_them():
    mask = bar(empty(), (470, 300), (300, 150), 50, SHAFT)
    bar(mask, (100, 295), (310, 250), 30, SHAFT)
    cv2.circle(mask, (335, 250), 26, WRIST, -1)
    assert len(tools_of(mask)) == 2


def test_a_clasper_behind_tissue_is_a_separate_tool():
    mask = tool(empty(), (-20, 130), (200, 140))
    bar(mask, (400, 200), (440, 269), 16, CLASPER)
    assert len(tools_of(mask)) == 2


def test_a_rod_partly_covered_by_a_shaft_is_one_and_two_rods_are_two():
    mask = bar(empty(), (100, -10), (100, 250), 14, SUCTION)
    bar(mask, (-10, 120), (300, 120), 40, SHAFT)
    assert [i.label for i in find(mask)] == [SUCTION, ROBOTIC_TOOL]
    bar(mask, (400, -10), (300, 100), 14, SUCTION)
    assert [i.label for i in find(mask)] == [SUCTION, SUCTION, ROBOTIC_TOOL]


def test_a_thin_rod_under_a_wide_tool_is_one():
    mask = bar(empty(), (100, -10), (260, 230), 10, SUCTION)
    bar(mask, (-10, 120), (490, 120), 70, SHAFT)
    assert [i.label for i in find(mask)] == [SUCTION, ROBOTIC_TOOL]
    mask[mask == SHAFT] = 0
    assert [i.label for i in find(mask)] == [SUCTION, SUCTION]


def test_a_catheter_under_a_tool_is_one_and_two_beside_it_are_two():
    mask = empty()
    cv2.ellipse(mask, (240, 130), (120, 80), 0, 0, 180, CATHETER, 20)
    bar(mask, (240, -10), (240, 280), 50, SHAFT)
    assert [i.label for i in find(mask)] == [CATHETER, ROBOTIC_TOOL]
    mask[mask == SHAFT] = 0
    assert [i.label for i in find(mask)] == [CATHETER, CATHETER]


def test_a_thread_that_runs_through_tissue_or_under_a_tool_is_one():
    mask = empty()
    line = np.stack([np.linspace(20, 460, 90), 60 + 10 * np.sin(np.linspace(0, 3, 90))], axis=1)
    cv2.polylines(mask, [np.rint(line).astype(np.int32)], False, THREAD, 4)
    mask[:, 150:168] = 0
    bar(mask, (320, -10), (320, 200), 80, SHAFT)
    assert [i.label for i in find(mask)].count(THREAD) == 1


def test_a_sliver_of_a_shaft_between_occluders_belongs_to_it():
    mask = bar(empty(), (-20, 130), (200, 130), 40, SHAFT)
    bar(mask, (230, 138), (260, 138), 10, SHAFT)
    assert len(tools_of(mask)) == 2  # nothing covers the gap
    bar(mask, (215, 0), (215, 269), 28, SUCTION)
    assert len(tools_of(mask)) == 1


def test_a_slanted_piece_of_a_shaft_behind_an_occluder_is_another_tool():
    mask = bar(empty(), (-20, 130), (165, 130), 80, SHAFT)
    bar(mask, (200, 0), (200, 269), 70, SUCTION)
    bar(mask, (240, 110), (300, 155), 10, SHAFT)
    assert len(tools_of(mask)) == 2


def test_a_shaft_wider_than_long_points_into_the_image():
    mask = bar(empty(), (500, 130), (405, 130), 120, SHAFT)
    strip = tools_of(mask)[0].parts.shafts[0].strip
    assert strip.direction == pytest.approx((-1, 0), abs=0.05)


def test_parallel_shafts_are_two_if_the_wrist_touches_one_of_them():
    mask = bar(empty(), (100, 60), (100, 200), 40, SHAFT)
    bar(mask, (300, 60), (300, 200), 40, SHAFT)
    bar(mask, (120, 100), (230, 100), 30, WRIST)
    assert [len(i.parts.shafts) for i in tools_of(mask)] == [1, 1]


@pytest.mark.parametrize(('start', 'stop'), [((100, 151), (100, 200)), ((212, 130), (260, 130))])
def test_a_wrist_beside_or_near_a_single_shaft_belongs_to_it(start, stop):
    mask = bar(empty(), (-20, 130), (200, 130), 40, SHAFT)
    bar(mask, start, stop, 24, WRIST)
    assert len(tools_of(mask)) == 1


def test_wrists_that_touch_are_divided_along_the_axes_of_their_shafts():
    mask = bar(empty(), (-20, 100), (150, 100), 40, SHAFT)
    bar(mask, (500, 141), (330, 141), 40, SHAFT)
    bar(mask, (150, 100), (300, 100), 40, WRIST)
    own_px = np.count_nonzero(mask[:, :330])
    bar(mask, (330, 141), (250, 141), 40, WRIST)
    first, _ = tools_of(mask)
    assert first.area_px == pytest.approx(own_px, rel=0.05)


def test_a_short_piece_of_a_needle_belongs_to_the_rest_of_it():
    mask = empty()
    cv2.ellipse(mask, (240, 130), (60, 60), 0, 0, 30, NEEDLE, 6)
    cv2.ellipse(mask, (240, 130), (60, 60), 0, 120, 155, NEEDLE, 6)
    assert [i.label for i in find(mask)] == [NEEDLE]
    cv2.ellipse(mask, (60, 60), (40, 40), 0, 0, 120, NEEDLE, 6)
    assert [i.label for i in find(mask)].count(NEEDLE) == 2


@pytest.mark.parametrize('between', [0, NO_DECISION])
def test_distant_pieces_without_an_occluder_are_not_joined(between):
    mask = np.full(SIZE, between, np.uint8)
    cv2.ellipse(mask, (100, 80), (50, 50), 0, 0, 150, NEEDLE, 6)
    cv2.ellipse(mask, (360, 200), (45, 45), 0, 200, 330, NEEDLE, 6)
    bar(mask, (20, 240), (140, 240), 12, SUCTION)
    bar(mask, (320, 240), (460, 240), 12, SUCTION)
    bar(mask, (240, -10), (240, 40), 16, CATHETER)
    bar(mask, (240, 180), (240, 220), 16, CATHETER)
    assert sorted(i.label for i in find(mask)) == [NEEDLE] * 2 + [SUCTION] * 2 + [CATHETER] * 2


def test_in_noise_each_region_is_an_instrument():
    values = np.random.default_rng(1).integers(0, 4, (40, 60), dtype=np.uint8)
    values[values > 1] = 0
    tools = tools_of(np.kron(values, np.ones((6, 6), np.uint8)))
    assert len(tools) > 150
    assert all(tool.parts is None for tool in tools)


def test_specks_of_thread_cost_a_tool_no_parts():
    mask = tool(empty(), (-20, 60), (200, 60))
    for number in range(200):
        row, column = divmod(number, 40)
        bar(mask, (6 + 12 * column, 130 + 24 * row), (8 + 12 * column, 130 + 24 * row), 6, THREAD)
    (found,) = tools_of(mask)
    assert found.parts is not None


def test_a_needle_between_jaws_is_one():
    mask = empty()
    cv2.ellipse(mask, (240, 130), (60, 60), 0, 0, 170, NEEDLE, 6)
    bar(mask, (240, 120), (240, 269), 20, CLASPER)
    assert [i.label for i in find(mask)].count(NEEDLE) == 1


def test_three_pieces_of_a_thread_are_one_and_another_thread_is_separate():
    mask = empty()
    line = np.stack([np.linspace(20, 460, 90), 60 + 25 * np.sin(np.linspace(0, 7, 90))], axis=1)
    cv2.polylines(mask, [np.rint(line).astype(np.int32)], False, THREAD, 4)
    for x in (150, 320):
        bar(mask, (x, -10), (x, 200), 24, SHAFT)
    cv2.line(mask, (40, 240), (400, 250), THREAD, 4)
    assert [i.label for i in find(mask)].count(THREAD) == 2


def test_a_piece_of_a_thread_connects_those_on_both_sides_of_it():
    mask = bar(empty(), (20, 60), (460, 60), 4, THREAD)
    for x in (190, 285):
        bar(mask, (x, -10), (x, 200), 86, SHAFT)
    assert [i.label for i in find(mask)].count(THREAD) == 1


def test_a_long_stitch_is_one_thread():
    mask = bar(empty(), (20, 60), (460, 60), 4, THREAD)
    mask[:, 200:236] = 0
    assert [i.label for i in find(mask)].count(THREAD) == 1


@pytest.mark.parametrize(('end', 'count'), [(104, 1), (92, 2)])
def test_a_loop_of_thread_that_crosses_itself_is_one(end, count):
    """Its upper strand lies over the other one, with a shadow on both sides."""
    mask = bar(empty(), (20, 100), (end, 100), 4, THREAD)
    line = [(108, 180), (108, 40), (180, 40), (180, 100), (113, 100)]
    cv2.polylines(mask, [np.array(line, np.int32)], False, THREAD, 3)
    assert [i.label for i in find(mask)].count(THREAD) == count


@pytest.mark.parametrize(('stop', 'count'), [((328, 209), 1), ((323, 1), 2)])
def test_a_thread_may_turn_across_a_gap_as_an_arc_does(stop, count):
    mask = bar(empty(), (152, 209), (222, 100), 4, THREAD)
    bar(mask, (258, 100), stop, 4, THREAD)
    assert [i.label for i in find(mask)].count(THREAD) == count


@pytest.mark.parametrize('label', [HOLDER, CLAMPS])
def test_a_piece_beside_a_narrow_occluder_belongs_to_the_rest(label):
    mask = bar(empty(), (150, 130), (202, 130), 14, label)
    bar(mask, (202, 144), (240, 148), 8, label)
    bar(mask, (205, 60), (205, 200), 10, NEEDLE)
    assert [i.label for i in find(mask)].count(label) == 1
    mask[mask == NEEDLE] = 0
    assert [i.label for i in find(mask)].count(label) == 2


def test_the_instance_image_numbers_detections_and_keeps_no_decision():
    mask = tool(empty(), (-20, 130), (400, 140))
    cv2.circle(mask, (60, 40), 12, CATHETER, -1)
    mask[200:] = NO_DECISION
    found = find(mask)
    drawn = instance_image(found, mask)
    assert set(np.unique(drawn)) == {0, 1, 2, NO_DECISION}
    np.testing.assert_array_equal(drawn == NO_DECISION, mask == NO_DECISION)
    for number, instrument in enumerate(found, 1):
        assert np.count_nonzero(drawn == number) == instrument.area_px


@pytest.mark.parametrize('value', [SHAFT, CLASPER, NEEDLE, THREAD, SUCTION])
def test_a_class_that_fills_the_image_is_one_instrument(value):
    (found,) = find(np.full(SIZE, value, np.uint8))
    assert found.area_px == SIZE[0] * SIZE[1]


@pytest.mark.parametrize('upside_down', [False, True])
@settings(derandomize=True)
@given(height=st.integers(40, 230), tip=st.tuples(st.integers(120, 330), st.integers(60, 210)))
def test_a_mirrored_mask_gives_mirrored_instruments(height, tip, upside_down):
    mask = tool(empty(), (-20, height), tip, 24)
    tool(mask, (500, 260 - height // 2), (420, 130), 24)
    turned = np.ascontiguousarray(mask[::-1] if upside_down else mask[:, ::-1])
    sizes = [sorted(i.area_px for i in tools_of(either)) for either in (mask, turned)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_tools_of_synthetic_scenes_are_separated():
    """Compare with the ground truth, where tools touch and where they do not."""
    found = wanted = matched = 0
    for seed in range(5_000_000, 5_000_030):
        scene = Scene(seed, SIZE)
        frame = scene.frame(20)
        instruments = scene.truth(20, frame.instances)
        minimum = 4e-4 * frame.mask.size
        true = [frame.instances == t.number for t in instruments if t.label == ROBOTIC_TOOL]
        true = [own for own in true if own.sum() >= minimum]
        seen = find(frame.mask)
        drawn = instance_image(seen, frame.mask)
        numbers = [n for n, i in enumerate(seen, 1) if i.label == ROBOTIC_TOOL]
        ours = [drawn == n for n in numbers if (drawn == n).sum() >= minimum]
        found, wanted = found + len(ours), wanted + len(true)
        matched += sum(any(_iou(a, b) >= 0.5 for b in ours) for a in true)
    assert wanted > 40
    f1 = 2 * matched / (found + wanted)
    assert f1 > 0.85, f1


def _iou(first, second):
    return np.count_nonzero(first & second) / max(1, np.count_nonzero(first | second))


def test_the_directions_of_shafts_point_to_their_tips():
    for angle in np.linspace(0, 2 * math.pi, 12, endpoint=False):
        away = np.array([math.cos(angle), math.sin(angle)])
        mask = tool(empty(), np.array([240, 135]) + 300 * away, np.array([240, 135]) - 100 * away)
        (found,) = group_tools(mask, Field(SIZE)).tools
        assert found.shafts[0].strip.direction @ away < -0.99

# SPDX-License-Identifier: Apache-2.0
"""Parts of robotic tools are given to the tools that they belong to."""

from types import SimpleNamespace

import numpy as np
import pytest
from drawn_masks import bar, empty, find, tool

from surgseg_ros.core import robotic_tools
from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import MIN_SAMPLES, Part, ToolParts
from surgseg_ros.core.segmentation import Field
from surgseg_ros.core.strip_candidates import TissueGrid


@pytest.mark.parametrize(
    ('of_second', 'is_shared'), [(MIN_SAMPLES - 1, False), (MIN_SAMPLES, True)]
)
def test_a_wrist_is_shared_only_if_two_tools_get_some_of_it(monkeypatch, of_second, is_shared):
    points = np.stack([np.arange(40.0), np.zeros(40)]).T
    first, second = tools = [ToolParts([Part(SHAFT, points, 1)], [], []) for _ in range(2)]
    first.width_px = second.width_px = 1.0
    costs = {
        id(first): np.where(np.arange(40) < of_second, 1.0, 0.0),
        id(second): np.full(40, 0.1),
    }
    known = SimpleNamespace(of=lambda _, tool: costs[id(tool)])
    monkeypatch.setattr(
        robotic_tools, 'costs_of', lambda _points, _label, tool, *_: costs[id(tool)]
    )
    mask = np.zeros((1, 40), np.uint8)
    field, tissue = Field(mask.shape), TissueGrid(mask, 1)
    robotic_tools._attach(Part(WRIST, points, 1), tools, known, mask, field, tissue)
    assert [tool.is_shared for tool in tools] == [is_shared] * 2
    assert [len(tool.wrists) for tool in tools] == [1, int(is_shared)]


def test_jaws_from_the_border_on_the_shaft_of_another_tool_are_a_tool():
    mask = tool(empty(), (-20, 60), (400, 60), 40)
    bar(mask, (60, 269), (90, 50), 14, CLASPER)
    bar(mask, (100, 269), (130, 50), 14, CLASPER)
    jaws, other = sorted(find(mask), key=lambda found: found.area_px)
    assert [len(jaws.parts.shafts), len(jaws.parts.claspers)] == [0, 2]
    assert len(other.parts.claspers) == 1


def test_a_wrist_from_the_border_before_the_jaws_of_another_tool_is_a_tool():
    mask = tool(empty(), (-20, 130), (300, 130), 40)
    bar(mask, (479, 130), (250, 130), 60, WRIST)
    assert len(find(mask)) == 2


def test_a_jaw_between_two_wrists_is_uncertain_even_if_one_tool_lacks_jaws():
    mask = bar(bar(empty(), (-20, 130), (150, 130), 40, SHAFT), (150, 130), (200, 130), 30, WRIST)
    bar(bar(mask, (500, 130), (330, 130), 40, SHAFT), (330, 130), (280, 130), 30, WRIST)
    bar(mask, (200, 112), (250, 60), 18, CLASPER)
    assert [found.parts.is_shared for found in find(mask)] == [False, False]
    bar(mask, (200, 134), (280, 134), 12, CLASPER)
    assert [found.parts.is_shared for found in find(mask)] == [True, True]


@pytest.mark.parametrize('width', [10, 12])
def test_a_rod_that_is_taken_for_shaft_and_clasper_is_one_uncertain_tool(width):
    mask = bar(empty(), (-20, 60), (300, 200), 24, SHAFT)
    bar(mask, (-20, 60), (300, 200), width, CLASPER)
    (found,) = find(mask)
    assert found.parts.is_shared
    assert len(found.parts.shafts) == 2


@pytest.mark.parametrize(('gap', 'count'), [(0, 2), (3, 1)])
def test_shafts_that_were_split_are_not_joined_again(gap, count):
    """Those that nearly coincide are one rod if something else lies between them."""
    points = np.stack(np.meshgrid(np.arange(240.0), np.arange(240.0)), axis=-1).reshape(-1, 2)
    across = points @ np.array([-0.6, 0.8])
    shafts = [
        Part(SHAFT, points[(across >= start) & (across < stop)], 1)
        for start, stop in ((0, 30), (30 + gap, 36 + gap))
    ]
    tools = [ToolParts([shaft], [], []) for shaft in shafts]
    assert len(robotic_tools._join_coinciding(tools)) == count


def test_shafts_that_enter_beside_a_wrist_that_does_not_are_two():
    mask = bar(empty(), (-20, 60), (180, 90), 40, SHAFT)
    bar(mask, (-20, 180), (90, 180), 60, SHAFT)
    bar(mask, (80, 150), (230, 140), 90, WRIST)
    assert len(find(mask)) == 2


def test_parallel_shafts_beside_each_other_are_two():
    mask = bar(empty(), (-20, 60), (300, 200), 24, SHAFT)
    bar(mask, (-20, 85), (300, 225), 16, SHAFT)
    assert len(find(mask)) == 2


@pytest.mark.parametrize('gap', [60, 120])
def test_jaws_that_the_border_cuts_off_are_those_of_the_wrist_between_them(gap):
    mask = bar(empty(), (240, 255), (240, 300), 20, WRIST)
    bar(mask, (240 - gap // 4, 300), (240 - gap, 120), 20, CLASPER)
    bar(mask, (240 + gap // 4, 300), (240 + gap, 120), 20, CLASPER)
    (found,) = find(mask)
    assert len(found.parts.claspers) == 2


def test_jaws_that_touch_belong_to_the_wrists_at_their_ends():
    """One jaw reaches over the other one, as far as its wrist."""
    mask = bar(bar(empty(), (-20, 60), (90, 60), 40, SHAFT), (90, 60), (140, 60), 30, WRIST)
    bar(bar(mask, (500, 220), (390, 220), 40, SHAFT), (390, 220), (340, 220), 30, WRIST)
    bar(mask, (140, 60), (320, 150), 18, CLASPER)
    bar(mask, (340, 220), (250, 60), 18, CLASPER)
    first, second = sorted(find(mask), key=lambda found: found.box.center_x_px)
    assert first.parts.claspers[0].points[:, 0].max() > 300
    assert second.parts.claspers[0].points[:, 1].min() < 80
    assert first.parts.is_shared
    assert second.parts.is_shared


def test_a_jaw_belongs_to_the_wrist_that_it_touches_not_to_a_shaft_without_one_before_it():
    mask = bar(empty(), (240, -20), (240, 90), 60, SHAFT)
    bar(mask, (240, 90), (240, 230), 40, CLASPER)
    bar(mask, (240, 230), (240, 300), 40, WRIST)
    jaws = max(find(mask), key=lambda found: found.area_px if found.parts.wrists else 0)
    assert jaws.parts.claspers[0].points[:, 1].max() > 220

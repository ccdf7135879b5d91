# SPDX-License-Identifier: Apache-2.0
"""Robotic tools of the last image are continued where an image alone would change them."""

import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, tool, tools_of
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core import known_tools, robotic_tools, tool_memory
from surgseg_ros.core.known_tools import KnownTools, continue_tools
from surgseg_ros.core.labels import CLASPER, NO_DECISION, ROBOTIC_TOOL, SHAFT, WRIST
from surgseg_ros.core.parts import ToolParts
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.results import Decision, complete
from surgseg_ros.core.segmentation import Field, Segmentation

MS = 10**6
STEP_MS = 40


def beside(y, right=0):
    """Draw a wide shaft, and a narrow one above it that touches it from y = 79."""
    mask = bar(empty(), (-20, 130), (300, 130), 80, SHAFT)
    return bar(mask, (-20, y), (160 + right, y), 24, SHAFT)


def cut(left, mask=None):
    """Draw a shaft of which a strip of tissue separates the end."""
    mask = bar(empty(), (-20, 130), (300, 130), 60, SHAFT) if mask is None else mask
    mask[:, left : left + 8] = 0
    return mask


class Camera:
    """Finds the tools of one image after the other."""

    def __init__(self, **settings):
        self._pipeline = CameraPipeline(PipelineSettings(least_area=0.0, **settings))
        self.now_ms = 1000

    def tools(self, mask, step_ms=STEP_MS, **fields):
        self.now_ms += step_ms
        found = Segmentation(mask, np.full(mask.shape, 204, np.uint8))
        fields = {'stamp_ns': self.now_ms * MS, 'least_area': 0.0, **fields}
        result = self._pipeline.track(complete(Decision(found, **fields)))
        assert not result.warnings
        return [i for i in result.instruments if i.label == ROBOTIC_TOOL]


def approach(camera, images=8):
    """Show two shafts that come closer, until they nearly touch."""
    for number in range(images):
        found = camera.tools(beside(76 - images + number))
        assert [i.track_id for i in found] == [1, 2]


def test_tools_that_an_image_alone_merges_stay_two_with_their_ids():
    camera = Camera()
    approach(camera)
    for y in range(78, 84):
        mask = beside(y)
        assert len(tools_of(mask)) == 1, 'the image alone shows one'
        found = camera.tools(mask)
        assert sorted(i.track_id for i in found) == [1, 2]
        small, large = sorted(i.area_px for i in found)
        assert small == pytest.approx(160 * 24, rel=0.2)
        assert small + large == (mask == SHAFT).sum(), 'each pixel belongs to one of them'


def test_tips_of_tools_that_are_continued_may_belong_to_another_tool():
    camera = Camera()
    approach(camera)
    assert not any(i.parts.is_shared for i in camera.tools(beside(75)))
    assert all(i.parts.is_shared for i in camera.tools(beside(78)))


@pytest.mark.parametrize(('images', 'held'), [(1, 3), (3, 9), (8, 24), (20, 37)])
def test_a_division_lasts_three_times_as_long_as_images_have_shown_it_and_not_for_ever(
    images, held
):
    camera = Camera()
    approach(camera, images)
    counts = [len(camera.tools(beside(78))) for _ in range(50)]
    shown = counts.index(1)
    assert abs(shown - held) <= 1
    assert counts[shown:] == [1] * (50 - shown)


def test_a_tool_that_is_in_two_pieces_now_is_two():
    """The last image may have merged two tools, which would last."""
    camera, whole = Camera(), bar(empty(), (-20, 130), (300, 130), 60, SHAFT)
    for _ in range(5):
        assert len(camera.tools(whole)) == 1
    assert len(camera.tools(cut(240))) == 2


def test_a_tool_that_enters_at_the_border_is_a_new_one():
    camera, whole = Camera(), bar(empty(), (-20, 130), (300, 130), 60, SHAFT)
    for _ in range(5):
        camera.tools(whole)
    mask = bar(cut(240), (270, 290), (270, 110), 60, SHAFT)
    assert len(tools_of(mask)) == 2
    assert sorted(i.track_id for i in camera.tools(mask)) == [1, 2]


def undecided(camera):
    camera.tools(np.full(SIZE, NO_DECISION, np.uint8), code='gate_dark')


@pytest.mark.parametrize(
    ('before', 'fields'),
    [
        (lambda _: None, {'step_ms': 501}),
        (lambda _: None, {'begins': True}),
        (lambda _: None, {'step_ms': -400}),
        (lambda camera: camera._pipeline._tracker.end_tracks(), {}),
        (lambda camera: camera.tools(empty()[:-1]), {}),
        (undecided, {}),
        (lambda camera: camera.tools(empty()), {}),
    ],
    ids=['gap', 'cut', 'back', 'reset', 'size', 'undecided', 'empty'],
)
def test_only_tools_of_the_last_image_of_the_same_view_are_continued(before, fields):
    camera = Camera()
    approach(camera)
    before(camera)
    assert len(camera.tools(beside(78), **fields)) == 1


@pytest.mark.parametrize(('lost_ms', 'count'), [(0, 1), (STEP_MS - 1, 1), (STEP_MS, 2)])
def test_tools_are_continued_within_the_time_for_which_tracks_are_kept(lost_ms, count):
    camera = Camera(track_lost_ms=lost_ms)
    for number in range(8):
        camera.tools(beside(68 + number))
    assert len(camera.tools(beside(78))) == count


@pytest.mark.parametrize('axis', [0, 1])
def test_mirrored_images_have_mirrored_tools(axis):
    camera, mirrored = Camera(), Camera()
    for y in range(70, 84):
        mask = beside(y)
        found = camera.tools(mask)
        others = mirrored.tools(np.ascontiguousarray(np.flip(mask, axis)))
        areas = [sorted(i.area_px for i in each) for each in (found, others)]
        assert areas[0] == areas[1]


def test_an_error_while_tools_are_continued_is_not_repeated(monkeypatch):
    def fail(*_):
        raise ValueError('no room')

    camera = Camera()
    approach(camera)
    with monkeypatch.context() as patch:
        patch.setattr('surgseg_ros.core.robotic_tools.continue_tools', fail)
        with pytest.raises(AssertionError):  # the result has a warning, and no instruments
            camera.tools(beside(79))
        assert len(camera.tools(beside(80))) == 1


def test_many_tools_are_not_continued(monkeypatch):
    camera = Camera()
    approach(camera)
    assert len(camera.tools(beside(78))) == 2
    monkeypatch.setattr('surgseg_ros.core.tool_memory.MAX_TOOLS', 1)
    assert len(camera.tools(beside(79))) == 1


def count_calls(monkeypatch, name):
    """Count the calls of a function with which robotic tools are found."""
    calls, function = [], getattr(robotic_tools, name)

    def counted(*args):
        calls.append(name)
        return function(*args)

    monkeypatch.setattr(robotic_tools, name, counted)
    return calls


def test_what_an_image_alone_shows_is_found_once_if_its_tools_are_continued(monkeypatch):
    camera, calls = Camera(), count_calls(monkeypatch, 'group_tools')
    approach(camera, 8)
    for _ in range(3):
        assert all(i.parts.is_continued for i in camera.tools(beside(78)))
    assert len(calls) == 11


def noise(seed, side):
    """Draw squares of random parts of tools, the same for each seed."""
    labels = np.random.default_rng(seed).choice([0, 0, 0, SHAFT, WRIST, CLASPER], (20, 20))
    return np.kron(labels, np.ones((side, side))).astype(np.uint8)


@pytest.mark.parametrize('side', [40, 60, 80])
def test_one_image_of_noise_after_another_costs_hardly_more_than_each_alone(monkeypatch, side):
    camera, continued = Camera(), 0
    found, again = (count_calls(monkeypatch, x) for x in ('group_tools', 'continue_tools'))
    regrouped = []
    regroup = known_tools._regroup
    monkeypatch.setattr(
        known_tools, '_regroup', lambda *args: regrouped.append(args) or regroup(*args)
    )
    for number in range(40):
        mask = np.roll(noise(number // 8, side), number, axis=1)[: SIZE[0], : SIZE[1]].copy()
        if number % 2:
            mask[:, 200 : 206 + number] = 0
        counts = len(found), len(again), len(regrouped)
        tools = camera.tools(mask)
        assert len(found) - counts[0] <= 1
        assert len(again) - counts[1] <= 1
        assert len(regrouped) - counts[2] <= tool_memory.MAX_TOOLS // 2
        continued += any(i.parts and i.parts.is_continued for i in tools)
    assert continued


def test_more_tools_than_fit_into_the_samples_are_not_continued():
    known = KnownTools(np.ones((68, 120), np.uint8), np.array([0]), np.zeros((1, 2)))
    tools = [ToolParts([], [], []) for _ in range(200)]
    tools[199] = tools_of(tool(empty(), (-20, 130), (300, 130)))[0].parts
    assert continue_tools(tools, tools[199].parts, known, Field(SIZE)) == tools


def test_a_single_image_is_independent_of_others():
    camera = Camera()
    approach(camera)
    assert len(tools_of(beside(78))) == 1
    assert len(Camera().tools(beside(78))) == 1


def test_tools_that_cross_are_found_as_each_image_shows_them():
    """Nothing is continued where the image agrees with the last one."""
    camera = Camera()
    for shift in range(0, 120, 10):
        mask = tool(empty(), (80, 290), (100 + shift, 60))
        found = camera.tools(tool(mask, (400, 290), (380 - shift, 60)))
        assert [i.track_id for i in found] == [1, 2]
        assert not any(i.parts.is_continued for i in found)


bars = st.tuples(
    st.tuples(st.integers(-20, 500), st.integers(-20, 290)),
    st.tuples(st.integers(0, 480), st.integers(0, 270)),
    st.integers(8, 70),
    st.sampled_from((SHAFT, WRIST, CLASPER)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(bars, min_size=1, max_size=7), st.lists(bars, min_size=1, max_size=3))
def test_every_pixel_belongs_to_one_tool(drawn, others):
    camera, mask = Camera(), empty()
    for image in ([*drawn], others, [], drawn[:1]):
        for start, stop, width, label in image:
            bar(mask, start, np.add(stop, 0.5), width, label)
        for _ in range(2):
            found = camera.tools(mask)
            keys = [r * SIZE[1] + c for i in found for r, a, b in pixels(i) for c in range(a, b)]
            assert len(keys) == len(set(keys)) == np.count_nonzero(mask)


def pixels(instrument):
    _, rows, starts, ends = (values.tolist() for values in instrument.runs)
    return zip(rows, starts, ends)

# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from surgseg_ros.core.detections import Instrument, OrientedBox, without_decision
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import NEEDLE, NO_DECISION, PALETTE, ROBOTIC_TOOL
from surgseg_ros.core.overlay import draw_overlay

IMAGE = np.random.default_rng(0).integers(60, 200, (90, 160, 3), dtype=np.uint8)


def test_background_is_unchanged_classes_are_tinted_and_no_decision_is_dim_gray() -> None:
    mask = np.zeros((90, 160), np.uint8)
    mask[:30], mask[60:] = NEEDLE, NO_DECISION
    drawn = draw_overlay(IMAGE, mask)
    assert np.array_equal(drawn[30:60], IMAGE[30:60])
    tinted = np.abs(drawn[:30].astype(int) - PALETTE[NEEDLE])
    assert tinted.sum() < 0.7 * np.abs(IMAGE[:30].astype(int) - PALETTE[NEEDLE]).sum()
    assert np.ptp(drawn[60:], axis=2).max() == 0
    assert drawn[60:].mean() == pytest.approx(IMAGE[60:].mean() / 2, rel=0.1)


def test_inputs_are_not_modified_and_may_be_views() -> None:
    image, mask = IMAGE[::-1, 5:101], np.full((90, 96), NEEDLE, np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    before = image.copy()
    assert np.array_equal(draw_overlay(image, mask), draw_overlay(before, mask.copy()))
    assert np.array_equal(image, before)


def test_box_is_drawn_around_its_instrument() -> None:
    tool = Instrument(ROBOTIC_TOOL, 0.9, OrientedBox(80, 60, 60, 20, 0.0), 1200)
    drawn = draw_overlay(np.zeros_like(IMAGE), np.zeros((90, 160), np.uint8), [tool])
    ink = np.abs(drawn.astype(int) - PALETTE[ROBOTIC_TOOL]).max(2) < 40
    assert ink[60, 50]
    assert ink[70, 80]
    assert not drawn[55:65, 60:100].any()


def test_points_are_drawn_as_dots_and_rings_but_not_outside_the_image() -> None:
    black = np.zeros((180, 320, 3), np.uint8)
    kinds = KeypointKind
    geometry = Geometry(
        (
            Keypoint(kinds.TIP, 40, 50),
            Keypoint(kinds.WRIST_JOINT, 100, 50, is_hidden=True),
            Keypoint(kinds.THREAD_END, -1e9, 1e9, is_beyond=True),
        )
    )
    drawn = draw_overlay(black, np.zeros((180, 320), np.uint8), (), [geometry])
    assert drawn[50, 40].min() == 255
    assert drawn[50, 100].max() < 255
    assert drawn[50, 96:105].max() > 180
    assert drawn[:, 130:].max() == 0


def test_the_axis_of_a_shaft_and_the_arc_of_a_needle_are_drawn() -> None:
    black, kinds = np.zeros((180, 320, 3), np.uint8), KeypointKind
    shaft = [Keypoint(kinds.SHAFT_ENTRY, 0, 20), Keypoint(kinds.SHAFT_AXIS, 200, 20)]
    ends = {kinds.NEEDLE_TAIL: (110, 100), kinds.NEEDLE_MIDDLE: (160, 150)}
    ends |= {kinds.NEEDLE_POINT: (210, 100), kinds.NEEDLE_CENTRE: (160, 100)}
    needle = [Keypoint(kind, *position) for kind, position in ends.items()]
    geometries = [Geometry(tuple(shaft)), Geometry(tuple(needle))]
    drawn = draw_overlay(black, np.zeros((180, 320), np.uint8), (), geometries)
    assert drawn[20, 100].min() > 200
    for angle in np.linspace(0.3, 2.8, 9):
        column, row = 160 + 50 * np.cos(angle), 100 + 50 * np.sin(angle)
        near = drawn[round(row) - 2 : round(row) + 3, round(column) - 2 : round(column) + 3]
        assert near.max() > 200
    assert drawn[60:95, 150:170].max() == 0


def test_the_id_of_a_track_is_in_its_tag() -> None:
    black, mask = np.zeros_like(IMAGE), np.zeros((90, 160), np.uint8)
    tools = [
        Instrument(NEEDLE, 0.9, OrientedBox(80, 60, 60, 20, 0.0), 1200, track_id=number)
        for number in (0, 3, 4, 12)
    ]
    drawn = [draw_overlay(black, mask, [tool]) for tool in tools]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(drawn, 2))


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (500, 3), (90, 160)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    mask = np.full(size, NO_DECISION, np.uint8)
    drawn = draw_overlay(np.zeros((*size, 3), np.uint8), mask, without_decision(size))
    assert drawn.shape == (*size, 3)
    assert drawn.any()


MASK = np.zeros((90, 160), np.uint8)


@pytest.mark.parametrize(
    ('arguments', 'error', 'expected'),
    [
        ((IMAGE, MASK[:80]), ValueError, r'the mask is \(80, 160\) uint8, expected \(90, 160\)'),
        ((IMAGE, MASK.astype(int)), ValueError, r'mask is \(90, 160\) int64, expected .* uint8'),
        ((IMAGE, None), TypeError, 'the mask is of type NoneType'),
        ((IMAGE / 255, MASK), ValueError, 'the image is .* float64, .*scale it'),
        ((MASK, IMAGE), ValueError, r'swap them, draw_overlay\(image, mask\)'),
        ((IMAGE, MASK, None), TypeError, r'segment\(image, instruments=True\)'),
    ],
)
def test_error_for_invalid_arguments_names_the_remedy(arguments, error, expected):
    with pytest.raises(error, match=expected):
        draw_overlay(*arguments)

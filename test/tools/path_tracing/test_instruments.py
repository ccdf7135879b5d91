# SPDX-License-Identifier: Apache-2.0
"""Instruments have the classes of SAR-RARP50, and their random form depends on the seed alone."""

import numpy as np
import pytest

from surgseg_ros.core.labels import CLASPER, HOLDER, SHAFT, SUCTION, WRIST
from tools.path_tracing.assistant_tools import draw_needle_holder, draw_suction_tube
from tools.path_tracing.jaws import HOOK, KINDS, SCISSORS, Surfaces
from tools.path_tracing.materials import flesh, metal, plain, shaft
from tools.path_tracing.robotic_tools import draw_tool
from tools.path_tracing.shapes import Plate

RNG = np.random.default_rng(0)
SURFACES = Surfaces(metal(RNG), plain(RNG, (0.75, 0.72, 0.66)))


def drawn(seed):
    return draw_tool(np.random.default_rng(seed))


TOOLS = [drawn(seed) for seed in range(60)]


def described(part):
    """Return the numbers of a part, for comparisons."""
    surface = {**vars(part.surface)}
    surface.pop('pattern')
    points = part.shape.outline if isinstance(part.shape, Plate) else part.shape.vertices
    return points.tolist(), part.placement.tolist(), part.label, part.mask_only, surface


def test_the_shares_of_instruments_add_up_and_all_occur():
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    assert {tool.kind for tool in TOOLS} == set(KINDS)


def test_an_instrument_has_the_classes_of_a_robotic_tool():
    for tool in TOOLS:
        found = {part.label for part in tool.parts}
        assert found in ({SHAFT, WRIST, CLASPER}, {SHAFT, CLASPER})
        assert WRIST in found or tool.kind == SCISSORS  # whose sheath covers the wrist
    assert any(WRIST not in {part.label for part in tool.parts} for tool in TOOLS)


def test_holes_of_jaws_are_claspers_in_the_mask_only():
    with_holes = set()
    for tool in TOOLS:
        for part in tool.parts:
            if part.mask_only:
                with_holes.add(tool.kind)
                assert part.label == CLASPER
                assert isinstance(part.shape, Plate)
    assert with_holes == {'fenestrated', 'prograsp', 'maryland'}


@pytest.mark.parametrize('kind', KINDS)
def test_a_jaw_has_one_class_and_its_hole_is_filled(kind):
    for seed in range(10):
        jaw = KINDS[kind].make_jaw(np.random.default_rng(seed), SURFACES)
        assert {part.label for part in jaw.parts} == {CLASPER}
        holes = [hole for p in jaw.parts if isinstance(p.shape, Plate) for hole in p.shape.holes]
        filled = [part.shape.outline for part in jaw.parts if part.mask_only]
        assert len(holes) == len(filled)
        for hole, outline in zip(holes, filled):
            assert np.array_equal(hole, outline)
        meshes = [part.shape for part in jaw.parts if not isinstance(part.shape, Plate)]
        x = [mesh.vertices[:, 0].max() for mesh in meshes]
        x += [p.shape.outline[:, 0].max() for p in jaw.parts if isinstance(p.shape, Plate)]
        assert max(x) == pytest.approx(jaw.length, abs=0.1)


@pytest.mark.parametrize('kind', ['fenestrated', 'prograsp'])
def test_bending_a_jaw_does_not_turn_it_inside_out(kind):
    jaw = KINDS[kind].make_jaw(np.random.default_rng(1), SURFACES)
    corners = np.array([(0.0, 0, 0), (0.01, 0, 0), (0, 0.01, 0), (0, 0, 0.01)])
    bent = jaw.parts[0].deformation(corners)
    assert np.linalg.det(bent[1:] - bent[0]) > 0


def test_the_tip_and_the_grip_are_between_the_jaws():
    for tool in TOOLS:
        assert tool.tip[0] > 0
        assert np.linalg.norm(tool.tip - tool.grip[:3, 3]) < 0.8
        assert np.linalg.det(tool.grip[:3, :3]) == pytest.approx(1)
        assert not (tool.is_holding and tool.kind == HOOK)


def test_the_same_seed_makes_the_same_instrument():
    for seed in (3, 4):
        first, second = (list(map(described, drawn(seed).parts)) for _ in range(2))
        assert first == second
    assert list(map(described, drawn(3).parts)) != list(map(described, drawn(4).parts))


def test_instruments_of_the_assistant_have_their_classes_and_end_at_the_origin():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        for parts, label in ((draw_suction_tube(rng), SUCTION), (draw_needle_holder(rng), HOLDER)):
            assert {part.label for part in parts} == {label}
            assert not any(part.mask_only for part in parts)
            assert parts[0].shape.vertices[:, 0].min() < -40


def test_colours_and_levels_are_within_their_range():
    rng = np.random.default_rng(5)
    surfaces = [draw(rng, 0.5) for draw in (metal, shaft) for _ in range(50)]
    surfaces += [flesh(rng, np.array([0.5, 0.2, 0.1])) for _ in range(50)]
    for surface in surfaces:
        assert 0 <= min(surface.colour) <= max(surface.colour) <= 1
        assert 0 <= surface.metallic <= 1
        assert 0 < surface.roughness < 1


def test_only_shafts_have_an_image():
    rng = np.random.default_rng(6)
    assert metal(rng).pattern is None
    assert shaft(rng, 0.5).pattern.shape == (192, 1024)
    assert (metal(rng, 0.0).smear, metal(rng, 0.5).smear is None) == (None, False)

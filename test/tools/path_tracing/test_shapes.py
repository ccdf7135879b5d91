# SPDX-License-Identifier: Apache-2.0
"""Meshes are closed, and their faces refer to vertices and face outwards."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tools.path_tracing.materials import Surface
from tools.path_tracing.shapes import (
    UPRIGHT,
    Part,
    Plate,
    dense,
    disk,
    ellipse,
    grid_mesh,
    lathe,
    pulley,
    rounded,
    strip,
    sweep,
    tongue,
)
from tools.path_tracing.transforms import frame, rotation, scaling, transform, translation

STEEL = Surface((0.5, 0.5, 0.5), 1.0, 0.2, 0.0, 4.0)
SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
CURVE = [(0, 0, 0), (1, 0.2, 0), (2, 0, 0.5), (2.5, -1, 0.5)]


def open_edges(mesh):
    """Count edges of a face that no other face has in the opposite direction."""
    edges = Counter(edge for face in mesh.faces for edge in zip(face, (*face[1:], face[0])))
    return sum(edges[edge[::-1]] != count for edge, count in edges.items())


def volume(mesh):
    """Return the enclosed volume; it is negative if the faces face inwards."""
    corners = [(f[0], *pair) for f in mesh.faces for pair in pairwise(f[1:])]
    first, second, third = (mesh.vertices[list(index)] for index in zip(*corners))
    return float(np.sum(first * np.cross(second, third)) / 6)


MESHES = {
    'tube': (sweep([(0, 0, 0), (1, 0, 0), (2, 0, 0)], 0.5, 64), 2 * np.pi * 0.25),
    'upright tube': (sweep([(0, 0, 0), (0, 0, 1)], 0.5, 64), np.pi * 0.25),
    'flat tube': (sweep([(0, 0, 0), (1, 0, 0)], 0.5, 64, 0.5), np.pi * 0.125),
    'curve': (sweep(CURVE, np.array([0.2, 0.3, 0.2, 0.1])), None),
    'along x': (lathe([(0, 0.5), (2, 0.5)], 64), 2 * np.pi * 0.25),
    'along y': (lathe([(0, 0.5), (2, 0.5)], 64, 'y'), 2 * np.pi * 0.25),
    'along z': (lathe([(0, 0.5), (2, 0.5)], 64, 'z'), 2 * np.pi * 0.25),
    'hollow': (lathe([(-2, 0.5), (0, 0.5), (0, 0.4), (-1, 0.4)], 64), np.pi * (0.5 - 0.16)),
    'disk': (disk('y', (3, 2, 1), 0.5, 0.2), None),
    'pulley': (pulley((1, 1, 1), 0.3, 0.06), None),
}


@pytest.mark.parametrize('name', MESHES)
def test_a_mesh_is_closed_and_faces_outwards(name):
    mesh, expected = MESHES[name]
    assert {index for face in mesh.faces for index in face} == set(range(len(mesh.vertices)))
    assert len(mesh.uv) == len(mesh.vertices)
    assert open_edges(mesh) == 0
    assert volume(mesh) > 0
    if expected is not None:
        assert volume(mesh) == pytest.approx(expected, rel=0.01)


def test_a_part_is_deformed_before_it_is_moved():
    mesh = sweep([(0, 0, 0), (1, 0, 0)], 0.5)

    def longer(points):
        return points * (2, 1, 1)

    part = Part(mesh, STEEL, 1, deformation=longer).moved(rotation('z', np.pi / 2))
    moved = part.moved(translation(0, 0, 5)).finished(mesh)
    assert moved.vertices.min(0) == pytest.approx([-0.5, 0, 4.5], abs=1e-9)
    assert moved.vertices.max(0) == pytest.approx([0.5, 2, 5.5], abs=1e-9)
    assert volume(moved) == pytest.approx(2 * volume(mesh))


def test_a_mirrored_part_faces_outwards():
    mesh = lathe([(0, 0.5), (1, 0.2)])
    mirrored = Part(mesh, STEEL, 1).moved(np.diag([1.0, -1, 1, 1])).finished(mesh)
    assert volume(mirrored) == pytest.approx(volume(mesh))
    assert open_edges(mirrored) == 0


def test_a_grid_faces_up():
    x, y = np.meshgrid(np.arange(3.0), np.arange(4.0))
    mesh = grid_mesh(x, y, 0 * x)
    assert len(mesh.faces) == 6
    for face in mesh.faces:
        corners = mesh.vertices[list(face)]
        assert np.cross(corners[1] - corners[0], corners[2] - corners[1])[2] > 0


def area(polygon):
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def test_rounding_a_polygon_cuts_its_corners():
    assert 0.9 < area(rounded(SQUARE, 0.2)) < 1
    assert area(rounded(SQUARE, 9)) > 0.7  # at most half of each side


def test_a_denser_polygon_has_the_same_shape():
    polygon = dense(SQUARE, 0.1)
    assert area(polygon) == pytest.approx(1)
    sides = np.linalg.norm(polygon - np.roll(polygon, -1, 0), axis=1)
    assert sides == pytest.approx(np.full(len(sides), 0.1))


def test_polygons_are_counterclockwise():
    x = np.linspace(0, 2, 9)
    assert area(strip(x, 0 * x, 0 * x + 1)) == pytest.approx(2)
    assert area(ellipse(1, 2, 1, 90)) == pytest.approx(2 * np.pi, rel=0.01)
    assert area(tongue(0, 2, 0.5, 0.5)) == pytest.approx(1.5 + np.pi / 8, rel=0.01)


@pytest.mark.parametrize('matrix', [rotation('x', 1), rotation('y', 2), rotation('z', 3), UPRIGHT])
def test_rotations_keep_lengths_and_sides(matrix):
    assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_a_frame_points_along_x():
    for up in ((0, 0, 1), (3, 0, 4)):  # the latter is parallel
        matrix = frame((3, 0, 4), up, (1, 2, 3))
        assert matrix @ (1, 0, 0, 0) == pytest.approx([0.6, 0, 0.8, 0])
        assert matrix @ (0, 0, 0, 1) == pytest.approx([1, 2, 3, 1])
        assert np.linalg.det(matrix) == pytest.approx(1)


def test_points_are_transformed():
    points = np.array([[1.0, 0, 0], [0, 1, 0]])
    moved = transform(translation(1, 2, 3) @ scaling(2), points)
    assert moved == pytest.approx(np.array([[3.0, 2, 3], [1, 4, 3]]))


def test_blender_makes_a_closed_mesh_of_a_plate():
    pytest.importorskip('bpy', reason='needs Blender as a module')
    from tools.path_tracing.rendering import plate_mesh

    hole = SQUARE * 0.5 + 0.25
    for holes, expected in (((), 0.4), ((hole,), 0.3), ((hole[::-1],), 0.3)):
        mesh = plate_mesh(Plate(SQUARE, 0.2, 0.02, holes))
        assert open_edges(welded(mesh)) == 0
        assert volume(mesh) == pytest.approx(expected, rel=0.05)
        assert mesh.vertices.max(0) == pytest.approx([1, 1, 0.2], abs=0.01)


def welded(mesh):
    """Merge vertices at the same place: Blender keeps the caps of a curve apart."""
    _, index = np.unique(mesh.vertices.round(5), axis=0, return_inverse=True)
    index = index.ravel()
    return mesh._replace(faces=[tuple(index[list(face)]) for face in mesh.faces])

# SPDX-License-Identifier: Apache-2.0
"""Wrists and jaws of instruments, as da Vinci's have them."""

from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import Points, Sprite, outline
from surgseg_ros.synthetic.materials import Relief
from surgseg_ros.synthetic.noise import FloatImage


class JawKind(NamedTuple):
    """
    A kind of end effector; lengths and widths are shares of the shaft's width.

    :param share: how often it is met.
    :param length: (least, greatest) of a jaw.
    :param base: (least, greatest) thickness of a jaw at its root.
    :param tip: (least, greatest) thickness at its end.
    :param bend: (least, greatest) sideways bend of the end, as a share of the length.
    :param hole: whether each jaw has a hole.
    :param teeth: whether the edge that grips is serrated.
    :param blades: number of jaws.
    :param covered: whether a soft cover hides the wrist.
    """

    share: float
    length: tuple[float, float]
    base: tuple[float, float]
    tip: tuple[float, float]
    bend: tuple[float, float] = (0.0, 0.0)
    hole: bool = False
    teeth: bool = True
    blades: int = 2
    covered: bool = False


KINDS: Final = {
    'needle_driver': JawKind(0.3, (0.5, 1.1), (0.24, 0.36), (0.12, 0.24)),
    'fenestrated': JawKind(0.2, (1.3, 2.8), (0.24, 0.4), (0.16, 0.3), hole=True),
    'grasper': JawKind(0.14, (0.9, 2.2), (0.3, 0.5), (0.2, 0.34), (0.0, 0.25), hole=True),
    'maryland': JawKind(0.16, (0.9, 1.7), (0.22, 0.34), (0.07, 0.13), (0.05, 0.3)),
    'scissors': JawKind(
        0.17, (0.6, 1.2), (0.2, 0.34), (0.05, 0.12), (0.0, 0.25), teeth=False, covered=True
    ),
    'hook': JawKind(0.05, (0.6, 1.0), (0.1, 0.16), (0.08, 0.14), teeth=False, blades=1),
}
"""The shapes of common end effectors; the ranges are wider than those of any one product."""


def choose_kind(rng: Generator) -> JawKind:
    """Choose a kind of end effector by the kinds' shares."""
    kinds = list(KINDS.values())
    shares = np.array([kind.share for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def wrist_of(
    rng: Generator, width: float, length: float, scale: float, look: FloatImage, blood: float
) -> Sprite:
    """
    Make the metal body between the shaft's ears and the jaws; its origin is the joint.

    :param rng: source of its random form.
    :param width: of the shaft, in units.
    :param length: from the joint to its end, in units.
    :param scale: pixels per unit.
    :param look: from `metal_look`.
    :param blood: share that is smeared with it.
    :return: the sprite.
    """
    half = width * float(rng.uniform(0.32, 0.6))
    back = 0.35 * width
    area = (length + back + 0.06, 2 * half + 0.06)
    relief = Relief(rng, area, (back + 0.02, half + 0.03), scale)
    _add_body(relief, rng, (-back, length), half)
    if rng.random() < 0.6:
        slot = half * float(rng.uniform(0.06, 0.25))
        start = length * float(rng.uniform(0.1, 0.5))
        corners = ((start, -slot), (length, -slot), (length, slot), (start, slot))
        relief.dark(outline(*corners), float(rng.uniform(0.2, 0.5)))
    for side in rng.uniform(-0.7, 0.7, int(rng.integers(0, 4))):  # cables and their grooves
        y, thin = side * half, 0.05 * half
        line = outline((0, y - thin), (0.8 * length, y - thin), (0.8 * length, y + thin), (0, y))
        relief.dark(line, float(rng.choice([0.5, 1.7])))
    for x, radius in ((0.0, rng.uniform(0.3, 0.6)), (0.88 * length, rng.uniform(0.25, 0.5))):
        relief.disk((x, 0.0), radius * half, 0.012, 0.012)
        relief.disk((x, 0.0), 0.5 * radius * half, 0.008, 0.006)
    for _ in range(int(rng.integers(0, 4))):
        spot = (float(rng.uniform(0.2, 0.7)) * length, float(rng.uniform(-0.6, 0.6)) * half)
        relief.disk(spot, 0.14 * half, 0.008, 0.006)
    return relief.finish(look, labels.WRIST, 0.05, blood)


def _add_body(relief: Relief, rng: Generator, ends: tuple[float, float], half: float) -> None:
    """Add the wrist's body, from one of the ends to the other along x."""
    start, stop = ends
    if rng.random() < 0.4:  # of one polished piece, like an egg
        relief.plate(_egg(start, stop, half), 0.9 * half, half)
        return
    end = float(rng.uniform(0.55, 0.95))
    relief.plate(_rounded(start, stop, half, end * half), 0.8 * half, 0.7 * half)
    inner = _rounded(0.7 * start, 0.95 * stop, 0.78 * half, 0.75 * end * half)
    relief.plate(inner, 0.012, 0.02)


def _rounded(start: float, stop: float, half_start: float, half_stop: float) -> Points:
    """Make a tapered bar whose far end is round."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 16)
    cap = np.stack([np.cos(angles) * half_stop + stop - half_stop, np.sin(angles) * half_stop], 1)
    corner = 0.3 * half_start
    near = outline(
        (start, half_start - corner), (start, corner - half_start), (start + corner, -half_start)
    )
    return np.concatenate([near, cap, outline((start + corner, half_start))])


def _egg(start: float, stop: float, half: float) -> Points:
    """Make an ellipse along x."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    long = (stop - start) / 2
    return np.stack([(start + stop) / 2 + long * np.cos(angles), half * np.sin(angles)], axis=1)


def jaw_of(
    rng: Generator,
    kind: JawKind,
    width: float,
    length: float,
    scale: float,
    look: FloatImage,
    blood: float,
    label: int = labels.CLASPER,
) -> Sprite:
    """
    Make one jaw, which closes towards negative y; its origin is the pivot.

    :param rng: source of its random form.
    :param kind: its proportions.
    :param width: of the shaft, in units.
    :param length: of the jaw, in units.
    :param scale: pixels per unit.
    :param look: from `metal_look`.
    :param blood: share that is smeared with it.
    :param label: its class.
    :return: the sprite.
    """
    base, tip = (width * float(rng.uniform(*limits)) for limits in (kind.base, kind.tip))
    bend = length * float(rng.uniform(*kind.bend))
    at = np.linspace(0, 1, 14)
    inner = bend * at**2
    outer = inner + base + (tip - base) * at ** float(rng.uniform(0.7, 2.0))
    outer[-3:] -= (outer - inner)[-3:] * (0.07, 0.25, 0.6)
    if kind.blades == 1:
        outer[-4:] += 0.25 * length  # the hook's point
    above, below = float(outer.max()) + 0.02, 0.5 * base + 0.02
    relief = Relief(rng, (length + base + 0.04, above + below), (base + 0.02, below), scale)
    relief.disk((0.0, 0.3 * base), 0.55 * base, 0.02, 0.02)
    relief.plate(_between(at * length, inner, outer), 0.8 * base, 0.4 * base)
    if kind.hole:
        _hole(relief, rng, length, inner, outer)
    if kind.teeth:
        _serrate(relief, rng, length, base)
    return relief.finish(look, label, 0.04, blood)


def _hole(relief: Relief, rng: Generator, length: float, inner: Points, outer: Points) -> None:
    """Cut the hole of grasping forceps, through which the tissue is seen; it is clasper too."""
    first, last = int(rng.integers(3, 6)), int(rng.integers(10, 13))
    at = np.linspace(0, 1, len(inner))[first:last] * length
    low, high = inner[first:last], outer[first:last]
    margin = float(rng.uniform(0.2, 0.34)) * (high - low)
    relief.cut(_between(at, low + margin, high - margin))


def _between(x: Points, low: Points, high: Points) -> Points:
    """Make the polygon between two curves over x."""
    forth, back = np.stack([x, low], axis=1), np.stack([x, high], axis=1)
    return np.concatenate([forth, back[::-1]])


def _serrate(relief: Relief, rng: Generator, length: float, base: float) -> None:
    """Darken grooves across the edge that grips."""
    edges = np.linspace(0.3, 0.97, int(rng.integers(8, 22))) * length
    depth = base * float(rng.uniform(0.12, 0.35))
    for start, stop in zip(edges[:-1:2], edges[1::2]):
        groove = outline((start, -0.01), (stop, -0.01), (stop, depth), (start, depth))
        relief.dark(groove, 0.6)

# SPDX-License-Identifier: Apache-2.0
"""
Parts of robotic tools, modelled after da Vinci instruments: shafts, wrists and jaws.

By the rules of the data sets, the class shaft contains the tube, its forked metal end up to the
ears that hold the wrist, and the soft cover of scissors.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import Patch, Points, Shader, Sprite, View, outline, ribbon
from surgseg_ros.synthetic.materials import BLOOD, Colour, Gloss, Relief, rod
from surgseg_ros.synthetic.noise import FloatImage, fractal_noise, smoothstep
from surgseg_ros.synthetic.truth import Position

_MAP_SIZE: Final = (64, 512)
"""Rows across and columns along of the maps of stains and letters on a shaft: powers of 2."""

_MAP_UNITS: Final = 2.0
"""Length of the shaft that the maps cover before they repeat, in units."""


def shaft_colour(rng: Generator) -> Colour:
    """
    Choose the colour of a shaft: from black composite to nearly white under the lamp.

    :param rng: source of the choice.
    :return: RGB, 0 to 255.
    """
    low, high = ((26, 75), (75, 145), (145, 225))[rng.choice(3, p=(0.35, 0.4, 0.25))]
    level = float(rng.uniform(low, high))
    warm = float(rng.uniform(-0.07, 0.07))
    return (level * (1 + warm), level * float(rng.uniform(0.97, 1.03)), level * (1 - warm))


def shaft_shade(rng: Generator, width: float, colour: Colour) -> Shader:
    """
    Shade a shaft: its rings, letters, dried blood, and the tissue that it mirrors.

    :param rng: source of the random appearance.
    :param width: width of the shaft, in units.
    :param colour: as returned by `shaft_colour`.
    :return: the shading of a ribbon.
    """
    level = max(colour)
    gloss = Gloss(
        colour,
        float(rng.uniform(0.12, 0.55)),
        level * float(rng.uniform(0.15, 0.7)),
        float(rng.uniform(2, 9)),
        float(rng.uniform(-0.5, 0.5)),
        float(rng.uniform(0.0, 0.22)),
    )
    body = rod(rng, gloss, _rings(rng, width))
    red = float(rng.uniform(0, 0.6)) if rng.random() < 0.6 else 0.0
    lane, slope = float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-1.4, 0.6))
    stains = _stains(rng)
    letters = _letters(rng, width, level) if rng.random() < 0.3 else None

    def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
        on_map = _on_map(along, across)
        colours = body(along, across, facing)
        if letters is not None:
            colours = colours * letters.reshape(-1)[on_map]
        if red:
            mirrored = red * np.exp(-3 * (across - lane) ** 2)
            colours[0] *= 1 + 0.3 * mirrored
            colours[1:] *= 1 - mirrored
        light = np.clip(1 + slope * along, 0.15, 2.0)
        share = stains.reshape(-1)[on_map]
        colours = colours * (1 - share) + share * np.array(BLOOD, np.float32)[:, None]
        return np.asarray(colours * light, np.float32)

    return shade


def _on_map(along: FloatImage, across: FloatImage) -> NDArray[np.intp]:
    """Find the flat indices of positions on a shaft in its map, which repeats along it."""
    row = ((across + 1) / 2 * (_MAP_SIZE[0] - 1)).astype(np.intp)
    column = (along * (_MAP_SIZE[1] / _MAP_UNITS)).astype(np.intp) & (_MAP_SIZE[1] - 1)
    return np.asarray(row * _MAP_SIZE[1] + column)


def _rings(rng: Generator, width: float) -> list[tuple[float, float, float]]:
    """Choose a dark seam at the end of the shaft, and bright rings behind it."""
    rings = [(0.0, 0.02, float(rng.uniform(0.4, 1.0)))]
    if rng.random() < 0.5:
        at = width * float(rng.uniform(0.15, 0.6))
        thick = width * float(rng.uniform(0.02, 0.06))
        for _ in range(int(rng.integers(1, 4))):
            rings.append((at, at + thick, float(rng.uniform(1.3, 2.4))))
            at += width * float(rng.uniform(0.08, 0.2))
    if rng.random() < 0.3:  # the tube is of two materials
        rings.append((width * float(rng.uniform(0.5, 2.0)), 9.0, float(rng.uniform(0.35, 1.6))))
    return rings


def _stains(rng: Generator) -> FloatImage:
    """Smear dried blood over the map: (64, 512), share 0 to 0.9."""
    start = float(rng.uniform(0.6, 3.0))
    noise = fractal_noise(rng, (1, 8), _MAP_SIZE[0], float(rng.uniform(1.5, 6)), 4, 0.7)
    return np.asarray(smoothstep(noise, start, start + 0.5) * np.float32(0.9), np.float32)


def _letters(rng: Generator, width: float, level: float) -> FloatImage:
    """Print letters on the map: (64, 512) factors."""
    text = ''.join(chr(code) for code in rng.integers(65, 91, int(rng.integers(3, 9))))
    printed = np.zeros(_MAP_SIZE, np.uint8)
    start = (int(rng.integers(20, 160)), int(rng.integers(28, 58)))
    cv2.putText(printed, text, start, cv2.FONT_HERSHEY_DUPLEX, 0.9, (255,), 2, cv2.LINE_AA)
    length = np.clip(width * _MAP_SIZE[1] / _MAP_UNITS / _MAP_SIZE[0], 0.3, 2)
    printed = np.asarray(cv2.resize(printed, None, fx=float(length), fy=1.0), np.uint8)
    full = np.zeros(_MAP_SIZE, np.float32)
    columns = min(_MAP_SIZE[1], printed.shape[1])
    full[:, :columns] = printed[:, :columns] / np.float32(255)
    factor = 0.45 if level > 120 else float(rng.uniform(1.6, 3))
    return np.asarray(1 + full * np.float32(factor - 1), np.float32)


def fork_of(
    rng: Generator, width: float, length: float, scale: float, texture: FloatImage, blood: float
) -> Sprite:
    """
    Make the metal end of the shaft with its ears; its origin is the middle of the tube's end.

    :param rng: source of its random form.
    :param width: width of the shaft, in units.
    :param length: from the tube's end to the ends of the ears, in units.
    :param scale: pixels per unit.
    :param texture: from `metal_texture`.
    :param blood: share that is smeared with it.
    :return: the sprite.
    """
    half = width / 2
    sleeve = length * float(rng.uniform(0.3, 0.75))
    relief = Relief(rng, (length + 0.04, width + 0.04), (0.02, half + 0.02), scale)
    relief.barrel(outline((0, -half), (sleeve, -half), (sleeve, half), (0, half)), half)
    for at in (0.05, float(rng.uniform(0.2, 0.8))):
        start, stop = at * sleeve, (at + 0.06) * sleeve
        relief.dark(outline((start, -half), (stop, -half), (stop, half), (start, half)), 0.6)
    start = 0.8 * sleeve
    kind = rng.random()
    if kind < 0.5:  # seen from the side: an ear on either side of the wrist
        inner = half * float(rng.uniform(0.45, 0.7))
        for low, high in ((-half, -inner), (inner, half)):
            relief.plate(_tongue(start, length, low, high), 0.01, 0.012)
    elif kind < 0.9:  # seen from the front: one ear covers the wrist's root
        wide = half * float(rng.uniform(0.45, 0.85))
        relief.plate(_tongue(start, length, -wide, wide), 0.012, 0.015)
        relief.disk((length - 0.6 * wide, 0.0), 0.4 * wide, 0.01, 0.01)
    return relief.finish(texture, labels.SHAFT, 0.05, blood)


def _tongue(start: float, stop: float, low: float, high: float) -> Points:
    """Make a bar along x with a round far end."""
    radius = min((high - low) / 2, (stop - start) / 2)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 12)
    middle = (low + high) / 2
    stretch = (high - low) / 2 / radius
    cap = np.stack(
        [np.cos(angles) * radius + stop - radius, np.sin(angles) * radius * stretch + middle], 1
    )
    return np.concatenate([outline((start, high), (start, low)), cap])


class TipCover:
    """
    The soft cover of electrosurgical scissors, from the shaft over the wrist to the blades.

    :param rng: source of the random appearance.
    :param width: width of the shaft, in units.
    """

    def __init__(self, rng: Generator, width: float) -> None:
        level = float(rng.uniform(70, 190))
        tint = ((0.9, 0.97, 1.08), (1.0, 1.0, 1.0), (1.0, 0.93, 0.84))[rng.integers(3)]
        colour = (level * tint[0], level * tint[1], level * tint[2])
        gloss = Gloss(colour, 0.3, float(rng.uniform(20, 80)), 5, float(rng.uniform(-0.5, 0.5)))
        self._body = rod(rng, gloss)
        self._stains = _stains(rng)
        self._halves = width * np.array([0.52, 0.54, 0.5, 0.44, float(rng.uniform(0.2, 0.32))])

    def draw(self, view: View, joints: Points) -> Patch | None:
        """
        Draw it.

        :param view: the image.
        :param joints: (3, 2) the shaft's end, the joint and the blades' pivot, in units.
        :return: the patch, or None outside the image.
        """
        at = np.linspace(0, 1, len(self._halves))[:, None]
        curve = (1 - at) ** 2 * joints[0] + 2 * at * (1 - at) * joints[1] + at**2 * joints[2]

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            share = self._stains.reshape(-1)[_on_map(along, across)]
            colours = self._body(along, across, facing)
            blood = share * np.array(BLOOD, np.float32)[:, None]
            return np.asarray(colours * (1 - share) + blood, np.float32)

        return ribbon(view, curve, self._halves, shade, labels.SHAFT)


class JawKind(NamedTuple):
    """
    A kind of end effector; lengths and widths are shares of the shaft's width.

    :param share: relative frequency.
    :param length: (minimum, maximum) of a jaw.
    :param base: (minimum, maximum) thickness of a jaw at its root.
    :param tip: (minimum, maximum) thickness at its end.
    :param bend: (minimum, maximum) sideways bend of the end, as a share of the length.
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
"""Common end effectors; the ranges are wider than those of any single product."""


def choose_kind(rng: Generator) -> JawKind:
    """Choose a kind of end effector by the kinds' shares."""
    kinds = list(KINDS.values())
    shares = np.array([kind.share for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def wrist_of(
    rng: Generator, width: float, length: float, scale: float, texture: FloatImage, blood: float
) -> Sprite:
    """
    Make the metal body between the shaft's ears and the jaws; its origin is the joint.

    :param rng: source of its random form.
    :param width: width of the shaft, in units.
    :param length: from the joint to its end, in units.
    :param scale: pixels per unit.
    :param texture: from `metal_texture`.
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
    return relief.finish(texture, labels.WRIST, 0.05, blood)


def _add_body(relief: Relief, rng: Generator, ends: tuple[float, float], half: float) -> None:
    """Add the body of the wrist between two positions along x."""
    start, stop = ends
    if rng.random() < 0.4:  # a single polished, egg-shaped piece
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
    texture: FloatImage,
    blood: float,
    label: int = labels.CLASPER,
) -> tuple[Sprite, Position]:
    """
    Make one jaw, which closes towards negative y; its origin is the pivot.

    :param rng: source of its random form.
    :param kind: its proportions.
    :param width: width of the shaft, in units.
    :param length: length of the jaw, in units.
    :param scale: pixels per unit.
    :param texture: from `metal_texture`.
    :param blood: share that is smeared with it.
    :param label: its class.
    :return: the sprite, and the middle of its far end, from the pivot.
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
    return relief.finish(texture, label, 0.04, blood), (length, float(inner[-1] + outer[-1]) / 2)


def _hole(relief: Relief, rng: Generator, length: float, inner: Points, outer: Points) -> None:
    """Cut the hole of grasping forceps, through which tissue is visible; it is clasper, too."""
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

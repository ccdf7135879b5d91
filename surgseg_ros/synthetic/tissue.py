# SPDX-License-Identifier: Apache-2.0
"""Living tissue: folds, vessels, fat, blood and wet highlights."""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from surgseg_ros.synthetic.drawing import Image, View
from surgseg_ros.synthetic.noise import (
    Drift,
    FloatImage,
    enlarge,
    fractal_noise,
    mix,
    rgb,
    slight_drift,
    smooth_noise,
    smoothstep,
    soften,
    spawn_rng,
)
from surgseg_ros.synthetic.truth import Position

MARGIN = 0.16
"""How far the tissue reaches beyond the image, in units."""

_CELLS = (9, 16)
"""Rows and columns of the grid by which the tissue is deformed."""

_GROUNDS = (
    # dark, common and pale colour of a kind of tissue
    ((120, 34, 38), (190, 86, 84), (228, 154, 148)),
    ((134, 48, 48), (204, 112, 104), (236, 178, 166)),
    ((108, 26, 34), (168, 62, 68), (212, 124, 126)),
    ((122, 52, 42), (190, 110, 86), (228, 176, 138)),
    ((130, 48, 62), (196, 102, 114), (230, 170, 174)),
    ((112, 46, 50), (170, 92, 92), (214, 164, 158)),
    # the deep red of a bleeding cavity
    ((52, 4, 6), (104, 14, 14), (150, 40, 32)),
    ((42, 6, 8), (126, 22, 18), (176, 58, 40)),
    ((60, 14, 12), (140, 40, 30), (196, 96, 70)),
    # pale: serosa, cartilage, peritoneum
    ((176, 126, 120), (216, 180, 172), (242, 226, 220)),
    ((150, 120, 112), (196, 176, 164), (236, 226, 214)),
    # liver, kidney, bluish bowel, and fat all over
    ((78, 26, 22), (112, 50, 42), (160, 100, 88)),
    ((96, 70, 84), (150, 118, 130), (196, 172, 178)),
    ((150, 84, 34), (208, 152, 76), (238, 208, 136)),
)
_FAT = (
    (222.0, 182.0, 112.0), (236.0, 200.0, 120.0), (206.0, 150.0, 72.0), (240.0, 222.0, 180.0),
)  # fmt: skip
_BLOOD = (104.0, 6.0, 10.0)


class Tissue:
    """
    Tissue that moves in front of the camera, for example with breathing.

    :param rng: source of all random values.
    :param view: the image.
    """

    def __init__(self, rng: Generator, view: View) -> None:
        self._view = view
        self._texture = _texture(rng, view)
        self._shift = [Drift(rng, -0.05, 0.05, float(rng.uniform(6, 14))) for _ in range(2)]
        self._turn = Drift(rng, -0.03, 0.03, 11)
        self._zoom = Drift(rng, 0.97, 1.04, 9)
        self._swell = [slight_drift(rng, -0.012, 0.012, 0.8, 3.5) for _ in range(24)]
        self._wet = slight_drift(rng, 0.2, 1.3, 0.3, 2.5)

    def place(self, points: NDArray[np.float64], time_s: float) -> NDArray[np.float64]:
        """
        Return the current positions of points on the tissue.

        :param points: (N, 2) positions at rest, in units.
        :param time_s: the time.
        :return: (N, 2) visible positions, in units.
        """
        centre = np.array([self._view.aspect / 2, 0.5])
        matrix = self._matrix(time_s)
        return np.asarray((points - centre) @ matrix[:, :2].T + matrix[:, 2] + centre)

    def draw(self, time_s: float, shift: float = 0.0) -> Image:
        """Return the (H, W, 3) uint8 RGB image of the tissue, moved to the left by a shift."""
        view = self._view
        inverse = np.linalg.inv(np.vstack([self._matrix(time_s), [0, 0, 1]]))
        rows, columns = (count + 2 for count in _CELLS)  # one beyond each border
        down = ((np.arange(rows) - 0.5) / _CELLS[0] - 0.5)[:, None]
        across = (((np.arange(columns) - 0.5) / _CELLS[1] - 0.5) * view.aspect + shift)[None]
        swell = np.array([wave(time_s) for wave in self._swell], np.float32).reshape(2, 3, 4)
        grids = []
        for axis, middle in ((0, view.aspect / 2), (1, 0.5)):
            grid = inverse[axis, 0] * across + inverse[axis, 1] * down + inverse[axis, 2] + middle
            grid = grid + cv2.resize(swell[axis], (columns, rows), interpolation=cv2.INTER_CUBIC)
            grids.append(((grid + MARGIN) * view.height - 0.5).astype(np.float32))
        across_px, down_px = (_spread(grid, view) for grid in grids)
        seen = cv2.remap(
            self._texture, across_px, down_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        levels = np.clip((np.arange(256) - 60) * self._wet(time_s) * 1.6, 0, 255)
        wet = cv2.LUT(cv2.extractChannel(seen, 3), levels.astype(np.uint8))
        colours = cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB)
        return np.asarray(cv2.add(colours, cv2.cvtColor(wet, cv2.COLOR_GRAY2RGB)), np.uint8)

    def _matrix(self, time_s: float) -> NDArray[np.float64]:
        zoom, turn = self._zoom(time_s), self._turn(time_s)
        cosine, sine = zoom * math.cos(turn), zoom * math.sin(turn)
        return np.array(
            [[cosine, -sine, self._shift[0](time_s)], [sine, cosine, self._shift[1](time_s)]]
        )


class RestingObject:
    """
    A small object that lies on the tissue and moves with it.

    :param rng: source of its position.
    :param view: the image.
    :param tissue: the tissue on which it lies.
    :param margin: smallest distance from the border at rest, as a share of the image's side.
    """

    def __init__(self, rng: Generator, view: View, tissue: Tissue, margin: float) -> None:
        self._view = view
        self._tissue = tissue
        across, down = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
        self._rest = np.array([across * view.aspect, down])

    def anchor(self, time_s: float) -> Position:
        """Return its position at a time, in units."""
        x, y = self._tissue.place(self._rest[None], time_s)[0]
        return float(x), float(y)


def _spread(grid: FloatImage, view: View) -> FloatImage:
    """Interpolate from cell centres, one row and column beyond the image, to pixels."""
    size = [
        round(count * side / frequency)
        for count, side, frequency in zip(grid.shape, (view.height, view.width), _CELLS)
    ]
    top, left = (round(side / count) for side, count in zip(size, grid.shape))
    spread = cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(spread[top : top + view.height, left : left + view.width], np.float32)


def _texture(rng: Generator, view: View) -> Image:
    """Render (H, W, 4) uint8: colour under even light, and strength of wet highlights."""
    extent = (1 + 2 * MARGIN, view.aspect + 2 * MARGIN)
    scale = float(view.height)
    height = _folds(rng, extent, scale)
    lumps = fractal_noise(rng, extent, scale, 9, 4, 0.55)
    rough = float(rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.3, 1)]))  # smooth, or lumpy
    height *= np.float32(rng.uniform(0.25, 1.3))
    height += np.float32(0.009 * rough) * lumps
    height += np.float32(rng.uniform(0.0, 0.25)) * fractal_noise(
        rng, extent, scale, float(rng.uniform(0.6, 1.4)), 2, 0.4
    )
    colour = _ground(rng, extent, scale)
    if rng.random() < 0.45:  # an organ of another kind
        organ = fractal_noise(rng, extent, scale, 1.1, 3, 0.4)
        edge = float(rng.uniform(-0.4, 0.8))
        colour = mix(colour, _ground(rng, extent, scale), smoothstep(organ, edge, edge + 0.12))
        height += np.float32(rng.uniform(0.0, 0.03)) * smoothstep(organ, edge - 0.1, edge + 0.5)
    colour, height = _organs(rng, extent, scale, colour, height)
    fibres = _fibres(rng, extent, scale)
    colour *= rgb(1 + np.float32(0.14 * rough * rng.uniform(0, 1)) * fibres)
    height += np.float32(0.0016 * rough * rng.uniform(0, 1)) * fibres
    fat = smoothstep(fractal_noise(rng, extent, scale, 1.8, 4), *_threshold(rng, -0.4, 2.4, 1.0))
    globules = fractal_noise(rng, extent, scale, 22, 2)
    fat_colour = _FAT[rng.integers(len(_FAT))]
    colour = mix(colour, fat_colour, fat * smoothstep(globules, -2.2, 0.4) * np.float32(0.8))
    height += fat * (np.float32(0.012) + np.float32(0.004) * globules)
    vessels = _vessels(rng, extent, scale)
    colour = mix(colour, (118, 14, 24), vessels * np.float32(rng.uniform(0.55, 0.85)))
    height += vessels * np.float32(0.003)
    pools = smoothstep(fractal_noise(rng, extent, scale, 2.2, 4), *_threshold(rng, 1.2, 3.2, 0.35))
    colour = mix(colour, _BLOOD, pools * np.float32(0.85))
    if rng.random() < 0.4:  # a cavity that is not lit
        cavity = smoothstep(
            fractal_noise(rng, extent, scale, 1.3, 3), *_threshold(rng, -0.3, 1.2, 1.2)
        )
        colour *= rgb(1 - cavity * np.float32(rng.uniform(0.4, 0.95)))
    return _lit(rng, colour, height, pools, scale, rough)


_ORGAN_SHARES = (0.35, 0.25, 0.2, 0.2)
"""Probabilities of zero to three organs."""


def _organs(
    rng: Generator,
    extent: tuple[float, float],
    scale: float,
    colour: FloatImage,
    height: FloatImage,
) -> tuple[FloatImage, FloatImage]:
    """Add smooth, rounded organs, such as kidney, bowel and bladder, on a ground."""
    coarse = scale / 3
    rows, columns = height.shape
    for _ in range(int(rng.choice(len(_ORGAN_SHARES), p=_ORGAN_SHARES))):
        ground = _ground(rng, extent, coarse)
        warp = np.float32(0.12) * fractal_noise(rng, extent, coarse, 1.6, 2, 0.4)
        down, across = (
            axis.astype(np.float32) / np.float32(coarse) for axis in np.indices(warp.shape)
        )
        centre = rng.uniform(0.0, 1.0, 2) * extent
        radii = rng.uniform(0.22, 0.8, 2)
        turn = float(rng.uniform(0, math.pi))
        down, across = down - np.float32(centre[0]), across - np.float32(centre[1])
        along = (math.cos(turn) * across + math.sin(turn) * down) / radii[0]
        across = (math.cos(turn) * down - math.sin(turn) * across) / radii[1]
        inside = 1 - along**2 - across**2 - warp  # 0 at its outline
        dome = float(rng.uniform(0.1, 0.5)) * radii.min() * np.sqrt(np.clip(inside, 0, 1))
        share = smoothstep(np.asarray(inside, np.float32), 0.0, 0.05)
        layers = (dome, share, *cv2.split(ground))
        dome, share, *planes = (
            enlarge(np.asarray(layer, np.float32), (rows, columns)) for layer in layers
        )
        colour = mix(colour, np.stack(planes, axis=-1), share)
        height = height * (1 - np.float32(0.8) * share) + dome + np.float32(0.03) * share
    return colour, height


def _ground(rng: Generator, extent: tuple[float, float], scale: float) -> FloatImage:
    """Colour an area like one kind of tissue: (H, W, 3), RGB 0 to 255."""
    ground = _GROUNDS[rng.integers(6, 9) if rng.random() < 0.25 else rng.integers(len(_GROUNDS))]
    patches = fractal_noise(rng, extent, scale, float(rng.uniform(0.9, 2.6)), 5, 0.6)
    colour = np.empty((*patches.shape, 3), np.float32)
    colour[:] = ground[1]
    colour = mix(
        colour, ground[2], smoothstep(patches, 0.1, 2.0) * np.float32(rng.uniform(0.2, 1))
    )
    return mix(
        colour, ground[0], smoothstep(patches, -0.2, -2.0) * np.float32(rng.uniform(0.2, 0.9))
    )


def _fibres(rng: Generator, extent: tuple[float, float], scale: float) -> FloatImage:
    """Draw fibres that run from a point, near or far, with a swirl: (H, W) of deviation 1."""
    rows, columns = (round(side * scale) for side in extent)
    middle = rng.uniform(-1.0, 2.0, 2) * extent
    down, across = (
        np.arange(side, dtype=np.float32) / np.float32(scale) for side in (rows, columns)
    )
    down, across = down[:, None] - np.float32(middle[0]), across - np.float32(middle[1])
    radius = np.hypot(down, across)
    angle = np.arctan2(down, across) + np.float32(rng.uniform(-0.6, 0.6)) * radius
    tile = smooth_noise(spawn_rng(rng), (128, 512), 1.0, (0.25, 0.5))
    around = _modulo(angle * np.float32(512 / (2 * np.pi) * rng.integers(1, 4)), 512)
    along = _modulo(radius * np.float32(rng.uniform(8, 40)), 128)
    return np.asarray(
        cv2.remap(tile, around, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32
    )


def _modulo(values: FloatImage, power_of_2: int) -> FloatImage:
    """Compute the same as `%`, for which NumPy takes ten times as long."""
    wholes = np.floor(values / np.float32(power_of_2))
    return np.asarray(values - wholes * np.float32(power_of_2), np.float32)


def _threshold(rng: Generator, low: float, high: float, width: float) -> tuple[float, float]:
    start = float(rng.uniform(low, high))
    return start, start + width


def _folds(rng: Generator, extent: tuple[float, float], scale: float) -> FloatImage:
    """Heights, in units: rounded lobes with creases between them, over slow hills."""
    coarse = scale / 3
    shape = (round(extent[0] * coarse), round(extent[1] * coarse))
    bend = [
        0.10 * fractal_noise(rng, extent, coarse, 1.8, 3)[: shape[0], : shape[1]] for _ in '12'
    ]
    down, across = (axis.astype(np.float32) / np.float32(coarse) for axis in np.indices(shape))
    down, across = down + bend[0], across + bend[1]
    count = int(rng.integers(8, 26))
    stretch = rng.uniform(0.45, 1.0)
    first = np.full(shape, 9, np.float32)
    second = first.copy()
    for centre in rng.uniform((0, 0), extent, (count, 2)).astype(np.float32):
        gap = np.hypot((down - centre[0]) * np.float32(stretch), across - centre[1])
        second = np.minimum(second, np.maximum(first, gap))
        first = np.minimum(first, gap)
    crease = 1 - np.exp(-((second - first) * 14))
    ridges = np.abs(fractal_noise(rng, extent, coarse, 2.2, 3))[: shape[0], : shape[1]]
    height = rng.uniform(0.03, 0.08) * crease - 0.20 * first**2
    height += rng.uniform(0.01, 0.04) * np.minimum(ridges, 1)
    height += 0.04 * fractal_noise(rng, extent, coarse, 1.2, 2)[: shape[0], : shape[1]]
    size = (round(extent[0] * scale), round(extent[1] * scale))
    return enlarge(np.asarray(height, np.float32), size)


def _vessels(rng: Generator, extent: tuple[float, float], scale: float) -> FloatImage:
    """Branching lines, 0 to 1."""
    size = (round(extent[0] * scale), round(extent[1] * scale))
    drawn = np.zeros(size, np.uint8)
    grow = [
        (rng.uniform((0, 0), extent[::-1]), rng.uniform(0, 2 * np.pi), rng.uniform(0.003, 0.014))
        for _ in range(int(rng.integers(3, 9)))
    ]
    while grow:
        point, heading, width = grow.pop()
        curl = 0.0
        for _ in range(int(rng.integers(12, 40))):
            curl = 0.8 * curl + rng.normal(0, 0.055)
            heading += curl
            forward = point + 0.022 * np.array([math.cos(heading), math.sin(heading)])
            ends = np.rint(np.stack([point, forward]) * scale * 16).astype(int).tolist()
            thickness = max(1, round(width * scale))
            cv2.line(drawn, ends[0], ends[1], (255,), thickness, cv2.LINE_AA, 4)
            point = forward
            if width > 0.0022 and rng.random() < 0.10:
                side = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
                grow.append((point, heading + side, width * rng.uniform(0.45, 0.75)))
            width = max(0.0014, width * 0.975)
    soft = cv2.GaussianBlur(drawn, (0, 0), 0.0016 * scale)
    return np.asarray(soft, np.float32) / np.float32(255)


def _film(
    rng: Generator, slopes: list[FloatImage], aim: NDArray[np.float32], scale: float
) -> FloatImage:
    """Find the broad, smooth highlights of a film of liquid: (H, W), 0 to 1."""
    sigma = float(rng.uniform(0.006, 0.025)) * scale
    soft = [soften(slope, sigma) for slope in slopes]
    away = (soft[0] - aim[0]) ** 2 + (soft[1] - aim[1]) ** 2
    shine = np.exp(-away * np.float32(np.exp(rng.uniform(4, 6.5))))
    return np.asarray(shine * np.float32(rng.uniform(0.5, 1.3)), np.float32)


def _lit(
    rng: Generator,
    colour: FloatImage,
    height: FloatImage,
    pools: FloatImage,
    scale: float,
    rough: float,
) -> Image:
    """Shade the relief, darken its creases, and find its highlights."""
    extent = (height.shape[0] / scale, height.shape[1] / scale)
    slopes = [
        np.asarray(cv2.Sobel(height, cv2.CV_32F, *axis, scale=scale / 8), np.float32)
        for axis in ((1, 0), (0, 1))
    ]
    length = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    light = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    facing = (1 - light[0] * slopes[0] - light[1] * slopes[1]) / (
        length * math.hypot(1, *map(float, light))
    )
    hollow = soften(height, 0.03 * scale) - height
    shade = 0.30 + 0.78 * np.clip(facing, 0, 1) ** 1.3
    shade *= 1 - 0.42 * smoothstep(hollow, 0.0, 0.035)
    near = height - np.float32(np.median(height))
    shade *= np.exp(np.clip(near * np.float32(rng.uniform(0, 4)), -1.5, 0.7))  # to lamp and lens
    glow = 1 - 0.25 * smoothstep(hollow, 0.0, 0.03)  # a crease glows red
    red, green, blue = (plane * shade for plane in cv2.split(colour))
    frequency = (float(rng.uniform(18, 70)),) * 2
    bumps = np.float32(rng.uniform(0.08, 0.2) * min(1.0, 0.25 + rough))
    fine = [smooth_noise(spawn_rng(rng), extent, scale, frequency) * bumps for _ in '12']
    tilt = [slope * (1 - 0.6 * pools) + bump for slope, bump in zip(slopes, fine)]
    aim = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    away = (tilt[0] - aim[0]) ** 2 + (tilt[1] - aim[1]) ** 2
    start = float(rng.uniform(-0.4, 1.2))
    patchy = smoothstep(fractal_noise(rng, extent, scale, 3, 3), start, start + 1.2)
    shine = np.exp(-away * np.float32(rng.uniform(25, 60))) * (0.15 + 0.85 * patchy)
    if rng.random() < 0.5:
        shine = np.maximum(shine, _film(rng, slopes, aim, scale))
    planes = (red, green * glow, blue * glow, 255 * shine)
    levels = [np.rint(np.clip(plane, 0, 255)).astype(np.uint8) for plane in planes]
    return np.asarray(cv2.merge(levels), np.uint8)

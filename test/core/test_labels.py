# SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import numpy as np
import pytest

from surgseg_ros.core.labels import CLASS_NAMES, LABELS, NO_DECISION, PALETTE, ROBOTIC_TOOL

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE TVCG 15(6), 2009, severity 1.0; they apply to linear RGB.
VISION = {
    'normal': np.eye(3),
    'protanopia': np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    'deuteranopia': np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
SURROUNDINGS = {
    'tissue': np.array([150, 60, 55]),
    'tissue in light': np.array([205, 120, 110]),
    'tissue in shadow': np.array([70, 25, 25]),
    'metal': np.array([140, 140, 145]),
}
JUST_DISTINCT = 8.0  # CIE76; 2.3 is the just noticeable difference


def seen_as_lab(colour: np.ndarray, vision: str) -> np.ndarray:
    encoded = np.asarray(colour) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = (VISION[vision] @ linear).clip(0, 1)
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    x, y, z = np.cbrt(to_xyz @ linear / to_xyz.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_order_of_labels_is_that_of_the_data_set() -> None:
    assert CLASS_NAMES == (
        'background',
        'tool clasper',
        'tool wrist',
        'tool shaft',
        'suturing needle',
        'thread',
        'suction tool',
        'needle holder',
        'clamps',
        'catheter',
    )
    assert sorted(LABELS) == [*range(10), ROBOTIC_TOOL, NO_DECISION]


@pytest.mark.parametrize('vision', VISION)
@pytest.mark.parametrize('surroundings', SURROUNDINGS)
def test_colors_of_classes_differ_for_every_kind_of_camera(vision: str, surroundings: str) -> None:
    below = SURROUNDINGS[surroundings]
    drawn = {name: (below + PALETTE[n]) / 2 for n, name in enumerate(CLASS_NAMES) if n}
    drawn['background'] = below
    seen = {name: seen_as_lab(colour, vision) for name, colour in drawn.items()}
    apart = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)}
    assert min(apart.values()) >= JUST_DISTINCT, min(apart, key=apart.__getitem__)


def test_palette_is_read_only() -> None:
    with pytest.raises(ValueError, match='read-only'):
        PALETTE[0] = 1

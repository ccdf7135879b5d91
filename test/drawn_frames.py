# SPDX-License-Identifier: Apache-2.0
"""Frames and masks as files, and the verb `make_bag` that makes bags of them."""

import numpy as np
from verbs import verb

from surgseg_ros.evaluation.frames import write_png

main = verb('make_bag')

HEIGHT, WIDTH = 48, 80


def make_bag(source, output, *more):
    return main([str(word) for word in ('--input', source, '--output', output, *more)])


def make_image(number):
    """Draw a smooth image, which JPEG preserves, different for each number."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    planes = rows * 3, columns * 2, np.full_like(rows, 20 * (number % 12))
    return np.stack(planes, axis=2).astype(np.uint8)


def mask(number):
    return np.random.default_rng(number).integers(0, 10, (HEIGHT, WIDTH), np.uint8)


def write_images(folder, *numbers):
    folder.mkdir(parents=True)
    for number in numbers:
        write_png(folder / f'{number:09d}.png', make_image(number))


def masks(folder, *numbers):
    folder.mkdir(parents=True)
    for number in numbers:
        write_png(folder / f'{number:09d}.png', mask(number))

# SPDX-License-Identifier: Apache-2.0
"""
Creates the animation of the README: a synthetic scene beside the overlay of the default model.

    python -m tools.readme_image
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgseg_ros import Segmenter, draw_overlay
from surgseg_ros.synthetic.scene import Scene

ROOT: Final = Path(__file__).resolve().parents[1]
SIZE: Final = (720, 1280)
"""(H, W) of the scene in pixels, as in the model card."""
PANEL_SIZE: Final = (270, 480)
"""(H, W) of each half of the image."""
GAP_PX: Final = 6
SEED: Final = 424_242_005
RATE_HZ: Final = 15
QUALITY: Final = 60

RgbImage = NDArray[np.uint8]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Write the animation.

    :param argv: the arguments; those of the command line by default.
    :return: exit status.
    """
    parser = argparse.ArgumentParser(prog='tools.readme_image', description=__doc__)
    parser.add_argument('--seed', type=int, default=SEED, help='scene (default: %(default)s)')
    parser.add_argument('--frames', type=int, default=45, help='length (default: %(default)s)')
    parser.add_argument('--model', type=Path, default=ROOT / 'models' / 'default')
    parser.add_argument('--output', type=Path, default=ROOT / 'docs' / 'images' / 'overlay.webp')
    options = parser.parse_args(argv)
    segmenter = Segmenter.load(options.model, 'cpu')
    frames = list(draw(segmenter, options.seed, options.frames))
    write(options.output, frames)
    print(f'{len(frames)} frames, {options.output.stat().st_size / 1e6:.2f} MB: {options.output}')
    return 0


def draw(segmenter: Segmenter, seed: int, count: int) -> Iterator[RgbImage]:
    """
    Draw a scene and the model's overlay.

    :param segmenter: the model.
    :param seed: seed of a scene that is not in the training data.
    :param count: number of frames.
    :return: (h, w, 3) uint8 RGB each, the input on the left and the overlay on the right.
    """
    scene = Scene(seed, SIZE, RATE_HZ)
    for index in range(count):
        rgb = scene.frame(index).image
        result = segmenter.segment(rgb, instruments=True)
        overlay = draw_overlay(rgb, result.mask, result.instruments or ())
        gap = np.full((PANEL_SIZE[0], GAP_PX, 3), 255, np.uint8)
        yield np.hstack([_panel(rgb), gap, _panel(overlay)])


def write(path: Path, frames: Sequence[RgbImage]) -> None:
    """
    Write an animation that repeats forever.

    :param path: a .webp or .gif file.
    :param frames: (h, w, 3) uint8 RGB each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(frame) for frame in frames)
    timing = {'duration': round(1000 / RATE_HZ), 'loop': 0}
    first.save(path, save_all=True, append_images=others, quality=QUALITY, method=6, **timing)


def _panel(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.resize(image, PANEL_SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == '__main__':
    sys.exit(main())

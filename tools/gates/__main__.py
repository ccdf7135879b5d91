# SPDX-License-Identifier: Apache-2.0
"""Fits the limits of the gates on synthetic scenes, and counts their alarms on other scenes."""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.gates import DEFAULTS, GATES, Gates
from surgseg_ros.core.image_quality import sample_image
from surgseg_ros.evaluation.frames import read_frames
from surgseg_ros.synthetic import Scene
from tools.gates.corruptions import CORRUPTIONS, SEVERITIES, RgbArray, Source

FIT_SEED: Final = 840_000_000
TEST_SEED: Final = 850_000_000
"""Scenes with seeds outside all training data; those for the limits and the table differ."""

_FIELD_S: Final = 0.1
"""Time between fields; really it is 1/50 s, but the scenes move more slowly than surgeons."""


class Counted(NamedTuple):
    """
    The values of a gate's metric.

    :param good: values of good images.
    :param corrupted: values of images with the degradation of this gate, by severity.
    """

    good: list[float]
    corrupted: dict[float, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Fit the limits, count the alarms, and print a table.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _parser().parse_args(argv)
    fitted = measure(sources(FIT_SEED, options.scenes, options.size))
    tested = measure(sources(TEST_SEED, options.scenes, options.size))
    print(table({name: fit(name, counted) for name, counted in fitted.items()}, tested))
    for path in options.video:
        print(f'\n{path.name}: {alarms_of(path, options.roi)}')
    if options.sheets:
        draw(options.sheets, next(sources(TEST_SEED, 1, options.size)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m tools.gates', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--scenes', type=int, default=100, metavar='N', help='for each part (default: 100)')
    add('--size', type=int, nargs=2, default=(720, 1280), metavar=('H', 'W'), help='of images')
    add('--video', type=Path, action='append', default=[], metavar='FILE',
        help='of good images: count the alarms there')
    add('--roi', type=int, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='of the videos')
    add('--sheets', '--pictures', type=Path, metavar='DIR', help='gets a sheet of these images')
    # fmt: on
    return parser


def sources(seed: int, count: int, size: Sequence[int]) -> Iterator[Source]:
    """
    Draw scenes.

    :param seed: seed of the first scene.
    :param count: number of scenes.
    :param size: (height, width) in pixels.
    :return: two images of each scene, one field apart.
    """
    for index in tqdm(range(count), 'scenes', leave=False):
        scene = Scene(seed + index, (size[0], size[1]), 1 / _FIELD_S)
        yield Source(scene.frame(20).image, scene.frame(21).image)


def measure(images: Iterator[Source]) -> dict[str, Counted]:
    """
    Compute each gate's metric on good images and on images with its degradation.

    :param images: good images.
    :return: the values by gate.
    """
    rng = np.random.default_rng(0)
    counted = {name: Counted([], {s: [] for s in SEVERITIES}) for name in CORRUPTIONS}
    for source in images:
        sample = sample_image(source.first)
        for name, corrupt in CORRUPTIONS.items():
            metric = GATES[name].measure
            if metric is None:
                continue
            counted[name].good.append(metric(sample))
            for severity, values in counted[name].corrupted.items():
                values.append(metric(sample_image(corrupt(source, severity, rng))))
    return counted


def fit(name: str, counted: Counted) -> float:
    """
    Choose a limit as the midpoint between good and degraded images.

    :param name: name of the gate.
    :param counted: values of its metric.
    :return: the midpoint between the worst good image and the best fully degraded image.
    """
    corrupted = counted.corrupted[SEVERITIES[-1]]
    if GATES[name].below:
        return (min(counted.good) + max(corrupted)) / 2
    return (max(counted.good) + min(corrupted)) / 2


def table(fitted: Mapping[str, float], tested: Mapping[str, Counted]) -> str:
    """
    Format the limits and their alarms.

    :param fitted: fitted limit by gate.
    :param tested: values by gate of images that were not used for fitting.
    :return: Markdown.
    """
    heads = ['gate', 'fitted', 'in use', 'false alarms', *(f'at {s:g}' for s in SEVERITIES)]
    lines = [heads, ['---'] * len(heads)]
    for name, counted in tested.items():
        limit = DEFAULTS[name].limit
        rates = [
            _rate(name, values, limit) for values in (counted.good, *counted.corrupted.values())
        ]
        lines.append([name, f'{fitted[name]:.3f}', f'{limit:.3f}', *rates])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _rate(name: str, values: Sequence[float], limit: float) -> str:
    alarms = sum(v < limit if GATES[name].below else v >= limit for v in values)
    return f'{alarms}/{len(values)}'


def alarms_of(video: Path, roi: Sequence[int] | None) -> str:
    """
    Count the alarms of the gates with the limits in use.

    :param video: file of the video.
    :param roi: x, y, width and height of the part to use, or None.
    :return: a description.
    """
    gates = Gates()
    found: dict[str, int] = {}
    count = 0
    for _, image in read_frames(video, itertools.count(), {}):
        if roi:
            x, y, width, height = roi
            image = image[y : y + height, x : x + width]
        for finding in gates.check(np.asarray(image, np.uint8)):
            found[finding.gate] = found.get(finding.gate, 0) + 1
        count += 1
    reported = ', '.join(f'{name} {alarms}' for name, alarms in found.items())
    return f'{count} images, alarms: {reported or "none"}'


def draw(folder: Path, source: Source) -> None:
    """
    Write sheets that show the severities as images.

    :param folder: folder for a sheet per gate, with severities from left to right.
    :param source: the good image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, corrupt in CORRUPTIONS.items():
        row = [_thumbnail(corrupt(source, severity, rng)) for severity in SEVERITIES]
        cv2.imwrite(str(folder / f'{name}.png'), np.hstack(row)[..., ::-1])


def _thumbnail(image: RgbArray) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = (round(240 * width / height), 240)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == '__main__':
    sys.exit(main())

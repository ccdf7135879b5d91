# SPDX-License-Identifier: Apache-2.0
"""
Measures the share of damaged JPEGs that is rejected, and the time for reading an intact one.

python -m tools.benchmarks.jpeg_damage --data DIR [--cases 500] [--seed 0]

DIR is a data set, for example from `synthesize`, with closely spaced frames, since damage often
mixes two of them. Each case has another pair of frames, size, noise and quality. For damage that
is not detected, the table shows the share of the image that is wrong.
"""

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_files import ImageFileError, check_file, decode_rgb
from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.layout import find_images

QUALITIES: Final = (50, 75, 90, 95)
SIZES: Final = ((320, 240), (640, 360), (960, 540))
NOISES: Final = (0, 2, 5)
VISIBLE: Final = 16
"""A pixel is wrong if a channel differs by more than this, in grey levels."""

_PLAIN: Final[dict[int, int]] = {}
_RESTARTS: Final = {cv2.IMWRITE_JPEG_RST_INTERVAL: 8}
_SCANS: Final = {cv2.IMWRITE_JPEG_PROGRESSIVE: 1}
_EOI: Final = b'\xff\xd9'

Damage = Callable[[bytes, bytes, np.random.Generator], bytes]
"""Function from a file, that of the previous frame, and a random generator to a damaged file."""


def _offset(data: bytes, rng: np.random.Generator, room: int = 0) -> int:
    """Choose a position in the coded data."""
    start = data.find(b'\xff\xda') + 14
    return int(rng.integers(start, max(start + 1, len(data) - 2 - room)))


def _lost(number: int) -> Damage:
    def damage(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
        a = _offset(data, rng, number)
        return data[:a] + data[a + number :]

    return damage


def _overwritten(number: int, by: Callable[[np.random.Generator], bytes]) -> Damage:
    def damage(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
        a = _offset(data, rng, number)
        return data[:a] + by(rng) + data[a + number :]

    return damage


def _stale(number: int) -> Damage:
    def damage(data: bytes, before: bytes, rng: np.random.Generator) -> bytes:
        a = _offset(data, rng, number)
        return data[:a] + before[a : a + number] + data[a + number :]

    return damage


def _old_rest(data: bytes, before: bytes, rng: np.random.Generator) -> bytes:
    a = _offset(data, rng, 2)
    return data[:a] + (before + bytes(len(data)))[a:]


def _flipped(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    a = _offset(data, rng)
    return data[:a] + bytes([data[a] ^ int(rng.integers(1, 256))]) + data[a + 1 :]


def _halves_swapped(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    start, a = data.find(b'\xff\xda') + 14, _offset(data, rng, 2)
    return data[:start] + data[a:-2] + data[start:a] + data[-2:]


def _intervals(number: int, times: int) -> Damage:
    def damage(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
        offsets = [match.start() for match in re.finditer(rb'\xff[\xd0-\xd7]', data)]
        first = int(rng.integers(0, len(offsets) - number))
        start, end = offsets[first], offsets[first + number]
        return data[:start] + data[start:end] * times + data[end:]

    return damage


def _last_scans_lost(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    offsets = [match.start() for match in re.finditer(rb'\xff\xda', data)]
    return data[: offsets[int(rng.integers(1, len(offsets)))]] + _EOI


_read: Final = functools.lru_cache(64)(read_image_file)

DAMAGES: Final[dict[str, tuple[Damage, dict[int, int]]]] = {
    **{f'{n} bytes lost': (_lost(n), _PLAIN) for n in (64, 188, 512, 1500)},
    **{
        f'{n} bytes of zeros': (_overwritten(n, lambda _, n=n: bytes(n)), _PLAIN)
        for n in (16, 512)
    },
    '16 bytes of 0xFF': (_overwritten(16, lambda _: b'\xff' * 16), _PLAIN),
    '512 random bytes': (_overwritten(512, lambda rng: rng.bytes(512)), _PLAIN),
    **{f'{n} bytes of the frame before': (_stale(n), _PLAIN) for n in (188, 1500)},
    'rest of the frame before': (_old_rest, _PLAIN),
    'end of the frame before, 200 bytes': (
        lambda data, before, rng: data[: _offset(data, rng, 300)] + before[-200:],
        _PLAIN,
    ),
    'end marker too soon': (
        lambda data, _, rng: data[: _offset(data, rng, 8)] + _EOI,
        _PLAIN,
    ),
    'halves swapped': (_halves_swapped, _PLAIN),
    'one byte flipped': (_flipped, _PLAIN),
    'one byte flipped, restart markers': (_flipped, _RESTARTS),
    'one byte flipped, progressive': (_flipped, _SCANS),
    'one restart interval lost': (_intervals(1, 0), _RESTARTS),
    'eight restart intervals lost': (_intervals(8, 0), _RESTARTS),
    'a restart interval twice': (_intervals(1, 2), _RESTARTS),
    'last scans lost': (_last_scans_lost, _SCANS),
    '512 bytes lost, progressive': (_lost(512), _SCANS),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Measure and print.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.benchmarks.jpeg_damage')
    parser.add_argument('--data', type=Path, required=True, help='a data set')
    parser.add_argument('--cases', type=int, default=500, help='of each kind of damage')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args(argv)
    videos = [list(find_images(video).values()) for video in sorted(options.data.glob('video*'))]
    videos = [paths for paths in videos if len(paths) > 1]
    if not videos:
        print(f'{options.data}: no video of at least two frames', file=sys.stderr)
        return 2
    print('| damage | refused | if not refused: wrong share of the image, p50, p90 |')
    print('| --- | --- | --- |')
    for kind, (damage, settings) in DAMAGES.items():
        rng = np.random.default_rng(options.seed)
        wrong = [_try(videos, damage, settings, rng) for _ in range(options.cases)]
        print(_row(kind, wrong), flush=True)
    print(_times(read_image_file(videos[0][0])))
    return 0


def _try(
    videos: Sequence[Sequence[Path]],
    damage: Damage,
    settings: dict[int, int],
    rng: np.random.Generator,
) -> float | None:
    """Damage a file; return the wrong share of its image, or None if it is rejected."""
    paths = videos[int(rng.integers(len(videos)))]
    index = int(rng.integers(1, len(paths)))
    size = SIZES[int(rng.integers(len(SIZES)))]
    noise, quality = int(rng.choice(NOISES)), int(rng.choice(QUALITIES))
    before, data = (
        _encoded(_read(path), size, noise, {cv2.IMWRITE_JPEG_QUALITY: quality, **settings})
        for path in paths[index - 1 : index + 1]
    )
    damaged = damage(data, before, rng)
    try:
        shown = decode_rgb(check_file(damaged)).rgb
    except ImageFileError:
        return None
    whole = decode_rgb(check_file(data)).rgb
    difference = np.abs(shown.astype(np.int16) - whole).max(2)
    return float(np.mean(difference > VISIBLE))


def _encoded(
    rgb: NDArray[np.uint8], size: tuple[int, int], noise: float, settings: dict[int, int]
) -> bytes:
    scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    noisy = scaled + np.random.default_rng(0).normal(0, noise, scaled.shape)
    bgr = np.clip(noisy, 0, 255).astype(np.uint8)[..., ::-1]
    flat = [number for pair in settings.items() for number in pair]
    return cv2.imencode('.jpg', bgr, flat)[1].tobytes()


def _row(kind: str, wrong: Sequence[float | None]) -> str:
    shown = [share for share in wrong if share is not None]
    refused = 1 - len(shown) / len(wrong)
    half, maximum = np.percentile(shown, (50, 90)) if shown else (0.0, 0.0)
    shares = f'{half:.1%}, {maximum:.1%}' if shown else ''
    return f'| {kind} | {refused:.1%} | {shares} |'


def _times(rgb: NDArray[np.uint8]) -> str:
    """Time both kinds of decoding, alternating, at 1920x1080."""
    data = _encoded(rgb, (1920, 1080), 4, {cv2.IMWRITE_JPEG_QUALITY: 90})
    decoders: dict[str, Callable[[], object]] = {
        'OpenCV': lambda: cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        ),
        'with checks': lambda: decode_rgb(check_file(data)),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(40):
        for name, decode in decoders.items():
            started = time.perf_counter()
            decode()
            times_ms[name].append(1e3 * (time.perf_counter() - started))
    reported = ', '.join(f'{name} {median(times):.1f} ms' for name, times in times_ms.items())
    return f'\n1920x1080, {len(data)} bytes, medians of 40 in turn: {reported}'


if __name__ == '__main__':
    sys.exit(main())

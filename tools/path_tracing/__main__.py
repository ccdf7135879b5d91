# SPDX-License-Identifier: Apache-2.0
"""
Renders scenes with exact masks by path tracing, as a data set for `train`.

It needs Blender as a Python module, whose wheel is for Python 3.11, so it has an environment of
its own, without the packages of surgseg_ros:

    python3.11 -m venv .venv.blender
    .venv.blender/bin/pip install bpy==5.0.1 opencv-python-headless
    .venv.blender/bin/python -m tools.path_tracing --output DIR --scenes 250

A scene is a video of two independent images. Complete scenes are skipped, so that the same
command resumes an interrupted run.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from surgseg_ros.cli.command import FAILED, Command, Signals, print_line, run
from surgseg_ros.core.files import check_folder

NAME: Final = 'path_tracing'

MIN_WIDTH_PX: Final = 64
"""Nothing could be recognized in smaller images."""

REMEDY: Final = (
    'use Python 3.11 and run `pip install bpy==5.0.1 opencv-python-headless` in a virtual '
    'environment of its own'
)

_COMMAND: Final = Command(
    NAME, 'tools.path_tracing.__main__:main', 'the same command renders the missing scenes'
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Render the scenes that are missing.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 2 if bpy is missing, or if a scene failed.
    :raises OSError: if the output cannot be written.
    """
    options = _parser().parse_args(argv)
    if missing := [name for name in ('bpy', 'cv2', 'numpy') if find_spec(name) is None]:
        print_line(NAME, f'there is no module {missing[0]!r}: {REMEDY}')
        return FAILED
    # These import the modules whose absence was reported above.
    from tools.path_tracing.processes import render_missing
    from tools.path_tracing.worker import Batch

    check_folder(options.output)
    wanted = tuple(range(options.first, options.first + options.scenes))
    batch = Batch(
        options.output, wanted, options.width, options.samples, options.threads, options.bare
    )
    failed = render_missing(batch)
    for scene, error in failed.items():
        print_line(NAME, f'scene {scene} failed: {error}')
    if not failed:
        print(f'{options.output} has scenes {wanted[0]} to {wanted[-1]}')
    return FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    description = __doc__.strip().partition('\n')[0]
    parser = argparse.ArgumentParser(prog='python -m tools.path_tracing', description=description)
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, required=True, metavar='DIR', help='the data set: DIR/video_01 ...')
    add('--scenes', type=_at_least(1), required=True, metavar='N', help='number of scenes, each '
        'a video of two images')
    add('--first', type=_at_least(0), default=0, metavar='K', help='number of the first '
        'scene, which is also its seed: scene 0 is video_01 (default: 0)')
    add('--threads', type=_at_least(1), default=1, metavar='T', help='(default: 1)')
    add('--samples', type=_at_least(1), default=9, metavar='S', help='per pixel; the noise of '
        'the image is removed in any case (default: 9)')
    add('--width', type=_at_least(MIN_WIDTH_PX), default=640, metavar='PX', help='of the '
        'images, whose aspect ratio is 16:9 (default: 640)')
    add('--bare', action='store_true', help='tissue without instruments: paler, smoother, nearer '
        'and more often out of focus; all of its mask is background')
    # fmt: on
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    """Return a function that reads a number; `surgseg_ros.cli.arguments` imports NumPy."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f'{text!r} must be a whole number from {minimum} on')
        return int(text)

    return read


if __name__ == '__main__':
    _signals = Signals(_COMMAND)
    _signals.listen()
    _signals.end(run(_COMMAND, sys.argv[1:], _signals))

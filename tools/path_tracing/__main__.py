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
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from surgseg_ros.cli.arguments import non_negative_int, positive_int
from surgseg_ros.cli.endings import FAILED, Command, Signals, print_line, run
from surgseg_ros.core.files import check_folder
from surgseg_ros.core.processes import deaf_to_terminal, worker_pool
from tools.path_tracing.worker import SHOTS, Batch, is_complete, render_batch

NAME: Final = 'path_tracing'

SCENES_PER_PROCESS: Final = 10
"""Blender keeps some memory of each scene, so a process renders only so many of them."""

LEAST_WIDTH_PX: Final = 64
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
    if missing := [name for name in ('bpy', 'cv2') if find_spec(name) is None]:
        print_line(NAME, f'there is no module {missing[0]!r}: {REMEDY}')
        return FAILED
    check_folder(options.output)
    wanted = tuple(range(options.first, options.first + options.scenes))
    batch = Batch(options.output, wanted, options.width, options.samples, options.threads)
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
    add('--scenes', type=positive_int, required=True, metavar='N', help='number of scenes, each '
        'a video of two images')
    add('--first', type=non_negative_int, default=0, metavar='K', help='number of the first '
        'scene, which is also its seed: scene 0 is video_01 (default: 0)')
    add('--threads', type=positive_int, default=1, metavar='T', help='(default: 1)')
    add('--samples', type=positive_int, default=9, metavar='S', help='per pixel; the noise of '
        'the image is removed in any case (default: 9)')
    add('--width', type=_width, default=640, metavar='PX', help='of the images, whose aspect '
        'ratio is 16:9 (default: 640)')
    # fmt: on
    return parser


def _width(text: str) -> int:
    """Read a width in pixels, from 64 on."""
    value = positive_int(text)
    if value < LEAST_WIDTH_PX:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least {LEAST_WIDTH_PX}')
    return value


def render_missing(wanted: Batch) -> dict[int, RuntimeError]:
    """
    Render the scenes that are missing, in one process after another.

    :param wanted: all scenes.
    :return: the errors of the scenes that failed, by number.
    :raises OSError: if a scene cannot be written.
    """
    failed: dict[int, RuntimeError] = {}
    while missing := _missing(wanted, failed):
        batch = wanted._replace(scenes=missing[:SCENES_PER_PROCESS])
        start = time.monotonic()
        try:
            with worker_pool(1) as pool:
                with deaf_to_terminal():
                    result = pool.submit(render_batch, batch)
                result.result()
        except RuntimeError as error:  # of Blender, or of a process that was killed
            if unfinished := _missing(batch, failed):
                failed[unfinished[0]] = error
        left = _missing(wanted, failed)
        if count := len(missing) - len(left):
            seconds = (time.monotonic() - start) / (count * SHOTS)
            print(f'{len(left)} scenes left, {seconds:.1f} s per image', flush=True)
    return failed


def _missing(wanted: Batch, failed: dict[int, RuntimeError]) -> tuple[int, ...]:
    scenes = (scene for scene in wanted.scenes if not is_complete(wanted.output, scene))
    return tuple(scene for scene in scenes if scene not in failed)


if __name__ == '__main__':
    _signals = Signals(_COMMAND)
    _signals.listen()
    _signals.end(run(_COMMAND, sys.argv[1:], _signals))

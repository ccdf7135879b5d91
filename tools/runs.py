# SPDX-License-Identifier: Apache-2.0
"""The long steps of the tools that train: what is done stays done, what was cut off goes on."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgseg_ros.__main__ import main as run_verb


class StepError(RuntimeError):
    """A step that did not end well; it has said why itself."""


class Videos(NamedTuple):
    """
    Synthetic videos to draw.

    :param seed: of `synthesize`; no two seeds share a scene.
    :param videos: how many.
    :param frames: of each.
    :param stride: of the frames that would be in between, every so many-th is drawn.
    :param size: (height, width) in pixels.
    :param rate_hz: frames a second.
    """

    seed: int
    videos: int
    frames: int
    stride: int
    size: tuple[int, int] = (720, 1280)
    rate_hz: float = 15.0


def draw(folder: Path, wanted: Videos) -> Path:
    """
    Draw videos, unless the folder is there; it is never there in part.

    :param folder: where to.
    :param wanted: what.
    :return: the folder.
    :raises StepError: if they cannot be drawn.
    """
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + '.partial')
    if partial.exists():
        shutil.rmtree(partial)
    arguments = {
        'output': partial,
        'videos': wanted.videos,
        'frames': wanted.frames,
        'stride': wanted.stride,
        'size': f'{wanted.size[1]}x{wanted.size[0]}',
        'rate': wanted.rate_hz,
        'seed': wanted.seed,
    }
    words = [word for key, value in arguments.items() for word in (f'--{key}', str(value))]
    if run_verb(['synthesize', *words, '--jpeg']):
        raise StepError(f'drawing {folder}')
    partial.rename(folder)
    return folder


def train_once(config: Path, output: Path, settings: Sequence[str]) -> Path:
    """
    Train a model, unless that is done; go on where it was interrupted.

    :param config: the recipe.
    :param output: the model folder.
    :param settings: `key=value`, over the recipe's.
    :return: the model folder.
    :raises StepError: if it cannot be trained.
    """
    if is_done(output):
        return output
    resume = ['--resume'] if output.exists() else []
    words = ['--config', str(config), *resume, f'output={output}', *settings]
    if start_training(words):
        raise StepError(f'training {output}')
    return output


def start_training(words: Sequence[str]) -> int:
    """
    Train in a process of its own, which Lightning can start again where there are to be several.

    :param words: of the verb `train`.
    :return: the exit status.
    """
    return subprocess.run([sys.executable, '-m', 'surgseg_ros', 'train', *words]).returncode


def is_done(output: Path) -> bool:
    """
    Tell a model that is ready from one that is still being trained.

    :param output: the model folder.
    :return: whether it has its card, which is written last.
    """
    return (output / 'README.md').exists()

# SPDX-License-Identifier: Apache-2.0
"""The long steps of tools that train: finished steps are skipped, interrupted ones continue."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgseg_ros.__main__ import main as run_verb


class StepError(RuntimeError):
    """A step that failed; it has already printed the reason."""


class Videos(NamedTuple):
    """
    Synthetic videos to draw.

    :param seed: seed for `synthesize`; different seeds share no scene.
    :param videos: number of videos.
    :param frames: number of frames in each.
    :param stride: only every `stride`-th frame of a scene is drawn.
    :param size: (height, width) in pixels.
    :param rate_hz: frames per second.
    :param jpeg: whether images are JPEG; otherwise PNG.
    """

    seed: int
    videos: int
    frames: int
    stride: int
    size: tuple[int, int] = (720, 1280)
    rate_hz: float = 15.0
    jpeg: bool = True


def draw(folder: Path, wanted: Videos) -> Path:
    """
    Draw videos, unless the folder exists: `synthesize` leaves no incomplete folder.

    :param folder: folder of the videos.
    :param wanted: the videos.
    :return: the folder.
    :raises StepError: if they cannot be drawn.
    """
    if folder.exists():
        return folder
    arguments = {
        'output': folder,
        'videos': wanted.videos,
        'frames': wanted.frames,
        'stride': wanted.stride,
        'size': f'{wanted.size[1]}x{wanted.size[0]}',
        'rate': wanted.rate_hz,
        'seed': wanted.seed,
    }
    words = [word for key, value in arguments.items() for word in (f'--{key}', str(value))]
    if run_verb(['synthesize', *words, *(['--jpeg'] if wanted.jpeg else [])]):
        raise StepError(f'drawing {folder}')
    return folder


def train_once(config: Path, output: Path, settings: Sequence[str]) -> Path:
    """
    Train a model, unless this has been done; resume an interrupted run.

    :param config: the recipe.
    :param output: the model folder.
    :param settings: `key=value`, which override the recipe's.
    :return: the model folder.
    :raises StepError: if training fails.
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
    Train in a separate process, which Lightning can start again for several devices.

    :param words: arguments of the verb `train`.
    :return: the exit status.
    """
    return subprocess.run([sys.executable, '-m', 'surgseg_ros', 'train', *words]).returncode


def is_done(output: Path) -> bool:
    """
    Return whether a model is complete, and not still being trained.

    :param output: the model folder.
    :return: whether it has its model card, which is written last.
    """
    return (output / 'README.md').exists()

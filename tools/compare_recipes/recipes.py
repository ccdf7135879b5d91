# SPDX-License-Identifier: Apache-2.0
"""The two recipes, and the changes to them, with reasons."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

CONFIGS: Final = {'paper': Path('config/train_paper.yaml'), 'ours': Path('config/train.yaml')}
"""Configuration file of each recipe. The second is compared with the first."""


class Change(NamedTuple):
    """A value that differs from the recipe's file, and the reason."""

    value: Any
    reason: str


_BOTH: Final = {
    'intended_use': Change('demo', 'they know synthetic scenes only'),
    'encoder_weights': Change('none', 'the same initial weights for both, without a download'),
    'epochs': Change(0, 'both make the same number of steps'),
    'minutes': Change(0, 'both make the same number of steps'),
    'patience': Change(0, 'both make all steps; each recipe selects its weights in its own way'),
    'accumulate': Change(1, 'a step of both has the same number of images'),
    'margins': Change(False, 'thresholds, such as the minimum region, must not decide'),
    'validation_share': Change(0.1, 'most videos are for training'),
    'picture_every': Change(0, 'they are not needed'),
}
_PAPER: Final = {'split': Change('frame', 'as in the file: it selects by similar frames')}
_OURS: Final = {'split': Change('video', 'as in the file: it selects by unseen videos')}

SCALES: Final[Mapping[str, Mapping[str, Mapping[str, Change]]]] = {
    'small': {
        'both': {
            **_BOTH,
            'encoder': Change('mobilenet_v2', 'two cores can train it'),
            'options': Change(
                {'decoder_channels': [64, 48, 32, 24, 16]}, 'two cores can train it'
            ),
            'batch_size': Change(4, 'two cores can train it, and in more steps'),
            'precision': Change('float32', 'a CPU is slower with lower precision'),
        },
        'paper': _PAPER,
        'ours': {
            **_OURS,
            'input_size': Change([384, 640], 'two cores can train it'),
            'crop_size': Change([256, 256], 'as many pixels per step as the other recipe'),
            'ema_decay': Change(0.99, 'a short run; the average must not reach back to its start'),
            'warm_up_steps': Change(50, 'a short run'),
            'learning_rate': Change(0.0015, 'a short run, and no pretrained encoder to spare'),
        },
    },
    'full': {
        'both': {
            **_BOTH,
            'encoder': Change('resnet34', 'the same for both'),
            'precision': Change('bfloat16', 'the same for both, and faster'),
        },
        'paper': _PAPER,
        'ours': _OURS,
    },
}
"""Changes by scale, recipe and setting."""

STEPS: Final = {'small': 2000, 'full': 4000}
VALIDATIONS: Final = 5


def settings(scale: str, recipe: str, seed: int, steps: int) -> list[str]:
    """
    Return the settings of a run for `train`.

    :param scale: a key of SCALES.
    :param recipe: a key of CONFIGS.
    :param seed: seed of weights, order and augmentation; the split is fixed.
    :param steps: optimizer steps.
    :return: `key=value`.
    """
    changes = {**SCALES[scale]['both'], **SCALES[scale][recipe]}
    values = {key: change.value for key, change in changes.items()}
    values |= {
        'name': f'{recipe}, seed {seed}',
        'seed': seed,
        'steps': steps,
        'validate_every': max(1, steps // VALIDATIONS),
    }
    return [f'{key}={json.dumps(value)}' for key, value in values.items()]


def changes(scale: str) -> str:
    """
    List the changes.

    :param scale: a key of SCALES.
    :return: Markdown, a line for each change.
    """
    return '\n'.join(
        f'- {whom}: `{key}: {json.dumps(change.value)}` ({change.reason})'
        for whom, values in SCALES[scale].items()
        for key, change in values.items()
    )

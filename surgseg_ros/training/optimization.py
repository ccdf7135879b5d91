# SPDX-License-Identifier: Apache-2.0
"""How weights are moved, how fast, and how their running mean follows."""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from surgseg_ros.training.config import TrainConfig

_OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    'adamw': torch.optim.AdamW,
    'adam': torch.optim.Adam,
}

_FALLS: Final[dict[str, Callable[[float], float]]] = {
    'constant': lambda left: 1.0,
    'poly': lambda left: float(left**0.9),  # the power of DeepLab
    'cosine': lambda left: (1 - math.cos(math.pi * left)) / 2,
}
"""Share of the highest learning rate by the share of the run that is left."""


def build_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """
    Make the optimizer; biases and normalization do not decay.

    :param config: the settings.
    :param network: whose weights it moves.
    :return: the optimizer.
    """
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {'params': matrices, 'weight_decay': config.weight_decay},
        {'params': others, 'weight_decay': 0.0},
    ]
    return _OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate)


def rate(config: TrainConfig, step: int, progress: float) -> float:
    """
    Find the learning rate.

    :param config: the settings.
    :param step: optimizer steps done.
    :param progress: share of the run that is done.
    :return: share of the highest learning rate.
    """
    rise = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    return rise * _FALLS[config.schedule](max(0.0, 1 - progress))


def running_mean(decay: float) -> Callable[[Any, Any, Any], None]:
    """
    Make the rule by which averaged weights follow.

    :param decay: the mean's, once it is long; early on it forgets the random start faster.
    :return: as torch's AveragedModel wants it.
    """

    @torch.no_grad()
    def follow(averaged: Any, current: Any, count: Any) -> None:
        number = int(count)
        now = min(decay, (1 + number) / (10 + number))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), 1 - now)
            else:
                mean.copy_(value)

    return follow

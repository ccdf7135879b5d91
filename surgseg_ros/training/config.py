# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run, and what values they may have."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.training.augmentation import Augmentation
from surgseg_ros.training.data_errors import ON_FAULT
from surgseg_ros.training.splits import SPLITS

_CHOICES: Final = {
    'split': SPLITS,
    'on_fault': ON_FAULT,
    'optimizer': ('adamw', 'adam'),
    'schedule': ('cosine', 'poly', 'constant'),
    'select': ('score', 'mIoU', 'loss'),
    'precision': ('float32', 'bfloat16', 'float16'),
}
_POSITIVE: Final = ('batch_size', 'accumulate', 'nodes', 'learning_rate')
_NOT_NEGATIVE: Final = (
    'steps',
    'epochs',
    'minutes',
    'validate_every',
    'weight_decay',
    'warm_up_steps',
    'dice_weight',
    'patience',
    'workers',
    'picture_every',
)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and a remedy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """
    Everything that a run depends on.

    :param data: folder of `video_*`.
    :param output: model folder to write, new or empty; the run's own files go to `run/` in it.
    :param name: the model's name.
    :param intended_use: `demo` or `research`.
    :param architecture: as in ModelSpec; any of segmentation_models_pytorch.
    :param encoder: as in ModelSpec; any of segmentation_models_pytorch.
    :param encoder_weights: a name that segmentation_models_pytorch can fetch, a file, or `none`.
    :param start: folder of a model of the same architecture whose weights to go on from; empty
        for none.
    :param options: as in ModelSpec.
    :param input_size: (height, width) of the network's input in pixels.
    :param fit: how an image is fitted to it; `letterbox` or `sampler`.
    :param split: `video`, or `frame`, which flatters.
    :param validation_share: share of the videos, or of the frames.
    :param split_seed: chooses them.
    :param leave_out: names of videos and samples not to use.
    :param on_fault: what to do with samples that something is wrong with; `refuse`, `leave_out`.
    :param frame_cache: folder for frames of videos that are not unpacked; empty for the usual one.
    :param cache: folder for fitted frames, which several runs may share; empty for one of the
        run's own, which goes with its end.
    :param crop_size: (height, width) of what a step looks at; multiples of 32.
    :param augmentation: how views differ from the image.
    :param seed: of weights, order and augmentation.
    :param batch_size: views that go through the network at once, on each device.
    :param accumulate: batches in an optimizer step.
    :param steps: optimizer steps; 0 where `epochs` is set.
    :param epochs: passes over the training frames; 0 where `steps` is set.
    :param minutes: the longest time; the learning rate then falls with the time. 0 is no limit,
        and the only value with which a run can be repeated exactly.
    :param validate_every: steps between two validations on whole videos, each of which ends with
        a checkpoint; 0 for one after each pass over the training frames.
    :param optimizer: `adamw` or `adam`.
    :param learning_rate: the highest.
    :param weight_decay: not for biases and normalization.
    :param warm_up_steps: steps until the highest learning rate.
    :param schedule: how the rate falls; `cosine`, `poly`, or `constant`, which does not.
    :param dice_weight: weight of the batch Dice beside the cross-entropy.
    :param ema_decay: of the running mean of the weights, which is what is validated and written;
        0 for the weights themselves.
    :param select: what makes weights the best; the official `score` or `mIoU`, or the `loss`.
    :param patience: validations without a better one after which to stop; 0 never does.
    :param margins: whether to tune on the validation videos how far each class must lead.
    :param precision: `float32`, `bfloat16` or `float16` (both mixed).
    :param device: `auto`, `cpu` or `cuda`.
    :param devices: how many on each node, or `auto` for all.
    :param nodes: how many machines.
    :param strategy: Lightning's name of how to share the work.
    :param workers: processes that prepare views; 0 prepares them between the steps.
    :param picture_every: validations between two images of input, truth and prediction; 0 for
        none.
    """

    data: str
    output: str
    name: str = 'surgseg'
    intended_use: str = 'research'
    architecture: str = 'Unet'
    encoder: str = 'resnet34'
    encoder_weights: str = 'none'
    start: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = (512, 640)
    fit: str = 'letterbox'
    split: str = 'video'
    validation_share: float = 0.2
    split_seed: int = 0
    leave_out: tuple[str, ...] = ()
    on_fault: str = 'refuse'
    frame_cache: str = ''
    cache: str = ''
    crop_size: tuple[int, int] = (384, 384)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    batch_size: int = 8
    accumulate: int = 1
    steps: int = 0
    epochs: int = 0
    minutes: float = 0.0
    validate_every: int = 500
    optimizer: str = 'adamw'
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warm_up_steps: int = 200
    schedule: str = 'cosine'
    dice_weight: float = 1.0
    ema_decay: float = 0.998
    select: str = 'score'
    patience: int = 0
    margins: bool = False
    precision: str = 'float32'
    device: str = 'auto'
    devices: str = '1'
    nodes: int = 1
    strategy: str = 'auto'
    workers: int = 0
    picture_every: int = 1

    def __post_init__(self) -> None:
        """
        Hold the values against what a run can do.

        :raises ConfigError: on the first that does not fit.
        :raises ModelError: on the first that a model cannot have.
        """
        for key, choices in _CHOICES.items():
            self._check(key, getattr(self, key) in choices, f'one of {", ".join(choices)}')
        for key in _POSITIVE:
            self._check(key, 0 < getattr(self, key) < math.inf, 'more than 0, and finite')
        for key in _NOT_NEGATIVE:
            self._check(key, 0 <= getattr(self, key) < math.inf, '0 or more, and finite')
        for key in ('seed', 'split_seed'):
            self._check(key, 0 <= getattr(self, key) < 2**32, 'from 0 to 4294967295')
        self._check('validation_share', 0 < self.validation_share < 1, 'between 0 and 1')
        self._check('ema_decay', 0 <= self.ema_decay < 1, 'at least 0 and below 1')
        fits = len(self.crop_size) == 2 and all(s >= 32 and s % 32 == 0 for s in self.crop_size)
        self._check('crop_size', fits, 'two multiples of 32')
        counted = self.devices.isdecimal() and int(self.devices) > 0
        self._check('devices', counted or self.devices == 'auto', 'a count, or auto')
        if bool(self.steps) == bool(self.epochs):
            raise ConfigError(
                f'steps is {self.steps!r} and epochs is {self.epochs!r}: set one of them, and the '
                'other to 0'
            )
        self.spec()

    def _check(self, key: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ConfigError(f'{key} is {getattr(self, key)!r}, expected {expected}')

    def spec(self) -> ModelSpec:
        """
        Say what model the run makes.

        :return: the specification, without what only the run can tell.
        """
        shared = {f.name for f in dataclasses.fields(ModelSpec)} & set(vars(self))
        return ModelSpec(**{key: getattr(self, key) for key in shared})

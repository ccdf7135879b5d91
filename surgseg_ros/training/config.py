# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run: a YAML file of known keys, and `key=value` on top."""

import contextlib
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.training.augmentation import Augmentation

SCHEDULES: Final = ('cosine', 'poly')
PRECISIONS: Final = ('float32', 'bfloat16')


class ConfigError(ValueError):
    """A setting that can't be used; the message names it and a remedy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """
    Everything that a run depends on.

    :param data: folder of `video_*`.
    :param output: model folder to write, new or empty.
    :param name: the model's name.
    :param intended_use: `demo` or `research`.
    :param architecture: as in ModelSpec.
    :param encoder: as in ModelSpec.
    :param encoder_weights: a name that segmentation_models_pytorch can fetch, or `none`.
    :param start: folder of a model of the same architecture whose weights to go on from; empty
        for none.
    :param options: as in ModelSpec.
    :param input_size: (height, width) of the network's input in pixels.
    :param fit: how a picture is fitted to it; `letterbox` or `stretch`.
    :param crop_size: (height, width) of what a step looks at; multiples of 32.
    :param augmentation: how views differ from the picture.
    :param validation_share: share of the videos.
    :param split_seed: chooses them.
    :param seed: of weights, order and augmentation.
    :param batch_size: views in a step.
    :param steps: optimizer steps.
    :param minutes: the longest time; the learning rate then falls with the time. 0 is no limit,
        and the only value with which a run can be repeated exactly.
    :param validate_every: steps between two validations on whole videos.
    :param learning_rate: the highest.
    :param weight_decay: of AdamW; not for biases and normalization.
    :param warm_up_steps: steps until the highest learning rate.
    :param schedule: how the rate falls; `cosine` or `poly`.
    :param dice_weight: weight of the batch Dice beside the cross-entropy.
    :param ema_decay: of the running mean of the weights, which is what is validated and written.
    :param precision: `float32` or `bfloat16` (mixed).
    :param device: `auto`, `cpu` or `cuda`.
    :param workers: processes that prepare views; 0 prepares them between the steps.
    :param cache: folder for decoded frames; empty for a temporary one.
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
    crop_size: tuple[int, int] = (384, 384)
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation_share: float = 0.2
    split_seed: int = 0
    seed: int = 0
    batch_size: int = 8
    steps: int = 10_000
    minutes: float = 0.0
    validate_every: int = 500
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warm_up_steps: int = 200
    schedule: str = 'cosine'
    dice_weight: float = 1.0
    ema_decay: float = 0.998
    precision: str = 'float32'
    device: str = 'auto'
    workers: int = 0
    cache: str = ''

    def __post_init__(self) -> None:
        """
        Hold the values against what a run can do.

        :raises ConfigError: on the first that does not fit.
        :raises ModelError: on the first that a model can not have.
        """
        for key, choices in (('schedule', SCHEDULES), ('precision', PRECISIONS)):
            if (value := getattr(self, key)) not in choices:
                raise ConfigError(f'{key} is {value!r}, expected one of {", ".join(choices)}')
        for key in ('batch_size', 'steps', 'validate_every', 'learning_rate'):
            if getattr(self, key) <= 0:
                raise ConfigError(f'{key} is {getattr(self, key)!r}, expected more than 0')
        for key in ('validation_share', 'ema_decay'):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f'{key} is {getattr(self, key)!r}, expected between 0 and 1')
        if len(self.crop_size) != 2 or any(side < 32 or side % 32 for side in self.crop_size):
            raise ConfigError(f'crop_size is {self.crop_size!r}, expected two multiples of 32')
        self.spec()

    def spec(self) -> ModelSpec:
        """
        Say what model the run makes.

        :return: the specification, without what only the run can tell.
        """
        shared = {f.name for f in dataclasses.fields(ModelSpec)} & set(vars(self))
        return ModelSpec(**{key: getattr(self, key) for key in shared})


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """
    Read a run's settings.

    :param path: a YAML file.
    :param overrides: `key=value`, the value in YAML; `augmentation.flip=0` for a key inside.
    :return: the settings.
    :raises ConfigError: if the file can't be read, or a key or value is not understood.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{str(path)!r} can not be read as YAML: {error}') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{str(path)!r} holds {values!r}, expected `key: value` lines')
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is no setting: write key=value')
        *parents, last = key.split('.')
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f'{override!r}: {parent!r} has no keys inside')
        try:
            inner[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f'{override!r}: the value is no YAML ({error})') from error
    config: TrainConfig = _build(TrainConfig, values, '')
    return config


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Make the dataclass `kind` of plain values, each of its field's type."""
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.0)[0]
            raise ConfigError(
                f'unknown key {prefix + str(key)!r}: did you mean {prefix + near!r}?'
            )
    lacking = [
        name
        for name, entry in known.items()
        if entry.default is entry.default_factory is dataclasses.MISSING and name not in values
    ]
    if lacking:
        raise ConfigError(
            f'no value for {", ".join(lacking)}: add it to the file, or as key=value'
        )
    return kind(**{k: _convert(prefix + k, v, known[k].type) for k, v in values.items()})


def _number(value: Any) -> float:
    """Read a number; 1e-3 is one too, though YAML 1.1 takes it for a text."""
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _convert(key: str, value: Any, kind: Any) -> Any:
    """Take a plain value for a field of type `kind`, or say why not."""
    if kind is Augmentation and isinstance(value, dict):
        return _build(Augmentation, value, f'{key}.')
    if kind is float:
        with contextlib.suppress(TypeError, ValueError):
            return _number(value)
    if kind in (int, str) and type(value) is kind:
        return value
    if kind == tuple[int, int] and isinstance(value, list) and [*map(type, value)] == [int, int]:
        return tuple(value)
    if kind == Mapping[str, Any] and isinstance(value, dict):
        return value
    name = getattr(kind, '__name__', str(kind))
    raise ConfigError(
        f'{key} is {value!r}, expected {"two whole numbers" if kind == tuple[int, int] else name}'
    )

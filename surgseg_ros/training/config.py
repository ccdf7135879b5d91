# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run, and how they are read from a file."""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from surgseg_ros.core.model_folder import INTENDED_USES, ModelSpec, read_spec
from surgseg_ros.core.parameters import AUTO
from surgseg_ros.training.crop_dataset import Augmentation
from surgseg_ros.training.data_check import ON_FAULT
from surgseg_ros.training.dataset import SPLITS

_CHOICES: Final = {
    'intended_use': (AUTO, *INTENDED_USES),
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
    'encoder_rate',
    'warm_up_steps',
    'schedule_steps',
    'dice_weight',
    'class_balance',
    'patience',
    'workers',
    'picture_every',
)
FREE: Final = (
    'data',
    'output',
    'cache',
    'frame_cache',
    'start',
    'encoder_weights',
    'device',
    'workers',
    'picture_every',
    'intended_use',
)
"""Settings that may change when a run is resumed, since they do not affect its result."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and a remedy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """
    All settings of a run.

    :param data: folder of the data set, with a folder `video_*` for each video.
    :param output: model folder to write, new or empty; the run's own files go to `run/` in it.
    :param name: the model's name.
    :param intended_use: `demo`, `synthetic` or `research`; or `auto`: `synthetic` if `synthesize`
        drew every video of the data, and `start` has seen no others; else `research`.
    :param architecture: its name in segmentation_models_pytorch.
    :param encoder: its name in segmentation_models_pytorch.
    :param encoder_weights: a name that segmentation_models_pytorch can fetch, a file, or `none`.
    :param start: folder of a model of the same architecture whose weights to start from; empty
        for none.
    :param start_share: share of these weights in the result, which is interpolated between the
        best weights of the run and them; 0 for the best weights of the run themselves.
    :param options: further arguments of the architecture, such as `decoder_channels`.
    :param input_size: (height, width) of the network's input in pixels.
    :param fit: how an image is resized to it; `letterbox` or `stretch`.
    :param colour_normalization: `target`, means of red, green and blue (0 to 255) towards which
        images are moved, and `power`, how far (0 to 1); empty for that of the model of `start`, or
        none.
    :param normalize_training_colours: whether training crops come from images that are prepared
        by it too; validation always prepares them, as running does.
    :param split: how frames are divided into training and validation: by `video`, or by `frame`,
        with which scores are too high.
    :param validation_share: share of the videos, or of the frames, for validation.
    :param split_seed: seed of the split.
    :param leave_out: names of videos and samples not to use.
    :param on_fault: what to do with unusable samples; `refuse` or `leave_out`.
    :param frame_cache: folder for frames of videos that are not unpacked; empty for the usual one.
    :param cache: folder for resized frames, which several runs may share; empty for one of the
        run's own, which is removed when the run ends.
    :param crop_size: (height, width) in pixels of the training crops; multiples of 32.
    :param augmentation: random changes of training crops.
    :param seed: seed of weights, order and augmentation.
    :param batch_size: crops that go through the network at once, on each device.
    :param accumulate: number of batches in an optimizer step.
    :param steps: optimizer steps; 0 where `epochs` is set.
    :param epochs: passes over the training frames; 0 where `steps` is set.
    :param minutes: maximum duration; the learning rate then falls with time. 0: no limit, the only
        value with which a run is reproducible.
    :param validate_every: steps between two validations on whole videos, each of which ends with
        a checkpoint; 0 for one after each pass over the training frames.
    :param optimizer: `adamw` or `adam`.
    :param learning_rate: the highest learning rate.
    :param encoder_rate: the encoder's learning rate as a share of the decoder's; 0 leaves the
        encoder as it is, with the statistics of its batch normalization.
    :param weight_decay: weight decay of all weights but biases and normalization.
    :param warm_up_steps: steps in which the learning rate rises to its highest value.
    :param schedule: decay of the learning rate; `cosine`, `poly` or `constant`.
    :param schedule_steps: optimizer steps after which the decay ends; 0: at the end of the run. A
        run that ends earlier has the weights that a longer one would have at that point.
    :param dice_weight: weight of the batch Dice beside the cross-entropy.
    :param dice_absent: whether the Dice includes classes that are absent from a batch. This avoids
        stray pixels, but in batches of few crops it also prevents rare classes from being learnt.
    :param class_balance: exponent by which rare classes weigh more in the cross-entropy; 0 weighs
        all pixels equally, 1 all classes.
    :param ema_decay: decay of the exponential moving average of the weights, which is validated
        and written; 0 for the weights themselves.
    :param keep_weights: whether to keep the weights of every validation in `run/weights/`, to
        average some of them afterwards.
    :param select: the metric that selects the best weights: official `score` or `mIoU`, or `loss`.
    :param patience: validations without a better one after which to stop; 0 never does.
    :param margins: whether to tune, on the validation videos, the lead in logits that each class
        must have over the next best.
    :param precision: `float32`, `bfloat16` or `float16` (both mixed); a CPU without instructions
        for bfloat16 computes in float32 instead.
    :param device: `auto`, `cpu` or `cuda`.
    :param devices: number of devices on each node, or `auto` for all.
    :param nodes: number of machines.
    :param strategy: Lightning's strategy for sharing the work.
    :param workers: processes that prepare crops; 0 prepares them between the steps.
    :param picture_every: validations between two images of input, ground truth and prediction; 0
        for none.
    """

    data: str
    output: str
    name: str = 'surgseg'
    intended_use: str = AUTO
    architecture: str = 'Unet'
    encoder: str = 'resnet34'
    encoder_weights: str = 'none'
    start: str = ''
    start_share: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = (512, 640)
    fit: str = 'letterbox'
    colour_normalization: Mapping[str, Any] = field(default_factory=dict)
    normalize_training_colours: bool = False
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
    encoder_rate: float = 1.0
    weight_decay: float = 1e-2
    warm_up_steps: int = 200
    schedule: str = 'cosine'
    schedule_steps: int = 0
    dice_weight: float = 1.0
    dice_absent: bool = True
    class_balance: float = 0.0
    ema_decay: float = 0.998
    keep_weights: bool = False
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
        Check that a run can use the values.

        :raises ConfigError: on the first invalid value.
        :raises ModelError: on the first value that is invalid in a model.
        """
        for key, choices in _CHOICES.items():
            self._check(key, getattr(self, key) in choices, f'one of {", ".join(choices)}')
        for key in _POSITIVE:
            self._check(key, 0 < getattr(self, key) < math.inf, 'a finite number above 0')
        for key in _NOT_NEGATIVE:
            self._check(key, 0 <= getattr(self, key) < math.inf, '0 or more, and finite')
        for key in ('seed', 'split_seed'):
            self._check(key, 0 <= getattr(self, key) < 2**32, 'from 0 to 4294967295')
        self._check('validation_share', 0 < self.validation_share < 1, 'between 0 and 1')
        for key in ('ema_decay', 'start_share'):
            self._check(key, 0 <= getattr(self, key) < 1, 'at least 0 and below 1')
        fits = len(self.crop_size) == 2 and all(s >= 32 and s % 32 == 0 for s in self.crop_size)
        self._check('crop_size', fits, 'two multiples of 32')
        counted = self.devices.isdecimal() and int(self.devices) > 0
        self._check('devices', counted or self.devices == 'auto', 'a count, or auto')
        self._check_together()
        self.spec()

    def _check_together(self) -> None:
        """Check settings that depend on others."""
        if bool(self.steps) == bool(self.epochs):
            raise ConfigError(
                f'steps is {self.steps!r} and epochs is {self.epochs!r}: set one of them, and the '
                'other to 0'
            )
        if 0 < self.schedule_steps < self.steps:
            raise ConfigError(
                f'schedule_steps is {self.schedule_steps}, less than the {self.steps} of steps: '
                'the learning rate would be 0 at the end'
            )
        if self.start_share and not self.start:
            raise ConfigError(
                f'start_share is {self.start_share} without a start: set start to the folder of '
                'the model to interpolate with, or start_share to 0'
            )
        if self.normalize_training_colours and not (self.colour_normalization or self.start):
            raise ConfigError(
                'normalize_training_colours is True without a colour_normalization: set both, for '
                'example colour_normalization={target: [130, 70, 70], power: 0.6}'
            )

    def _check(self, key: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ConfigError(f'{key} is {getattr(self, key)!r}, expected {expected}')

    def spec(self) -> ModelSpec:
        """
        Describe the model of the run.

        :return: the specification, without values that are known only after the run, which include
            an `intended_use` of `auto`.
        """
        shared = {f.name for f in dataclasses.fields(ModelSpec)} & set(vars(self))
        values = {key: getattr(self, key) for key in shared}
        if self.intended_use == AUTO:
            del values['intended_use']
        return ModelSpec(**values)

    def of_result(self) -> dict[str, str]:
        """
        List the settings that affect the result.

        :return: the settings without FREE, as texts; with a `start_share`, also the hash of the
            weights in `start`.
        :raises ModelError: if `start` is needed and cannot be read.
        """
        values = dataclasses.asdict(self)
        result = {key: repr(value) for key, value in values.items() if key not in FREE}
        if self.start_share:
            result['weights of start'] = read_spec(self.start).weights_sha256
        else:  # as in checkpoints of earlier versions
            del result['start_share']
        return result


_EXPECTED: Final = {
    int: 'an integer',
    float: 'a number',
    bool: 'true or false',
    tuple[int, int]: 'two whole numbers',
    tuple[str, ...]: 'a list of texts',
    Mapping[str, Any]: 'keys and values',
}


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """
    Read a run's settings.

    :param path: a YAML file.
    :param overrides: `key=value`, the value in YAML; `augmentation.flip=0` for a key inside.
    :return: the settings.
    :raises ConfigError: if the file cannot be read, or a key or value is not understood.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f'{str(path)!r} cannot be read ({error.strerror})') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{str(path)!r} cannot be read as YAML: {_line(error)}') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{str(path)!r} holds {values!r}, expected `key: value` lines')
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is not a setting: write key=value')
        *parents, last = key.split('.')
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f'{override!r}: {parent!r} has no keys: it is not a section')
        try:
            inner[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f'{override!r}: the value is not YAML ({_line(error)})') from error
    config: TrainConfig = _build(TrainConfig, values, '')
    return config


def _line(error: Exception) -> str:
    """Put YAML's description of an error, with its position, into one line."""
    return ' '.join(str(error).split())


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Create the dataclass `kind` from plain values, converted to the types of its fields."""
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
    """Read a number; 1e-3 is one too, although YAML 1.1 reads it as a string."""
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _convert(key: str, value: Any, kind: Any) -> Any:
    """Convert a plain value for a field of type `kind`, or raise."""
    if kind is Augmentation and isinstance(value, dict):
        return _build(Augmentation, value, f'{key}.')
    if kind is float:
        with contextlib.suppress(TypeError, ValueError):
            return _number(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if kind is str and type(value) is int:  # devices: 2
        return str(value)
    if kind == tuple[int, int] and isinstance(value, list) and [*map(type, value)] == [int, int]:
        return tuple(value)
    if kind == tuple[str, ...] and isinstance(value, list) and {*map(type, value)} <= {str}:
        return tuple(value)
    if kind == Mapping[str, Any] and isinstance(value, dict):
        return value
    expected = _EXPECTED.get(kind) or getattr(kind, '__name__', str(kind))
    raise ConfigError(f'{key} is {value!r}, expected {expected}')

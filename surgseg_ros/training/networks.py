# SPDX-License-Identifier: Apache-2.0
"""Network, loss, optimizer and schedule of a training run."""

import copy
import dataclasses
import json
import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from surgseg_ros.core.errors import first_line
from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_model, read_spec
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, load_network
from surgseg_ros.training.config import ConfigError, TrainConfig

_SMOOTHING = 2e-4
"""
Added to numerator and denominator of Dice, as a share of the batch's pixels.

Then the loss of a class that is absent from the batch grows with its predicted area, and even a
small area matters: in the official metric, one wrong pixel costs the score of a whole frame.
"""


def segmentation_loss(
    logits: Tensor,
    truth: Tensor,
    dice_weight: float,
    weights: Tensor | None = None,
    *,
    absent: bool = True,
) -> Tensor:
    """
    Compute a weighted sum of cross-entropy and batch Dice.

    :param logits: (N, C, h, w).
    :param truth: (N, h, w) uint8 class index; NO_DECISION is ignored.
    :param dice_weight: weight of the Dice; that of the cross-entropy is 1.
    :param weights: (C,) float, weight of each class in the cross-entropy; None for equal weights.
    :param absent: as for `batch_dice`.
    :return: a scalar.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, truth.long(), weights, ignore_index=NO_DECISION)
    if dice_weight:
        loss = loss + dice_weight * batch_dice(logits, truth, absent=absent)
    return loss


def batch_dice(logits: Tensor, truth: Tensor, *, absent: bool = True) -> Tensor:
    """
    Compute 1 - Dice of each class over the whole batch.

    :param logits: (N, C, h, w) float.
    :param truth: (N, h, w) uint8 class index; NO_DECISION is ignored.
    :param absent: whether classes that are absent from the batch count. In a batch of few crops,
        most rare classes are absent, and their Dice then decreases their probability far more
        often and more strongly than anything increases it: they are never learnt.
    :return: the mean over the counted classes without the background; 0 if there are none.
    """
    counted = (truth != NO_DECISION)[:, None]
    probabilities = logits.softmax(1) * counted  # (N, C, h, w)
    label = torch.where(counted, truth[:, None], 0).long()
    of_truth = torch.zeros_like(probabilities).scatter_(1, label, counted.to(probabilities.dtype))
    smoothing = _SMOOTHING * truth.numel()
    shared = (probabilities * of_truth).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + of_truth.sum((0, 2, 3))
    dice = (2 * shared + smoothing) / (total + smoothing)
    lost = 1 - dice[BACKGROUND + 1 :]
    if absent:
        return lost.mean()
    shown = of_truth.sum((0, 2, 3))[BACKGROUND + 1 :] > 0
    return (lost * shown).sum() / shown.sum().clamp(min=1)


def class_weights(pixels: NDArray[np.int64], balance: float) -> Tensor:
    """
    Compute the weights of classes, which are higher for rare classes.

    :param pixels: (C,) number of pixels of each class in the training frames.
    :param balance: exponent; with 1, all classes have the same total weight, with 0 it is
        proportional to their pixels, with 0.5 to the square root.
    :return: (C,) float, 1 for the background and for classes that are absent.
    """
    shares = np.where(pixels > 0, pixels, pixels[BACKGROUND]) / max(1, pixels[BACKGROUND])
    return torch.from_numpy(shares**-balance).float()


_OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    'adamw': torch.optim.AdamW,
    'adam': torch.optim.Adam,
}

_FALLS: Final[dict[str, Callable[[float], float]]] = {
    'constant': lambda left: 1.0,
    'poly': lambda left: float(left**0.9),  # the power of DeepLab
    'cosine': lambda left: (1 - math.cos(math.pi * left)) / 2,
}
"""Factor for the highest learning rate, by the fraction of the run that is left."""


def build_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """
    Create the optimizer; biases and normalization have no weight decay.

    :param config: the settings; with an `encoder_rate` other than 1, the weights of the encoder
        are in separate groups, and with 0 in none.
    :param network: the network to train.
    :return: the optimizer.
    """
    parts = [(1.0, list(network.parameters()))]
    if config.encoder_rate != 1:
        layers = cast(nn.Module, network.layers)
        encoder = list(cast(nn.Module, layers.encoder).parameters())
        known = {id(p) for p in encoder}
        parts = [
            (1.0, [p for p in network.parameters() if id(p) not in known]),
            (config.encoder_rate, encoder),
        ]
    groups = [
        {'params': chosen, 'weight_decay': decay, 'lr': share * config.learning_rate}
        for share, weights in parts
        for chosen, decay in (
            ([p for p in weights if p.ndim > 1], config.weight_decay),
            ([p for p in weights if p.ndim <= 1], 0.0),
        )
        if share > 0
    ]
    return _OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate)


def freeze_encoder(network: nn.Module) -> None:
    """
    Freeze the encoder: no gradients, and batch normalization with its running statistics.

    :param network: network in training mode.
    """
    encoder = cast(nn.Module, cast(nn.Module, network.layers).encoder)
    encoder.eval().requires_grad_(False)


def rate(config: TrainConfig, step: int, progress: float) -> float:
    """
    Compute the factor for the learning rate.

    :param config: the settings.
    :param step: optimizer steps done.
    :param progress: fraction of the run that is done.
    :return: factor for the highest learning rate.
    """
    rise = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    return rise * _FALLS[config.schedule](max(0.0, 1 - progress))


def running_mean(decay: float) -> Callable[[Any, Any, Any], None]:
    """
    Create the function that updates the averaged weights.

    :param decay: decay late in a run; early on it is lower, to forget the random initialization.
    :return: in the format of torch's AveragedModel.
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


def interpolate(
    weights: Mapping[str, Tensor], start: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """
    Interpolate linearly between two sets of weights, as WiSE-FT does (Wortsman et al. 2022).

    :param weights: tensors by name, with the statistics of batch normalization.
    :param start: tensors of the same names and shapes.
    :param share: share of `start`; 0 for `weights`, 1 for `start`.
    :return: the tensors; counters, which are whole numbers, are those of `weights`.
    """
    return {
        key: value.lerp(start[key].to(value), share) if value.is_floating_point() else value
        for key, value in weights.items()
    }


_NONE: Final = 'none'
_FILE_SUFFIXES: Final = ('.safetensors', '.pth', '.pt', '.bin')
_CLASSIFIERS: Final = (
    *('fc.', 'classifier.', 'head.', 'last_linear.', 'head_norm.', 'num_batches'),
    *('conv_head.', 'bn2.'),  # between EfficientNet's last block and its classifier
)
"""Prefixes of a classifier's tensors, which an encoder does not have."""

_START_BYTES: Final = 512
_NO_TENSORS: Final = {
    b'<': 'an HTML page, as a failed download leaves it: download the file again',
    b'version https://git-lfs': 'a pointer of Git LFS: get the file itself with `git lfs pull`',
}
"""Files that are often found in place of weights, by their first bytes in lower case."""


def starting_spec(config: TrainConfig) -> ModelSpec:
    """
    Describe the model that a run creates, which prepares images as its initial weights expect.

    :param config: the settings.
    :return: the specification; its mean and std are those of the model that the run starts from,
        or those in the metadata of the encoder's file; else those of ImageNet. Its colour
        normalization is that of the settings, or of the model that the run starts from.
    :raises ModelError: if the weights cannot be read, or their normalization is invalid.
    """
    spec = config.spec()
    if config.start:
        start = read_spec(config.start)
        colours = spec.colour_normalization or start.colour_normalization
        return dataclasses.replace(
            spec, mean=start.mean, std=start.std, colour_normalization=colours
        )
    metadata = weights_metadata(config)
    try:
        mean, std = (
            tuple(json.loads(metadata[key])) if key in metadata else usual
            for key, usual in (('mean', spec.mean), ('std', spec.std))
        )
        return dataclasses.replace(spec, mean=mean, std=std)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'encoder_weights {config.encoder_weights!r}: its metadata have an invalid '
            f'normalization ({error}): make the file again'
        ) from error


def weights_metadata(config: TrainConfig) -> dict[str, str]:
    """
    Read the metadata in the file of the encoder's weights.

    :param config: the settings.
    :return: the metadata, `source`, `license`, `mean` and `std` for example; empty if the run
        starts from other weights, or the file has none.
    :raises ModelError: if the file cannot be read.
    """
    path = Path(config.encoder_weights)
    if config.start or path.suffix != '.safetensors':
        return {}
    _read_tensors(path)  # raises the better errors
    with safetensors.safe_open(path, 'pt') as file:
        return dict(file.metadata() or {})


def build_network(config: TrainConfig, spec: ModelSpec) -> SegmentationNetwork:
    """
    Build the network that training starts from.

    :param config: settings with the weights: `start`, `encoder_weights`, or none.
    :param spec: specification of the model.
    :return: the network on the CPU.
    :raises ModelError: if there is no such network, or its weights cannot be loaded.
    """
    if config.start:
        return load_network(spec, read_model(config.start)[1]).train()
    wanted = config.encoder_weights
    if wanted == _NONE:
        return SegmentationNetwork(spec)
    if Path(wanted).suffix in _FILE_SUFFIXES:
        network = SegmentationNetwork(spec)
        _load_encoder(network.layers.encoder, Path(wanted), spec.encoder)  # type: ignore[arg-type]
        return network
    try:
        return SegmentationNetwork(spec, wanted)
    except OSError as error:  # the client of the hub raises it for any error
        raise ModelError(
            f'encoder_weights {wanted!r} of {spec.encoder!r} cannot be fetched ({error}): '
            'connect to the network, or give a local file (encoder_weights=FILE.safetensors), or '
            "'none' to start from random weights"
        ) from error


def _load_encoder(encoder: nn.Module, path: Path, name: str) -> None:
    """Load the tensors of a file into an encoder, without those of a classifier."""
    target: nn.Module = getattr(encoder, 'model', encoder)  # encoders of timm are one level deeper
    weights = _read_tensors(path)
    wanted = target.state_dict()
    unknown = [k for k in weights if k not in wanted and not k.startswith(_CLASSIFIERS)]
    wrong_shape = [k for k in weights if k in wanted and weights[k].shape != wanted[k].shape]
    missing = [k for k in wanted if k not in weights and not k.endswith('num_batches_tracked')]
    for what, keys in (('unknown', unknown), ('wrong shape', wrong_shape), ('missing', missing)):
        if keys:
            raise ModelError(
                f'encoder_weights {str(path)!r} are not those of {name!r}: {what} '
                f'{", ".join(keys[:5])}{" …" if len(keys) > 5 else ""}'
            )
    nn.Module.load_state_dict(
        target, {**wanted, **{k: weights[k] for k in wanted if k in weights}}
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors; raise short errors, since torch's are long and misleading."""
    named = f'encoder_weights {str(path)!r}'
    try:
        with path.open('rb') as file:
            start = file.read(_START_BYTES).lstrip().lower()
    except OSError as error:
        raise ModelError(f'{named} cannot be read ({error.strerror}): check the path') from error
    for beginning, what in _NO_TENSORS.items():
        if start.startswith(beginning):
            raise ModelError(f'{named} are {what}')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            content: Any = torch.load(path, 'cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f'{named} contain more than tensors, a whole model perhaps, which is never unpickled, '
            "since that can run any code: save only the model's state_dict(), as safetensors if "
            'possible'
        ) from error
    except Exception as error:  # each reader raises its own types
        raise ModelError(
            f'{named} cannot be read as a file of tensors ({type(error).__name__}): it is '
            'truncated, or of another kind; download it again'
        ) from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ModelError(
            f'{named} contain no tensors by name: save only the state_dict() of the encoder'
        )
    return content


def try_network(config: TrainConfig, network: SegmentationNetwork) -> None:
    """
    Check, before data is prepared, that a network can be trained on crops and run on images.

    :param config: settings with their sizes.
    :param network: network on the CPU; not changed.
    :raises ConfigError: if it cannot; some networks cannot normalize a batch of one.
    """
    trial = copy.deepcopy(network)
    named = f'{config.architecture} with encoder {config.encoder!r}'
    count = min(config.batch_size, 2)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            trial.train()(torch.zeros((count, *config.crop_size, 3), dtype=torch.uint8))
        except (ValueError, RuntimeError) as error:
            if count == 1 and 'more than 1 value per channel' in str(error):
                raise ConfigError(
                    f'batch_size is 1, with which {named} cannot be trained on crops of '
                    f'{config.crop_size}: its batch normalization needs more than one value; set '
                    'batch_size to 2 or more'
                ) from error
            raise ConfigError(
                f'crop_size is {config.crop_size}, which {named} cannot take '
                f'({first_line(error)}): choose another'
            ) from error
        try:
            trial.eval()(torch.zeros((1, *config.input_size, 3), dtype=torch.uint8))
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f'input_size is {config.input_size}, which {named} cannot take '
                f'({first_line(error)}): choose another'
            ) from error

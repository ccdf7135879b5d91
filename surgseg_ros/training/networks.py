# SPDX-License-Identifier: Apache-2.0
"""The network that a run begins with: from a model folder, a pretrained encoder, or nothing."""

from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn

from surgseg_ros.core.model_folder import read_model
from surgseg_ros.core.model_spec import ModelError, ModelSpec
from surgseg_ros.core.network import SegmentationNetwork, load_network
from surgseg_ros.training.config import TrainConfig

_NONE: Final = 'none'
_FILE_SUFFIXES: Final = ('.safetensors', '.pth', '.pt', '.bin')
_CLASSIFIERS: Final = ('fc.', 'classifier.', 'head.', 'last_linear.', 'head_norm.', 'num_batches')
"""Beginnings of tensors of a classifier, which an encoder has no use for."""


def build_network(config: TrainConfig, spec: ModelSpec) -> SegmentationNetwork:
    """
    Build the network that training begins with.

    :param config: says with which weights: `start`, or `encoder_weights`, or none.
    :param spec: the model to be.
    :return: the network on the CPU.
    :raises ModelError: if there is no such network, or its weights can't be had.
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
    except OSError as error:  # what the hub's client raises, whatever the reason
        raise ModelError(
            f'encoder_weights {wanted!r} of {spec.encoder!r} can not be fetched ({error}): go '
            "online, or give a local file (encoder_weights=FILE.safetensors), or 'none' to begin "
            'from nothing'
        ) from error


def _load_encoder(encoder: nn.Module, path: Path, name: str) -> None:
    """Put a file's tensors into an encoder; a classifier's are left out."""
    target: nn.Module = getattr(encoder, 'model', encoder)  # timm's are one level down
    weights = _read_tensors(path)
    wanted = target.state_dict()
    unknown = [k for k in weights if k not in wanted and not k.startswith(_CLASSIFIERS)]
    misshapen = [k for k in weights if k in wanted and weights[k].shape != wanted[k].shape]
    missing = [k for k in wanted if k not in weights and not k.endswith('num_batches_tracked')]
    for what, keys in (('unknown', unknown), ('misshapen', misshapen), ('missing', missing)):
        if keys:
            raise ModelError(
                f'encoder_weights {str(path)!r} are not those of {name!r}: {what} '
                f'{", ".join(keys[:5])}{" …" if len(keys) > 5 else ""}'
            )
    nn.Module.load_state_dict(
        target, {**wanted, **{k: weights[k] for k in wanted if k in weights}}
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load(path.read_bytes())
        content: Any = torch.load(path, 'cpu', weights_only=True)
    except Exception as error:  # each reader has its own
        raise ModelError(f'encoder_weights {str(path)!r} can not be read: {error}') from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ModelError(f'encoder_weights {str(path)!r} hold no tensors by name')
    return content

# SPDX-License-Identifier: Apache-2.0
"""The network: an encoder-decoder of segmentation_models_pytorch with its normalisation inside."""

from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_spec import ModelError, ModelSpec


class SegmentationNetwork(nn.Module):
    """
    Maps fitted pictures to logits; the normalisation lives here, so that it can't drift.

    :param spec: which architecture and encoder, and the mean and deviation of pictures.
    :param encoder_weights: a name that segmentation_models_pytorch can fetch, or None.
    :raises ModelError: if the architecture or the encoder is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, encoder_weights: str | None = None) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.layers = _build(spec, encoder_weights)
        self.register_buffer('mean', 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), False)
        self.register_buffer('std', 255 * torch.tensor(spec.std).view(1, 3, 1, 1), False)

    def forward(self, fitted: Tensor) -> Tensor:
        """
        Find the logits of fitted pictures.

        :param fitted: (N, h, w, 3) uint8 RGB, as surgseg_ros.core.fitting.fit makes them.
        :return: (N, CLASS_COUNT, h, w) logits.
        """
        planes = fitted.permute(0, 3, 1, 2).to(self.mean.dtype)  # (N, 3, h, w), channels last
        logits: Tensor = self.layers((planes - self.mean) / self.std)
        return logits


def load_network(spec: ModelSpec, weights: Mapping[str, Tensor]) -> SegmentationNetwork:
    """
    Build the network of a model folder and put its weights in.

    :param spec: the folder's specification.
    :param weights: the folder's tensors.
    :return: the network on the CPU, in evaluation mode, channels last.
    :raises ModelError: if the weights are not those of this architecture.
    """
    network = SegmentationNetwork(spec)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ModelError(
            f'the weights are not those of {spec.architecture} with {spec.encoder}: {error}'
        ) from error
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _build(spec: ModelSpec, encoder_weights: str | None) -> nn.Module:
    options: dict[str, Any] = dict(spec.options)
    try:
        network: nn.Module = smp.create_model(
            spec.architecture,
            encoder_name=spec.encoder,
            encoder_weights=encoder_weights,
            in_channels=3,
            classes=CLASS_COUNT,
            **options,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f'{spec.architecture!r} with encoder {spec.encoder!r} and options {options!r} can not '
            f'be built by segmentation_models_pytorch: {error}'
        ) from error
    return network

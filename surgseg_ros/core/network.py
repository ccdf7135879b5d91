# SPDX-License-Identifier: Apache-2.0
"""The network: an encoder-decoder of segmentation_models_pytorch with its normalisation inside."""

import inspect
from collections.abc import Mapping
from typing import Final

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelError, ModelSpec

_FIXED_OPTIONS: Final = {
    'self',
    'kwargs',
    'encoder_name',
    'encoder_weights',
    'in_channels',
    'classes',
    'activation',
    'aux_params',
}
"""Arguments of an architecture that a model folder must not set: they change the output."""

_LARGEST_OPTION: Final = 2048
"""Maximum number, of channels for example: a million would take all memory."""


class SegmentationNetwork(nn.Module):
    """
    Maps fitted images to logits; it includes the normalization, so that it cannot get lost.

    :param spec: architecture, encoder, and mean and standard deviation of images.
    :param encoder_weights: name of weights that segmentation_models_pytorch downloads, or None.
    :raises ModelError: if the architecture or the encoder is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, encoder_weights: str | None = None) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = _build(spec, encoder_weights)
        self.register_buffer('mean', 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), False)
        self.register_buffer('std', 255 * torch.tensor(spec.std).view(1, 3, 1, 1), False)

    def forward(self, fitted: Tensor) -> Tensor:
        """
        Compute the logits of fitted images.

        :param fitted: (N, h, w, 3) uint8 RGB, as surgseg_ros.core.fitting.fit returns them.
        :return: (N, CLASS_COUNT, h, w) logits.
        """
        planes = fitted.permute(0, 3, 1, 2).to(self.mean.dtype)  # (N, 3, h, w), channels last
        # The layers may be of half precision, in which a mean of 123.675 would become 123.5.
        normalised = ((planes - self.mean) / self.std).to(next(self.layers.parameters()).dtype)
        logits: Tensor = self.layers(normalised)
        return logits


def load_network(spec: ModelSpec, weights: Mapping[str, Tensor]) -> SegmentationNetwork:
    """
    Build the network of a model folder and load its weights.

    :param spec: the specification of the folder.
    :param weights: the tensors of the folder.
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
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise ModelError(
            'the weights hold NaN or infinity: every mask would be empty; train again'
        )
    return network.eval().to(memory_format=torch.channels_last)


def _build(spec: ModelSpec, encoder_weights: str | None) -> nn.Module:
    named = f'{spec.architecture} with encoder {spec.encoder!r} and options {dict(spec.options)!r}'
    try:
        _check_options(spec)
        network: nn.Module = smp.create_model(
            spec.architecture,
            encoder_name=spec.encoder,
            encoder_weights=encoder_weights,
            in_channels=3,
            classes=CLASS_COUNT,
            **spec.options,
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(
            f'{named} cannot be built by segmentation_models_pytorch: {error}'
        ) from error
    return network


def _check_options(spec: ModelSpec) -> None:
    """Reject options that segmentation_models_pytorch would ignore, or pass to the encoder."""
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    architecture = architectures.get(spec.architecture.lower())
    if architecture is None:
        raise ValueError(f'it knows {", ".join(sorted(architectures))}')
    known = set(inspect.signature(architecture).parameters) - _FIXED_OPTIONS
    if unknown := sorted(set(spec.options) - known):
        raise ValueError(f'options {unknown!r} are none of {", ".join(sorted(known))}')
    for name, value in spec.options.items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, int | float) and number > _LARGEST_OPTION for number in values):
            raise ValueError(f'option {name} has a number larger than {_LARGEST_OPTION}')

# SPDX-License-Identifier: Apache-2.0
"""
The network, from segmentation_models_pytorch, and the runtime `torch`.

The network includes its normalization.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from surgseg_ros.core.cuda import Graphs
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_weights
from surgseg_ros.core.runtimes.base import AUTO, TORCH_DTYPES, RuntimeOptions, choose_device

if TYPE_CHECKING:
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

# Where a network is built, segmentation_models_pytorch is imported: that takes longer than the
# import of torch, and an exported or converted network does without.

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
"""Arguments of an architecture that a model folder must not set, since they change the output."""

_LARGEST_OPTION: Final = 2048
"""Maximum value of an option, such as channels: a million would take all memory."""


class SegmentationNetwork(nn.Module):
    """
    Maps resized images to logits; includes the normalization, so that it cannot be omitted.

    :param spec: architecture, encoder, and mean and standard deviation of images.
    :param encoder_weights: name of weights that segmentation_models_pytorch downloads, or None.
    :raises ModelError: if the architecture or the encoder is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, encoder_weights: str | None = None) -> None:
        super().__init__()
        self.layers = _build(spec, encoder_weights)
        self.register_buffer('mean', 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), False)
        self.register_buffer('std', 255 * torch.tensor(spec.std).view(1, 3, 1, 1), False)

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Compute the logits of resized images.

        :param inputs: (N, h, w, 3) uint8 RGB, as surgseg_ros.core.preprocessing.fit returns them.
        :return: (N, CLASS_COUNT, h, w) logits.
        """
        planes = inputs.permute(0, 3, 1, 2).to(self.mean.dtype)  # (N, 3, h, w), channels last
        # The layers may be of half precision, in which a mean of 123.675 would become 123.5.
        normalized = ((planes - self.mean) / self.std).to(next(self.layers.parameters()).dtype)
        logits: Tensor = self.layers(normalized)
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
            'the weights contain NaN or infinity: every mask would be empty; train again'
        )
    return network.eval().to(memory_format=torch.channels_last)


def _build(spec: ModelSpec, encoder_weights: str | None) -> nn.Module:
    import segmentation_models_pytorch as smp

    named = f'{spec.architecture} with encoder {spec.encoder!r} and options {dict(spec.options)!r}'
    try:
        _check_options(spec, smp.MODEL_ARCHITECTURES_MAPPING)
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


def _check_options(spec: ModelSpec, architectures: Mapping[str, type[nn.Module]]) -> None:
    """Reject options that segmentation_models_pytorch would ignore, or pass to the encoder."""
    architecture = architectures.get(spec.architecture.lower())
    if architecture is None:
        raise ValueError(f'expected one of {", ".join(sorted(architectures))}')
    known = set(inspect.signature(architecture).parameters) - _FIXED_OPTIONS
    if unknown := sorted(set(spec.options) - known):
        raise ValueError(f'options {unknown!r} are none of {", ".join(sorted(known))}')
    for name, value in spec.options.items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, int | float) and number > _LARGEST_OPTION for number in values):
            raise ValueError(f'option {name} has a number larger than {_LARGEST_OPTION}')


_SIDE_PX: Final = 128
"""Side of the test image; at full size, loading a ResNet-34 took twice as long."""

_TOLERANCE: Final = 1e-3
"""
Maximum change of a logit, relative to the largest; rounding causes a hundredth of it.

Fusing the wrong batch normalization would change logits by about their own magnitude.
"""


@torch.no_grad()  # inference tensors could not be converted to half precision
def fuse_batch_norm(network: SegmentationNetwork, size: tuple[int, int]) -> SegmentationNetwork:
    """
    Fuse batch normalization into the convolutions before it.

    In evaluation mode it is a scale and an offset per channel, which the weights can include; that
    saves one pass over all activations. Pairs are found by their order in a module, and the result
    is tested: an architecture that uses them in another order stays unchanged, and so does one
    that does not accept the small test image.

    :param network: network in evaluation mode, in float32, on the CPU; not modified.
    :param size: (h, w) of its input in pixels.
    :return: a network whose logits differ only by rounding; `network` itself if that fails.
    """
    fused = copy.deepcopy(network)
    _fuse(fused)
    return _if_same(fused, network, size)


@torch.no_grad()
def speed_up(network: SegmentationNetwork, size: tuple[int, int]) -> SegmentationNetwork:
    """
    Arrange a network for a CPU: fuse batch normalization, and convolve before upsampling.

    :param network: see `fuse_batch_norm`.
    :param size: (h, w) of its input in pixels.
    :return: a network whose logits differ only by rounding; `network` itself if that fails.
    """
    fused = fuse_batch_norm(network, size)
    if fused is network:
        return network
    changed = copy.deepcopy(fused)
    _convolve_early(changed)
    return _if_same(changed, fused, size)


def _if_same(
    changed: SegmentationNetwork, network: SegmentationNetwork, size: tuple[int, int]
) -> SegmentationNetwork:
    """Return the changed network if it computes the same logits; otherwise the other one."""
    changed.to(memory_format=torch.channels_last)
    shape = 1, *(min(side, _SIDE_PX + side % 32) for side in size), 3  # upsampled alike
    image = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
    try:
        expected, found = (_logits(each, image) for each in (network, changed))
    except Exception:  # architectures reject sizes with different exceptions
        return network
    if found.shape != expected.shape:
        return network
    is_same = (found - expected).abs().max() <= _TOLERANCE * expected.abs().max()
    return changed if is_same else network


def _logits(network: nn.Module, image: Tensor) -> Tensor:
    logits: Tensor = network(image)
    return logits


def _fuse(module: nn.Module) -> None:
    for (name, first), (next_name, second) in pairwise(list(module.named_children())):
        # A subclass may do more: that of timm also contains an activation.
        if isinstance(first, nn.Conv2d) and type(second) is nn.BatchNorm2d:
            setattr(module, name, fuse_conv_bn_eval(first, second))
            setattr(module, next_name, nn.Identity())
    for child in module.children():
        _fuse(child)


_WINDOW_OF_2: Final = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))
"""Which of three weights two pixels get, for the odd row of the first and the even of the next."""

_WINDOW_OF_3: Final = (((1, 0, 0), (0, 1, 1), (0, 0, 0)), ((0, 0, 0), (1, 1, 0), (0, 0, 1)))
"""Which of three weights three pixels get, for the even and the odd row of the one between."""


class EarlyConvolution(nn.Module):
    """
    A block whose first convolution is computed before the upsampling.

    A window of two pixels takes fewer operations, but its result has one row and column more at
    each side. Cropping costs a copy, except where features of the encoder are added anyway.

    :param block: the block, with batch normalization fused; its other layers are shared.
    :param channels: channels of its feature map, which are the first of the convolution's input.
    """

    def __init__(self, block: 'UnetDecoderBlock', channels: int) -> None:
        """Split the convolution."""
        super().__init__()
        first, *rest = block.conv1
        weight, of_skip = first.weight.detach().tensor_split([channels], dim=1)
        has_skip = of_skip.shape[1] > 0
        window = torch.tensor(_WINDOW_OF_2 if has_skip else _WINDOW_OF_3).to(weight)
        kernels = torch.einsum('pax,qby,oixy->opqiab', window, window, weight).flatten(0, 2)
        self.early = _convolution(kernels, first.bias.detach().repeat_interleave(4))
        self.of_skip = _convolution(of_skip) if has_skip else None
        self.rest = nn.Sequential(*rest, *block.conv2)

    def forward(
        self,
        feature_map: Tensor,
        target_height: int,
        target_width: int,
        skip_connection: Tensor | None = None,
    ) -> Tensor:
        """Compute the output of the block, with its arguments, if it doubles the size."""
        planes = F.pixel_shuffle(self.early(feature_map), 2)
        if self.of_skip is not None:
            planes = planes[..., 1:-1, 1:-1] + self.of_skip(skip_connection)
        result: Tensor = self.rest(planes)
        return result


def _convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    out, into, side = weight.shape[:3]
    made = nn.Conv2d(into, out, side, padding=1, bias=bias is not None)
    made.load_state_dict({'weight': weight} if bias is None else {'weight': weight, 'bias': bias})
    return made


def _convolve_early(network: nn.Module) -> None:
    """
    Replace the blocks of U-Nets that upsample to the nearest neighbour.

    :param network: the network, with batch normalization fused; modified.
    """
    import segmentation_models_pytorch as smp

    unets: list[Any] = [each for each in network.modules() if isinstance(each, smp.Unet)]
    for unet in unets:
        channels = unet.encoder.out_channels[-1]
        for index, block in enumerate(unet.decoder.blocks):
            following = block.conv2[0].out_channels
            if _is_plain(block):
                unet.decoder.blocks[index] = EarlyConvolution(block, channels)
            channels = following


def _is_plain(block: 'UnetDecoderBlock') -> bool:
    attentions = block.attention1.attention, block.attention2.attention
    is_usual = block.interpolation_mode == 'nearest' and block.conv1[0].bias is not None
    return is_usual and all(isinstance(each, nn.Identity) for each in attentions)


_WORDS: Final = {'f32': 'float32', 'bf16': 'bfloat16', 'f16': 'float16'}


class TorchRuntime:
    """PyTorch, channels last, with fused batch norm; replayed as a CUDA graph on a GPU."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, Tensor],
        device: str,
        precision: str = 'f32',
        max_batch_size: int = 1,
    ) -> None:
        """
        Load a network onto a device.

        :param spec: the model folder's specification.
        :param weights: the model folder's tensors.
        :param device: `cpu`, `cuda`, `cuda:1` …
        :param precision: a key of TORCH_DTYPES.
        :param max_batch_size: the maximum number of images per call.
        """
        self.device, self.precision = torch.device(device), precision
        prepare = speed_up if self.device.type == 'cpu' else fuse_batch_norm
        self.network = prepare(load_network(spec, weights), spec.input_size).to(self.device)
        self.network.layers.to(TORCH_DTYPES[precision])
        self._allow_tf32 = precision != 'f32'
        self._graphs = Graphs(_close) if self.device.type == 'cuda' else None
        # A CPU takes twice as long for two images; a GPU is seldom filled by one.
        self.max_batch_size = max_batch_size if self.device.type == 'cuda' else 1
        where = 'CPU' if self._graphs is None else torch.cuda.get_device_name(self.device)
        self.description = f'torch {_WORDS[precision]} on {where}'

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, options: RuntimeOptions) -> 'TorchRuntime':
        """
        Load a model folder's network onto a device.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device, precision and images.
        :return: the runtime.
        :raises ModelError: if the folder cannot be used.
        :raises ValueError: if the machine has no such device, or torch no such precision.
        """
        device = choose_device(options.device)
        precision = _choose_precision(options, device)
        return cls(spec, read_weights(folder, spec), device, precision, options.max_batch_size)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute the logits; see Runtime."""
        if self._graphs is None:
            return self.eager(inputs)
        return self._graphs.run(lambda tensors: [self.eager(tensors[0])], [inputs])[0]

    def eager(self, inputs: Tensor) -> Tensor:
        """
        Compute the logits without a CUDA graph, for example as a part of a larger one.

        :param inputs: (N, h, w, 3) uint8 RGB on `device`.
        :return: (N, CLASS_COUNT, h, w) logits on `device`.
        """
        if self.device.type == 'cpu':
            return _logits(self.network, inputs)
        # TensorFloat-32, torch's default for convolutions, has the mantissa of float16.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=self._allow_tf32):
            return _logits(self.network, inputs)


_ROUNDING: Final = 0.02
"""Change of a logit in a replay, relative to the largest: kernels may round in another way."""


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    (logits,), (others,) = found, expected
    return bool(((logits - others).abs().max() <= _ROUNDING * others.abs().max()).item())


def _choose_precision(options: RuntimeOptions, device: str) -> str:
    precision = options.precision
    if precision == AUTO:
        if not (options.quickest and device.startswith('cuda')):
            return 'f32'
        # Compute capability 8.0 is required; on older GPUs, torch only emulates it.
        return 'bf16' if torch.cuda.get_device_capability(device)[0] >= 8 else 'f16'
    if precision not in TORCH_DTYPES:
        raise ValueError(
            f'precision is {precision!r}, but the runtime torch supports '
            f'{", ".join(TORCH_DTYPES)}: '
            f"export the model for {precision}, or set precision to 'auto'"
        )
    return precision

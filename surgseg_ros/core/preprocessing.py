# SPDX-License-Identifier: Apache-2.0
"""
Resizes images to the input of the network, and copies them to the device and the results back.

Each direction takes at most one copy between host and device, and none on the CPU.
"""

import contextlib
import ctypes
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.model_folder import ModelSpec

_SAMPLE_STEP_PX: Final = 8
_MIN_LIT: Final = 8
"""A pixel is outside the endoscope's view, or padding, if all its channels are below this."""

_CLIPPED: Final = 250
_TRIMMED: Final = 0.1
_PRIOR: Final = 1 / 64
_MIN_GAIN, _LARGEST_GAIN = 0.5, 2.5


@dataclass(frozen=True)
class Placement:
    """
    Size of a resized image in the network's input; it starts at the upper left corner.

    :param height_px: rows of the image.
    :param width_px: columns of the image.
    """

    height_px: int
    width_px: int


def place(image_size: tuple[int, int], input_size: tuple[int, int], mode: str) -> Placement:
    """
    Compute the size of an image in the network's input.

    :param image_size: (height, width) of the image in pixels.
    :param input_size: (height, width) of the network's input in pixels.
    :param mode: one of model_folder.FIT_MODES.
    :return: the placement; it is at least one pixel high and wide.
    """
    if mode == 'stretch':
        return Placement(*input_size)
    scale = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
    height, width = (max(1, round(side * scale)) for side in image_size)
    return Placement(min(height, input_size[0]), min(width, input_size[1]))


def prepare(images: Tensor, spec: ModelSpec) -> Tensor:
    """
    Prepare images for the network of a model, in inference (training prepares its own).

    :param images: (N, H, W, 3) uint8 RGB.
    :param spec: the model.
    :return: (N, height, width, 3) uint8 RGB, on the device of `images`.
    """
    inputs, colours = fit(images, spec.input_size, spec.fit), spec.colour_normalization
    return normalize_colours(inputs, **colours) if colours else inputs


def normalize_colours(inputs: Tensor, target: Sequence[float], power: float) -> Tensor:
    """
    Move the mean of each channel towards a target, by a gain of (target / mean) ** power.

    The gain depends only on the image, so a frame gets the same result live and offline.

    :param inputs: (N, h, w, 3) uint8 RGB; it is not modified.
    :param target: mean values of red, green and blue, 0..255.
    :param power: with 0 the image does not change, with 1 its means become the target.
    :return: the same with each channel multiplied by its gain, which is limited to 0.5..2.5.
    """
    # Filled on the device: a copy from the host could not be part of a CUDA graph.
    wanted = torch.stack([torch.full((), float(mean), device=inputs.device) for mean in target])
    gains = (wanted / _channel_means(inputs, wanted)) ** power  # (N, 3)
    gains = gains.clamp_(_MIN_GAIN, _LARGEST_GAIN)
    values = torch.arange(256, device=inputs.device) * gains[..., None]
    table = values.round_().clamp_(0, 255).to(torch.uint8)  # (N, 3, 256)
    return _map_device(inputs, table) if inputs.is_cuda else _map_cpu(inputs, table)


def _map_device(inputs: Tensor, table: Tensor) -> Tensor:
    """Replace each value of (N, h, w, 3) uint8 by that of its channel in a (N, 3, 256) table."""
    channels = inputs.permute(0, 3, 1, 2).flatten(2)
    return table.gather(2, channels.long()).mT.reshape(inputs.shape)


def _map_cpu(inputs: Tensor, table: Tensor) -> Tensor:
    changed = torch.empty(inputs.shape, dtype=torch.uint8)
    for image, of_image, result in zip(inputs, table, changed, strict=True):
        cv2.LUT(image.numpy(), of_image.mT.numpy()[None], result.numpy())  # faster than torch
    return changed


def _channel_means(inputs: Tensor, prior: Tensor) -> Tensor:
    """
    Estimate the means of the channels, (N, 3), such that they are stable from frame to frame.

    Left out are dark pixels (borders), pixels that are clipped in two channels (highlights; red
    alone is clipped in many good images of tissue), and the lowest and highest tenth of the rest
    of each channel. If few pixels remain, the prior outweighs them.
    """
    half = _SAMPLE_STEP_PX // 2
    sample = inputs[:, half::_SAMPLE_STEP_PX, half::_SAMPLE_STEP_PX].flatten(1, 2).mT  # (N, 3, P)
    red, green, blue = sample.unbind(1)
    larger = torch.maximum(red, green)
    second = torch.maximum(torch.minimum(red, green), torch.minimum(larger, blue))
    counted = (torch.maximum(larger, blue) >= _MIN_LIT) & (second < _CLIPPED)
    histogram = torch.zeros((len(sample), 3, 256), device=inputs.device)
    histogram.scatter_add_(2, sample.long(), counted[:, None].expand_as(sample).float())
    below = histogram.cumsum(2)
    total = below[..., -1:]
    upper = torch.minimum(below, (1 - _TRIMMED) * total)
    kept = (upper - torch.maximum(below - histogram, _TRIMMED * total)).clamp_(min=0)
    weight = _PRIOR * sample.shape[2]
    sums = kept @ torch.arange(256.0, device=inputs.device) + weight * prior
    return sums / (kept.sum(2) + weight)


def fit(images: Tensor, input_size: tuple[int, int], mode: str) -> Tensor:
    """
    Resize images to the network's input, with antialiasing, and pad them with black.

    :param images: (N, H, W, 3) uint8 RGB.
    :param input_size: (height, width) of the network's input in pixels.
    :param mode: one of model_folder.FIT_MODES.
    :return: (N, height, width, 3) uint8 RGB, on the device of `images`.
    """
    placement = place((images.shape[1], images.shape[2]), input_size, mode)
    size = (placement.height_px, placement.width_px)
    planes = images.permute(0, 3, 1, 2)  # (N, 3, H, W), channels last in memory
    if size != tuple(planes.shape[2:]):
        planes = _resize(planes, size)
    padding = (0, input_size[1] - size[1], 0, input_size[0] - size[0])
    return F.pad(planes, padding).permute(0, 2, 3, 1)


def fit_mask(masks: Tensor, input_size: tuple[int, int], mode: str, fill: int) -> Tensor:
    """
    Resize class masks as `fit` resizes images, with nearest-neighbour interpolation.

    :param masks: (N, H, W) uint8 class indices.
    :param input_size: (height, width) of the network's input in pixels.
    :param mode: one of model_folder.FIT_MODES.
    :param fill: the value of the padding.
    :return: (N, height, width) uint8.
    """
    placement = place((masks.shape[1], masks.shape[2]), input_size, mode)
    size = (placement.height_px, placement.width_px)
    resized = F.interpolate(masks[:, None], size=size, mode='nearest-exact')[:, 0]
    padding = (0, input_size[1] - size[1], 0, input_size[0] - size[0])
    return F.pad(resized, padding, value=fill)


def _resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of (N, 3, H, W) uint8."""
    if planes.is_cuda:
        return _resize_device(planes, size)
    return F.interpolate(planes, size=size, mode='bilinear', antialias=True)


def _resize_device(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize in float32: CUDA has no integer kernel for it."""
    resized = F.interpolate(planes.float(), size=size, mode='bilinear', antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


RgbArray = NDArray[np.uint8]


class Transfer(Protocol):
    """Transfers images to a device, and results back; not thread-safe."""

    def working(self) -> AbstractContextManager[Any]:
        """Return a context manager that makes the transfer's stream the current one."""

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """
        Copy images to the device.

        :param images: (H, W, 3) uint8 each; they are not modified, and not read after the next
            `download` returns.
        :return: (1, H, W, 3) uint8 each, on the device.
        """

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """
        Copy results to the host; waits for the device.

        :param planes: tensors on the device.
        :return: the same values as arrays that nothing else modifies.
        """


class HostTransfer:
    """Transfer for the CPU: arrays become tensors without a copy."""

    def working(self) -> AbstractContextManager[Any]:
        """Return a context manager without effect."""
        return contextlib.nullcontext()

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """Wrap images in tensors."""
        return [as_tensor(image)[None] for image in images]

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """Return the planes as arrays, which share their memory."""
        return [plane.numpy() for plane in planes]


class Buffers(dict[Hashable, Tensor]):
    """
    Memory for arrays, by name; allocated once, and again only for larger arrays.

    :param allocate: maps a number of bytes to a uint8 tensor.
    """

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        super().__init__()
        self._allocate = allocate

    def view(self, name: Hashable, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """
        Return the memory for an array; its content is undefined.

        :param name: any name; the array with the same name before must not be in use any more.
        :param shape: its shape.
        :param dtype: its type.
        :return: a tensor in that memory.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self[name] = self._allocate(size)
        return buffer[:size].view(dtype).view(*shape)


class StagedTransfer:
    """
    Transfer for another device, through pinned memory on the host.

    The memory is allocated once, and again only for larger images. Without pinned memory, each
    copy would pass through a buffer of the driver and wait for it. If the device is lost, the
    memory is never freed: torch would access the device first, and that would end the process.

    :param device: the device.
    :param stream: a separate stream on the device; None if the device has no streams.
    :param pinned: whether to pin the memory on the host.
    """

    def __init__(
        self, device: torch.device, stream: 'torch.cuda.Stream | None', pinned: bool
    ) -> None:
        """Store the arguments; memory is allocated when the size of the images is known."""
        self._device = device
        self.stream = stream
        self.buffers = Buffers(
            lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        )
        """The memory on the host."""

    def __del__(self) -> None:
        """Free the memory, or leak it if the device is lost."""
        if self.stream is None:
            return
        try:
            self.stream.synchronize()
        except Exception:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.buffers))

    def working(self) -> AbstractContextManager[Any]:
        """Make the transfer's stream the current one, if it has one."""
        if self.stream is None:
            return contextlib.nullcontext()
        # The weights may still be being written on the current stream, for example in training.
        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self.stream)

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """Copy images to pinned memory, and from there to the device."""
        uploaded = []
        for index, image in enumerate(images):
            staged = self.buffers.view(('up', index), image.shape, torch.uint8)
            staged.copy_(as_tensor(image))
            uploaded.append(staged.to(self._device, non_blocking=True, copy=True)[None])
        return uploaded

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """Copy planes to pinned memory, and from there to new arrays."""
        staged = [
            self.buffers.view(('down', index), plane.shape, plane.dtype).copy_(
                plane, non_blocking=True
            )
            for index, plane in enumerate(planes)
        ]
        if self.stream is not None:
            self.stream.synchronize()
        return [tensor.numpy().copy() for tensor in staged]


def transfer_to(device: torch.device) -> Transfer:
    """
    Choose the transfer for a device.

    :param device: the device.
    :return: the transfer; on CUDA with a separate stream.
    """
    if device.type == 'cpu':
        return HostTransfer()
    return StagedTransfer(device, torch.cuda.Stream(device), pinned=True)  # type: ignore[no-untyped-call]


def as_tensor(image: RgbArray) -> Tensor:
    """
    View an image as a tensor; copy it only if torch cannot wrap the array.

    :param image: (H, W, 3) uint8; nothing may write to the tensor.
    :return: the same values.
    """
    if min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(np.asarray(_Shared(image)))


class _Shared:
    """
    Exposes the memory of an array as writable, since torch warns about read-only arrays.

    Nothing writes to it.
    """

    def __init__(self, array: RgbArray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, 'data': (interface['data'][0], False)}

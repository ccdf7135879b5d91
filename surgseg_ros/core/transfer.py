# SPDX-License-Identifier: Apache-2.0
"""Images to the device and results back: one copy each way, and none where none is needed."""

import contextlib
import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RgbArray = NDArray[np.uint8]


class Transfer(Protocol):
    """Transfers images to a device, and results back; not thread-safe."""

    def working(self) -> AbstractContextManager[Any]:
        """Make the transfer's stream the current one in a `with` block."""

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
        :return: the same as arrays, which nothing else modifies.
        """


class HostTransfer:
    """Transfer for the CPU: arrays become tensors without a copy."""

    def working(self) -> AbstractContextManager[Any]:
        """See Transfer."""
        return contextlib.nullcontext()

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """See Transfer."""
        return [_as_tensor(image)[None] for image in images]

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """See Transfer."""
        return [plane.numpy() for plane in planes]


class StagedTransfer:
    """
    Transfer for another device, through pinned memory on the host.

    That memory is allocated once, and again only for larger images. Without it, each copy would go
    through a buffer of the driver, and wait for it. If the device is lost, it is never freed:
    torch accesses the device first, and ends the process when that fails.

    :param device: the device.
    :param stream: a separate stream on it; None if the device has no streams.
    :param pinned: whether to pin the memory on the host.
    """

    def __init__(
        self, device: torch.device, stream: 'torch.cuda.Stream | None', pinned: bool
    ) -> None:
        """Store the arguments; memory is allocated when its size is known."""
        self._device = device
        self._stream = stream
        self._pinned = pinned
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def __del__(self) -> None:
        """Free the memory, or leak it if the device is lost."""
        if self._stream is None:
            return
        try:
            self._stream.synchronize()
        except Exception:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._buffers))

    def working(self) -> AbstractContextManager[Any]:
        """See Transfer."""
        if self._stream is None:
            return contextlib.nullcontext()
        # The work that computed the weights, in training, may still be running.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """See Transfer."""
        uploaded = []
        for place, image in enumerate(images):
            staged = self._staged('up', place, image.shape, torch.uint8)
            staged.copy_(_as_tensor(image))
            uploaded.append(staged.to(self._device, non_blocking=True, copy=True)[None])
        return uploaded

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """See Transfer."""
        staged = [
            self._staged('down', place, plane.shape, plane.dtype).copy_(plane, non_blocking=True)
            for place, plane in enumerate(planes)
        ]
        if self._stream is not None:
            self._stream.synchronize()
        return [tensor.numpy().copy() for tensor in staged]

    def _staged(
        self, direction: str, place: int, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Return the buffer on the host for one array; allocate it if necessary."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self._buffers.get((direction, place))
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
            self._buffers[direction, place] = buffer
        return buffer[:size].view(dtype).view(*shape)


def transfer_to(device: torch.device) -> Transfer:
    """
    Choose the transfer for a device.

    :param device: the device.
    :return: the transfer; on CUDA with a separate stream.
    """
    if device.type == 'cpu':
        return HostTransfer()
    return StagedTransfer(device, torch.cuda.Stream(device), pinned=True)  # type: ignore[no-untyped-call]


def _as_tensor(image: RgbArray) -> Tensor:
    """View (H, W, 3) as a tensor; copy only if torch cannot read the array as it is."""
    if min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(np.asarray(_Shared(image)))


class _Shared:
    """An array's memory, declared writable: torch warns otherwise; it is never written to."""

    def __init__(self, array: RgbArray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, 'data': (interface['data'][0], False)}

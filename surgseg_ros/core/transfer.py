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
    """A way to a device and back; not for several threads at once."""

    def working(self) -> AbstractContextManager[Any]:
        """Make the device's queue the present one for what is done in a `with` block."""

    def upload(self, images: Sequence[RgbArray]) -> list[Tensor]:
        """
        Bring images to the device.

        :param images: (H, W, 3) uint8 each; none is written to, nor looked at once a `download`
            has come back.
        :return: (1, H, W, 3) uint8 each, on the device.
        """

    def download(self, planes: Sequence[Tensor]) -> list[NDArray[Any]]:
        """
        Bring results to the host; waits for the device.

        :param planes: on the device.
        :return: the same as arrays, which nobody else writes to.
        """


class HostTransfer:
    """The way to the CPU: there is none; arrays become tensors as they are."""

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
    The way to another device, over memory of the host that the device reads by itself.

    That memory is taken once, and again only for larger images. Without it, each copy would go
    through a buffer of the driver, and wait for it. Where the device is lost it is never freed:
    torch asks the device first, and ends the process when that fails.

    :param device: the device.
    :param stream: the queue of work on it, of one's own; None where the device has none.
    :param pinned: whether the host's memory can be and is locked in place.
    """

    def __init__(
        self, device: torch.device, stream: 'torch.cuda.Stream | None', pinned: bool
    ) -> None:
        """Keep all three; memory is taken when its size is known."""
        self._device = device
        self._stream = stream
        self._pinned = pinned
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def __del__(self) -> None:
        """Let the memory go, or keep it for ever."""
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
        # What made the weights, in training, may still be on its way.
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
        """Find the host's memory for one array, or take it."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self._buffers.get((direction, place))
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
            self._buffers[direction, place] = buffer
        return buffer[:size].view(dtype).view(*shape)


def transfer_to(device: torch.device) -> Transfer:
    """
    Find the way to a device.

    :param device: where the work is done.
    :return: the way; on CUDA with a stream of its own.
    """
    if device.type == 'cpu':
        return HostTransfer()
    return StagedTransfer(device, torch.cuda.Stream(device), pinned=True)  # type: ignore[no-untyped-call]


def _as_tensor(image: RgbArray) -> Tensor:
    """View (H, W, 3) without a copy, where torch can read the array as it is."""
    if min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(np.asarray(_Shared(image)))


class _Shared:
    """An array's own memory, called writable: torch warns of any other; none is written to."""

    def __init__(self, array: RgbArray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, 'data': (interface['data'][0], False)}

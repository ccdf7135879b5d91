# SPDX-License-Identifier: Apache-2.0
"""Direct and staged transfers give the same; the staged one is tested without a device."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from surgseg_ros.core.preprocessing import HostTransfer, StagedTransfer, Transfer, transfer_to

CPU = torch.device('cpu')
KINDS: dict[str, Callable[[], Transfer]] = {
    'host': HostTransfer,
    'staged': lambda: StagedTransfer(CPU, None, pinned=False),
}


def make_images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize('kind', KINDS)
def test_upload_and_download_keep_the_data(kind: str) -> None:
    transfer = KINDS[kind]()
    for sizes in (((4, 6), (8, 5)), ((9, 9), (2, 2)), ((4, 6),)):  # larger, smaller, fewer
        sent = make_images(*sizes)
        with transfer.working():
            came = transfer.download([tensor[0] for tensor in transfer.upload(sent)])
        assert all(np.array_equal(*pair) for pair in zip(sent, came, strict=True))


@pytest.mark.parametrize('kind', KINDS)
def test_downloads_results_of_any_dtype(kind: str) -> None:
    planes = [torch.arange(6).view(2, 3).float() / 7, torch.tensor([True, False])]
    came = KINDS[kind]().download(planes)
    assert [(array.dtype, array.shape) for array in came] == [
        *((np.float32, (2, 3)), (np.bool_, (2,))),
    ]
    assert all(np.array_equal(array, plane.numpy()) for array, plane in zip(came, planes))


def test_a_result_is_not_overwritten_by_the_next() -> None:
    transfer = StagedTransfer(CPU, None, pinned=False)
    (first,) = transfer.download([torch.zeros(3)])
    transfer.download([torch.ones(3)])
    assert not first.any()


def test_memory_is_allocated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    empty = torch.empty

    def counted(size: int, **how: object) -> torch.Tensor:
        taken.append(size)
        return empty(size, dtype=torch.uint8)

    monkeypatch.setattr(torch, 'empty', counted)
    transfer = StagedTransfer(CPU, None, pinned=False)
    for sizes in (((8, 8), (2, 2)), ((4, 4), (2, 2)), ((8, 8),)):
        transfer.upload(make_images(*sizes))
    assert taken == [192, 12]


def test_on_the_cpu_images_are_not_copied() -> None:
    assert isinstance(transfer_to(CPU), HostTransfer)
    (image,) = make_images((5, 7))
    (tensor,) = HostTransfer().upload([image])
    assert np.shares_memory(tensor.numpy(), image)


class FakeStream:
    """The stream of a device that works or is lost."""

    def __init__(self, works: bool) -> None:
        self._works = works

    def synchronize(self) -> None:
        if not self._works:
            raise RuntimeError('CUDA error: device-side assert triggered')


@pytest.mark.parametrize('works', [True, False])
def test_memory_registered_with_a_lost_device_is_never_freed(works: bool) -> None:
    stream: Any = FakeStream(works)
    transfer = StagedTransfer(CPU, stream, pinned=False)
    transfer.upload(make_images((4, 6)))
    (buffer,) = map(weakref.ref, transfer.buffers.values())
    del transfer
    gc.collect()
    assert (buffer() is None) == works

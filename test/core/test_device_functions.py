# SPDX-License-Identifier: Apache-2.0
"""
What only a GPU computes in a way of its own, on the CPU: the results are those of the CPU.

On the device `meta`, tensors have no values: what would wait for the device, or copy from the
host, raises there. Neither may be part of a CUDA graph.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core import preprocessing, segmenter, upsampling
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.synthetic import Scene

COLOURS = {'target': (130.0, 70.0, 90.0), 'power': 0.6}


def scene(height: int, width: int) -> Tensor:
    """Draw a (1, H, W, 3) uint8 image."""
    return torch.from_numpy(Scene(4, (height, width)).frame(0).image.copy())[None]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU compute as a GPU does."""
    monkeypatch.setattr(preprocessing, '_resize', preprocessing._resize_device)
    monkeypatch.setattr(preprocessing, '_map_cpu', preprocessing._map_device)
    monkeypatch.setattr(upsampling, '_upsample_cpu', None)
    monkeypatch.setattr(segmenter, 'upsample', upsampling._upsample_device)


def test_resized_images_differ_by_at_most_one_level() -> None:
    planes = torch.cat([scene(90, 160), scene(90, 160).flip(1)]).permute(0, 3, 1, 2)
    for size in ((40, 70), (120, 200), (90, 33)):
        found = preprocessing._resize_device(planes, size)
        difference = (found.int() - preprocessing._resize(planes, size).int()).abs()
        assert found.dtype == torch.uint8
        assert difference.max() <= 1


def test_colours_are_equal() -> None:
    inputs = torch.cat([scene(90, 160), scene(90, 160) // 2])
    expected = preprocessing.normalize_colours(inputs, **COLOURS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, '_map_cpu', preprocessing._map_device)
        assert torch.equal(preprocessing.normalize_colours(inputs, **COLOURS), expected)
    assert not torch.equal(expected, inputs)


@pytest.mark.parametrize('size', [(72, 120), (24, 40), (31, 47)])
def test_classes_and_confidences_are_equal_except_for_rounding(size: tuple[int, int]) -> None:
    noise = torch.randn(1, 10, 7, 9, generator=torch.Generator().manual_seed(3))
    logits = 5 * F.interpolate(noise, (24, 40), mode='bicubic')[0]
    for half in (False, True):
        given = logits.bfloat16() if half else logits
        found = upsampling._upsample_device(given, size, True, 1.7, True)
        expected = upsampling.upsample(given, size, True, 1.7, True)
        assert (found.classes == expected.classes).float().mean() >= 0.999
        for one, other in zip(found[1:], expected[1:], strict=True):
            assert one is not None
            assert other is not None
            assert ((one.int() - other.int()).abs() <= 1).float().mean() >= 0.999


@pytest.mark.parametrize('wanted', [{}, {'confidence': True}, {'grid_confidence': True}])
def test_masks_are_those_of_the_cpu(
    tiny_model: Path, wanted: dict[str, bool], request: pytest.FixtureRequest
) -> None:
    loaded = Segmenter.load(tiny_model, 'cpu', 'torch')
    images = [scene(270, 480)[0].numpy(), scene(100, 90)[0].numpy()]
    expected = loaded.segment_all(images, **wanted)
    request.getfixturevalue('as_on_a_gpu')
    for one, other in zip(loaded.segment_all(images, **wanted), expected, strict=True):
        # This model is not trained: where two logits are nearly equal, one level may decide.
        assert np.mean(one.mask == other.mask) >= 0.99
        assert (one.confidence is None) == (other.confidence is None)
        assert (one.grid_confidence is None) == (other.grid_confidence is None)


def test_nothing_waits_for_the_device_or_is_copied_to_it(as_on_a_gpu: None) -> None:
    images = scene(90, 160).to('meta')
    inputs = preprocessing.fit(images, (48, 80), 'letterbox')
    assert preprocessing.normalize_colours(inputs, **COLOURS).shape == (1, 48, 80, 3)
    logits = torch.zeros((10, 45, 80), device='meta')
    planes = upsampling._upsample_device(logits, (90, 160), True, 1.7, True)
    assert [plane.shape for plane in planes if plane is not None] == [(90, 160)] * 2 + [(45, 80)]

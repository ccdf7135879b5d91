# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core import upsampling
from surgseg_ros.synthetic import Scene


def upsample(
    logits: Tensor, size: tuple[int, int], confidence: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    mask, chosen, _ = upsampling.upsample(logits, size, confidence)
    return mask.numpy(), None if chosen is None else chosen.numpy()


def blobs(height: int, width: int) -> Tensor:
    """(10, h, w) logits whose classes form regions, as those of a trained network do."""
    noise = torch.randn(1, 10, 7, 9, generator=torch.Generator().manual_seed(3))
    return 5 * F.interpolate(noise, (height, width), mode='bicubic')[0]


def of_scene(height: int, width: int) -> Tensor:
    """(10, h, w) logits for the mask of a scene, with soft borders and some noise."""
    mask = torch.from_numpy(Scene(6, (height, width)).frame(0).mask).long()
    sure = F.one_hot(mask, 10).permute(2, 0, 1).float()
    soft = F.avg_pool2d(sure[None], 3, 1, 1, count_include_pad=False)[0]
    return 9 * soft + torch.randn(soft.shape, generator=torch.Generator().manual_seed(1))


def reference_upsample(logits: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    full = F.interpolate(logits[None].float(), size, mode='bilinear')[0]
    classes = full.argmax(0)
    probabilities = F.interpolate(logits[None].float().softmax(1), size, mode='bilinear')[0]
    return classes.numpy(), probabilities.gather(0, classes[None])[0].numpy()


LAYOUTS = {
    'planes': blobs(90, 160),
    'channels last': blobs(90, 160)[None].to(memory_format=torch.channels_last)[0],
    'part of padded planes': blobs(128, 160)[:, :90, :101],
    'part of padded channels last': blobs(128, 160)[None].to(memory_format=torch.channels_last)[
        0, :, :90, :101
    ],
    'bfloat16': blobs(90, 160).bfloat16(),
    'one point': blobs(1, 1),
    'one row': blobs(1, 160),
    'scene': of_scene(108, 192),
    'two classes': blobs(33, 50)[:2],
    'one class': blobs(33, 50)[:1],
    'two points': torch.randn(10, 2, 1, generator=torch.Generator().manual_seed(2)),
    'noise': torch.randn(10, 33, 50, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize(
    'size', [(540, 960), (333, 250), (91, 161), (90, 160), (7, 5), (1, 300), (1, 1)]
)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_the_reference_implementation(layout: str, size: tuple[int, int]) -> None:
    logits = LAYOUTS[layout]
    mask, confidence = upsample(logits, size, confidence=True)
    plain_mask, plain_confidence = reference_upsample(logits, size)
    assert mask.shape == size
    assert confidence is not None
    assert mask.dtype == confidence.dtype == np.uint8
    assert np.mean(mask == plain_mask) >= 0.999
    off = np.abs(confidence - 255 * plain_confidence)
    assert np.mean(off <= 1) >= 0.999


def test_mask_is_the_same_with_and_without_confidence() -> None:
    logits = LAYOUTS['planes']
    mask, none = upsample(logits, (200, 300), confidence=False)
    assert none is None
    assert np.array_equal(mask, upsample(logits, (200, 300), confidence=True)[0])


def test_a_class_that_wins_only_between_grid_points_is_found() -> None:
    logits = torch.full((10, 1, 2), -9.0)
    logits[1, 0] = torch.tensor([10.0, 0.0])
    logits[2, 0] = torch.tensor([0.0, 10.0])
    logits[3, 0] = torch.tensor([9.0, 9.0])
    mask, _ = upsample(logits, (1, 9), confidence=False)
    assert mask.tolist() == [[1, 1, 1, 3, 3, 3, 2, 2, 2]]


def test_of_two_equal_classes_the_first_wins_everywhere() -> None:
    logits = torch.full((10, 3, 4), -5.0)
    logits[4, :, :2] = logits[7, :, :2] = 3.0  # as rounding to bfloat16 makes them
    logits[1, :, 2:] = logits[2, :, 2:] = 3.0
    mask, _ = upsample(logits, (30, 40), confidence=True)
    assert set(np.unique(mask).tolist()) == {1, 4}
    assert np.array_equal(mask, reference_upsample(logits, (30, 40))[0])


def test_results_do_not_share_memory() -> None:
    logits = LAYOUTS['scene']
    before, after = (upsample(logits, (54, 96), confidence=True) for _ in range(2))
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert not np.shares_memory(one, other)
        one[:] = 77
        assert not (other == 77).all()


def test_logits_are_not_modified() -> None:
    logits = LAYOUTS['noise'].clone()
    upsample(logits, (100, 99), confidence=True)
    assert torch.equal(logits, LAYOUTS['noise'])


def test_equal_logits_are_background() -> None:
    mask, confidence = upsample(torch.zeros(10, 4, 4), (9, 9), confidence=True)
    assert not mask.any()
    assert confidence is not None
    assert (np.abs(confidence.astype(int) - 25.5) < 1).all()


@pytest.mark.parametrize('temperature', [0.05, 0.7, 3.0, 20.0])
@pytest.mark.parametrize('layout', ['planes', 'part of padded channels last', 'noise'])
def test_the_temperature_changes_the_confidence_but_no_class(
    layout: str, temperature: float
) -> None:
    logits = LAYOUTS[layout]
    mask, _ = upsample(logits, (200, 300), confidence=True)
    again, confidence, _ = upsampling.upsample(logits, (200, 300), True, temperature)
    assert np.array_equal(again.numpy(), mask)
    assert confidence is not None
    scaled = F.interpolate((logits[None] / temperature).softmax(1), (200, 300), mode='bilinear')[0]
    expected = scaled.gather(0, again[None].long())[0].numpy()
    assert np.mean(np.abs(confidence.numpy() - 255 * expected) <= 1) >= 0.999


@pytest.mark.parametrize('confidence', [True, False])
def test_logits_without_the_rows_of_the_padding_are_not_copied(confidence: bool) -> None:
    logits = blobs(30, 40)[:, :24].contiguous()
    padded = F.pad(logits, (0, 0, 0, 6))[:, :24]
    assert np.shares_memory(upsampling._planes(padded), padded.numpy())
    for found, expected in zip(*(upsample(x, (72, 120), confidence) for x in (padded, logits))):
        assert np.array_equal(found, expected)

# SPDX-License-Identifier: Apache-2.0
"""From logits at the network's size to class and confidence at the picture's size."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_MIXED = 255
"""Class of a grid cell whose corners do not agree."""


def upsample(
    logits: Tensor, size: tuple[int, int], confidence: bool, temperature: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """
    Find the class of each pixel of the picture: the largest logit, interpolated bilinearly.

    Confidence is the probability of that class, interpolated from the network's grid in the same
    way, times 255. Pixel centres lie half a pixel inward (`align_corners=False`).

    :param logits: (C, h, w) float, the part that the picture takes, on any device.
    :param size: (H, W) of the picture in pixels.
    :param confidence: whether the second array is wanted.
    :param temperature: what logits are divided by to become probabilities; classes don't change.
    :return: (H, W) uint8 class index; (H, W) uint8 confidence in 0..255, or None; both on the
        device of `logits`.
    """
    if logits.is_cuda:
        return _upsample_device(logits, size, confidence, temperature)
    mask, chosen = _upsample_cpu(logits, size, confidence, temperature)
    return torch.from_numpy(mask), None if chosen is None else torch.from_numpy(chosen)


def _upsample_device(
    logits: Tensor, size: tuple[int, int], confidence: bool, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Plain way: full-size planes are cheap where memory is fast."""
    planes = F.interpolate(logits[None].float(), size, mode='bilinear')[0]
    classes = planes.argmax(0)
    mask = classes.to(torch.uint8)
    if not confidence:
        return mask, None
    probabilities = (logits[None].float() / temperature).softmax(1)
    probabilities = F.interpolate(probabilities, size, mode='bilinear')[0]
    chosen = probabilities.gather(0, classes[None])[0]
    return mask, (255 * chosen).round_().to(torch.uint8)


def _upsample_cpu(
    logits: Tensor, size: tuple[int, int], confidence: bool, temperature: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """
    Interpolate only where it can matter.

    Where the four grid points around a pixel have the same largest class, every mean of them has
    it too: such pixels are copied, and only those between different classes are interpolated.
    """
    planes = _planes(logits)
    top, largest = _largest(planes)
    mask = _spread(top, size)
    between = np.flatnonzero(mask == _MIXED)
    points = _points(between, size)
    classes, _ = _largest(_sample(planes, points))
    mask.reshape(-1)[between] = classes
    if not confidence:
        return mask, None

    probabilities = planes - largest
    probabilities /= np.float32(temperature)
    np.exp(probabilities, out=probabilities)
    total = probabilities.sum(0)
    chosen = _resize(1 / total, size)  # the top class has exp(0) of the total
    probabilities /= total
    values = _sample(probabilities, points)[classes, np.arange(len(classes))]
    chosen.reshape(-1)[between] = np.rint(255 * values)
    return mask, chosen


def _planes(logits: Tensor) -> NDArray[np.float32]:
    """(C, h, w) float32, each plane in one piece, though the network may work channels last."""
    logits = logits.float()
    if logits.stride(0) != 1:
        return np.ascontiguousarray(logits.numpy())
    rows = logits.permute(1, 2, 0).reshape(-1, len(logits))  # (h * w, C)
    planes = np.asarray(cv2.transpose(rows.numpy()), np.float32)
    return planes.reshape(logits.shape)


def _largest(planes: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Index of the largest of C planes, and its value; torch's argmax takes 20 times as long."""
    largest = planes[0].copy()
    index = np.zeros(largest.shape, np.uint8)
    for number, plane in enumerate(planes[1:], 1):
        np.putmask(index, plane > largest, number)
        np.maximum(largest, plane, out=largest)
    return index, largest


def _spread(top: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give each pixel the class that its four grid points agree on, or _MIXED."""
    four = np.ones((2, 2), np.uint8)
    least, most = cv2.erode(top, four, anchor=(0, 0)), cv2.dilate(top, four, anchor=(0, 0))
    agreed: NDArray[np.uint8] = np.where(least == most, top, np.uint8(_MIXED))
    rows, columns = (
        ((np.arange(full) + 0.5) * (length / full) - 0.5).clip(0).astype(np.intp)
        for full, length in zip(size, top.shape, strict=True)
    )
    spread: NDArray[np.uint8] = agreed.take(columns, 1).take(rows, 0)
    return spread


def _points(flat: NDArray[np.intp], size: tuple[int, int]) -> Tensor:
    """(1, 1, n, 2) centres of pixels, x and y, where the picture reaches from -1 to 1."""
    y, x = np.divmod(flat, size[1])
    points = np.stack([(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1], 1)
    return torch.from_numpy(points.astype(np.float32))[None, None]


def _sample(planes: NDArray[np.float32], points: Tensor) -> NDArray[np.float32]:
    """Interpolate (C, h, w) planes bilinearly at n points: (C, n)."""
    sampled: NDArray[np.float32] = F.grid_sample(
        torch.from_numpy(planes)[None], points, padding_mode='border', align_corners=False
    )[0, :, 0].numpy()
    return sampled


def _resize(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resize of (h, w) in 0..1 to (H, W) uint8 in 0..255."""
    full = cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255), np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""From logits at the network's size to class and confidence at the picture's size."""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.cells import Classes, Grid, Planes, lay, settle


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
) -> tuple[Classes, Classes | None]:
    """
    Interpolate only where it can matter.

    Where the four grid points around a pixel have the same largest class, every mean of them has
    it too: such pixels are copied, and only those between different classes are interpolated.
    """
    planes = _planes(logits)
    top, largest = _largest(planes)
    # The largest class has exp(0) of the sum.
    cold = 1 / temperature
    chances = np.reciprocal(_sum_of_exp(planes, largest, cold)) if confidence else None
    rows, columns = (lay(*lengths) for lengths in zip(size, top.shape, strict=True))
    mask: Classes = top.take(columns.points[columns.cells], 1).take(rows.points[rows.cells], 0)
    chosen = None if chances is None else _resize(chances, size)
    if size != top.shape:
        settle(Grid(planes, top, largest, chances, cold, rows, columns), mask, chosen)
    return mask, chosen


def _planes(logits: Tensor) -> Planes:
    """(C, h, w) float32, each plane in one piece, though the network may work channels last."""
    logits = logits.float()
    if logits.stride(0) != 1:
        return np.ascontiguousarray(logits.numpy())
    rows = logits.permute(1, 2, 0).reshape(-1, len(logits))  # (h * w, C)
    planes = np.asarray(cv2.transpose(rows.numpy()), np.float32)
    return planes.reshape(logits.shape)


def _largest(planes: Planes) -> tuple[Classes, Planes]:
    """Index of the largest of C planes, and its value; torch's argmax takes 20 times as long."""
    largest, index = planes[0].copy(), np.zeros(planes[0].shape, np.uint8)
    larger = np.empty(largest.shape, bool)
    for number, plane in enumerate(planes[1:], 1):
        np.greater(plane, largest, out=larger)
        np.maximum(index, larger.view(np.uint8) * np.uint8(number), out=index)  # numbers ascend
        np.maximum(largest, plane, out=largest)
    return index, largest


def _sum_of_exp(planes: Planes, largest: Planes, cold: float) -> Planes:
    """Sum of exp(cold * (plane - largest)) over C planes, none of which is kept."""
    total, term = np.zeros_like(largest), np.empty_like(largest)
    for plane in planes:
        np.subtract(plane, largest, out=term)
        cv2.exp(np.multiply(term, np.float32(cold), out=term), dst=term)
        np.add(total, term, out=total)
    return total


def _resize(plane: Planes, size: tuple[int, int]) -> Classes:
    """Bilinear resize of (h, w) in 0..1 to (H, W) uint8 in 0..255."""
    full = cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255), np.uint8)

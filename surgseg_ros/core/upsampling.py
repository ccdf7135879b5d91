# SPDX-License-Identifier: Apache-2.0
"""From logits at the network's size to class and confidence at the image's size."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.fused_argmax import Classes, Grid, Planes, interpolate_mixed, make_axis_map


class Upsampled(NamedTuple):
    """
    What is known of an image, on the device of the logits.

    :param classes: (H, W) uint8 class index.
    :param confidence: (H, W) uint8 probability of that class times 255, if asked for.
    :param grid_confidence: (h, w) uint8 probability of the likeliest class times 255, if either
        is.
    """

    classes: Tensor
    confidence: Tensor | None
    grid_confidence: Tensor | None


def upsample(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float = 1.0,
    grid_confidence: bool = False,
) -> Upsampled:
    """
    Find the class of each pixel of the image: the largest logit, interpolated bilinearly.

    Confidence is the probability of that class, interpolated from the network's grid in the same
    way, times 255. Pixel centres lie half a pixel inward (`align_corners=False`).

    :param logits: (C, h, w) float, the part that the image takes, on any device.
    :param size: (H, W) of the image in pixels.
    :param confidence: whether the confidence is wanted.
    :param temperature: what logits are divided by to become probabilities; classes don't change.
    :param grid_confidence: whether the grid confidence is wanted; it comes with the confidence
        anyway.
    :return: classes, and what was asked for.
    """
    if logits.is_cuda:
        return _upsample_device(logits, size, confidence, temperature, grid_confidence)
    mask, *others = _upsample_cpu(logits, size, confidence, temperature, grid_confidence)
    asked = (None if array is None else torch.from_numpy(array) for array in others)
    return Upsampled(torch.from_numpy(mask), *asked)


def _upsample_device(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float,
    grid_confidence: bool,
) -> Upsampled:
    """Plain way: full-size planes are cheap where memory is fast."""
    planes = F.interpolate(logits[None].float(), size, mode='bilinear')[0]
    classes = planes.argmax(0)
    mask, chosen, likeliest = classes.to(torch.uint8), None, None
    if confidence or grid_confidence:
        probabilities = (logits[None].float() / temperature).softmax(1)
        likeliest = _to_bytes(probabilities[0].amax(0))
        if confidence:
            full = F.interpolate(probabilities, size, mode='bilinear')[0]
            chosen = _to_bytes(full.gather(0, classes[None])[0])
    return Upsampled(mask, chosen, likeliest)


def _to_bytes(probabilities: Tensor) -> Tensor:
    return (255 * probabilities).round_().to(torch.uint8)


def _upsample_cpu(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float,
    grid_confidence: bool,
) -> tuple[Classes, Classes | None, Classes | None]:
    """
    Interpolate only where it can matter.

    Where the four grid points around a pixel have the same largest class, every mean of them has
    it too: such pixels are copied, and only those between different classes are interpolated.
    """
    planes = _planes(logits)
    top, largest = _largest(planes)
    inverse_temperature = 1 / temperature
    probabilities = likeliest = None
    if confidence or grid_confidence:  # the largest class has exp(0) of the sum
        probabilities = np.reciprocal(_sum_of_exp(planes, largest, inverse_temperature))
        likeliest = np.asarray(cv2.convertScaleAbs(probabilities, alpha=255), np.uint8)
    if not confidence:
        probabilities = None
    rows, columns = (make_axis_map(*lengths) for lengths in zip(size, top.shape, strict=True))
    mask: Classes = top.take(columns.points[columns.cells], 1).take(rows.points[rows.cells], 0)
    chosen = None if probabilities is None else _resize(probabilities, size)
    if size != top.shape:
        interpolate_mixed(
            Grid(planes, top, largest, probabilities, inverse_temperature, rows, columns),
            mask,
            chosen,
        )
    return mask, chosen, likeliest


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


def _sum_of_exp(planes: Planes, largest: Planes, inverse_temperature: float) -> Planes:
    """Sum of exp(cold * (plane - largest)) over C planes, none of which is kept."""
    total, term = np.zeros_like(largest), np.empty_like(largest)
    for plane in planes:
        np.subtract(plane, largest, out=term)
        cv2.exp(np.multiply(term, np.float32(inverse_temperature), out=term), dst=term)
        np.add(total, term, out=total)
    return total


def _resize(plane: Planes, size: tuple[int, int]) -> Classes:
    """Bilinear resize of (h, w) in 0..1 to (H, W) uint8 in 0..255."""
    full = cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255), np.uint8)

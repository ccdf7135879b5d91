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
    logits: Tensor, size: tuple[int, int], confidence: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """
    Find the class of each pixel of the picture: the largest logit, interpolated bilinearly.

    Confidence is the probability of that class, interpolated from the network's grid in the same
    way, times 255. Pixel centres lie half a pixel inward (`align_corners=False`).

    :param logits: (C, h, w) float, the part that the picture takes, on any device.
    :param size: (H, W) of the picture in pixels.
    :param confidence: whether the second array is wanted.
    :return: (H, W) uint8 class index; (H, W) uint8 confidence in 0..255, or None.
    """
    return (_upsample_device if logits.is_cuda else _upsample_cpu)(logits, size, confidence)


def _upsample_device(
    logits: Tensor, size: tuple[int, int], confidence: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Plain way: full-size planes are cheap where memory is fast."""
    planes = F.interpolate(logits[None].float(), size, mode='bilinear')[0]
    classes = planes.argmax(0)
    mask: NDArray[np.uint8] = classes.to(torch.uint8).cpu().numpy()
    if not confidence:
        return mask, None
    probabilities = F.interpolate(logits[None].float().softmax(1), size, mode='bilinear')[0]
    chosen = probabilities.gather(0, classes[None])[0]
    return mask, (255 * chosen).round_().to(torch.uint8).cpu().numpy()


def _upsample_cpu(
    logits: Tensor, size: tuple[int, int], confidence: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """
    Interpolate only where it can matter.

    Where the four grid points around a pixel have the same largest class, every mean of them has
    it too: such pixels are copied, and only those between different classes are interpolated.
    """
    grid = logits.float().permute(1, 2, 0).contiguous()  # (h, w, C): a pixel's logits in a row
    height, width, count = grid.shape
    top = logits.argmax(0).to(torch.uint8).numpy()
    rows, row_share = _neighbours(height, size[0])
    columns, column_share = _neighbours(width, size[1])

    below, right = np.r_[1:height, height - 1], np.r_[1:width, width - 1]
    corners = top, top[below], top[:, right], top[below][:, right]
    agree = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])
    mask: NDArray[np.uint8] = np.where(agree, top, _MIXED).astype(np.uint8)[rows].take(columns, 1)

    flat = np.flatnonzero(mask == _MIXED)
    y, x = np.divmod(flat, size[1])
    shares = row_share[y], column_share[x]
    points = rows[y], below[rows[y]], columns[x], right[columns[x]]
    classes = _interpolate(grid.view(-1, count), width, points, shares).argmax(1)
    mask.reshape(-1)[flat] = classes.to(torch.uint8).numpy()
    if not confidence:
        return mask, None

    probabilities = grid.softmax(2)
    chosen = _resize(probabilities.amax(2).numpy(), size)
    between = _interpolate(probabilities.view(-1, count), width, points, shares)
    values = between.gather(1, classes[:, None])[:, 0] * 255
    chosen.reshape(-1)[flat] = values.round_().to(torch.uint8).numpy()
    return mask, chosen


def _neighbours(length: int, full: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Index of the grid point before each of `full` pixels, and the share of the one after it."""
    position = (np.arange(full, dtype=np.float32) + 0.5) * (length / full) - 0.5
    position = position.clip(0, length - 1)
    before = position.astype(np.intp)
    return before, position - before.astype(np.float32)


def _interpolate(
    grid: Tensor,
    width: int,
    points: tuple[NDArray[np.intp], ...],
    shares: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> Tensor:
    """Bilinear mean of the rows of `grid` (h * w, C) around n pixels: (n, C)."""
    above, below, left, right = (torch.from_numpy(axis) for axis in points)
    down, across = (torch.from_numpy(share)[:, None] for share in shares)
    upper = torch.lerp(grid[above * width + left], grid[above * width + right], across)
    lower = torch.lerp(grid[below * width + left], grid[below * width + right], across)
    return torch.lerp(upper, lower, down)


def _resize(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resize of (h, w) in 0..1 to (H, W) uint8 in 0..255."""
    levels = (255 * plane).round().astype(np.uint8)
    resized: NDArray[np.uint8] = cv2.resize(
        levels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR
    )  # type: ignore[assignment]
    return resized

# SPDX-License-Identifier: Apache-2.0
"""How an image is fitted to the network's input, and where it lies there."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Placement:
    """
    Size of a fitted image in the network's input; it starts at the upper left corner.

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
    :return: the placement; it has at least one pixel each way.
    """
    if mode == 'stretch':
        return Placement(*input_size)
    scale = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
    height, width = (max(1, round(side * scale)) for side in image_size)
    return Placement(min(height, input_size[0]), min(width, input_size[1]))


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
    Resize class masks as `fit` does the images, by nearest neighbour.

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
    """Antialiased bilinear resize of (N, 3, H, W) uint8; CUDA has no integer kernel for it."""
    if planes.is_cuda:
        resized = F.interpolate(planes.float(), size=size, mode='bilinear', antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8)
    return F.interpolate(planes, size=size, mode='bilinear', antialias=True)

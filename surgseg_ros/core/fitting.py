# SPDX-License-Identifier: Apache-2.0
"""How an image is prepared for the network, and where it lies in its input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.model_folder import ModelSpec

_SAMPLE_STEP_PX: Final = 8
_LEAST_LIT: Final = 8
"""A pixel whose channels are all below this is outside the endoscope's view, or padding."""

_CLIPPED: Final = 250
_TRIMMED: Final = 0.1
_PRIOR: Final = 1 / 64
_LEAST_GAIN, _LARGEST_GAIN = 0.5, 2.5


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


def prepare(images: Tensor, spec: ModelSpec) -> Tensor:
    """
    Prepare images for the network of a model: wherever it runs, and not where it is trained.

    :param images: (N, H, W, 3) uint8 RGB.
    :param spec: the model.
    :return: (N, height, width, 3) uint8 RGB, on the device of `images`.
    """
    fitted, colours = fit(images, spec.input_size, spec.fit), spec.colour_normalization
    return normalize_colours(fitted, **colours) if colours else fitted


def normalize_colours(fitted: Tensor, target: Sequence[float], power: float) -> Tensor:
    """
    Draw the mean of each channel towards a target, by a gain of (target / mean) ** power.

    The gain depends on the image alone, so that a frame gets the same result live and offline.

    :param fitted: (N, h, w, 3) uint8 RGB; it is not modified.
    :param target: mean of red, green and blue, 0..255.
    :param power: 0 changes nothing, with 1 the means are the target.
    :return: the same with each channel multiplied by its gain, which is limited to 0.5..2.5.
    """
    wanted = torch.tensor(target, dtype=torch.float32, device=fitted.device)
    gains = (wanted / _channel_means(fitted, wanted)) ** power  # (N, 3)
    gains = gains.clamp_(_LEAST_GAIN, _LARGEST_GAIN)
    values = torch.arange(256, device=fitted.device) * gains[..., None]
    table = values.round_().clamp_(0, 255).to(torch.uint8)  # (N, 3, 256)
    if fitted.is_cuda:
        channels = fitted.permute(0, 3, 1, 2).flatten(2)
        return table.gather(2, channels.long()).mT.reshape(fitted.shape)
    changed = torch.empty(fitted.shape, dtype=torch.uint8)
    for image, of_image, result in zip(fitted, table, changed, strict=True):
        cv2.LUT(image.numpy(), of_image.mT.numpy()[None], result.numpy())  # faster than torch
    return changed


def _channel_means(fitted: Tensor, prior: Tensor) -> Tensor:
    """
    Estimate the means, (N, 3), so that they are steady from frame to frame.

    Neither borders nor highlights, which come and go, count: not the dark, not what is clipped in
    two channels (red alone is in many a good image of tissue), and of the rest in each channel not
    the least and the greatest tenth. Few pixels say little: then the prior outweighs them.
    """
    half = _SAMPLE_STEP_PX // 2
    sample = fitted[:, half::_SAMPLE_STEP_PX, half::_SAMPLE_STEP_PX].flatten(1, 2).mT  # (N, 3, P)
    red, green, blue = sample.unbind(1)
    larger = torch.maximum(red, green)
    second = torch.maximum(torch.minimum(red, green), torch.minimum(larger, blue))
    counted = (torch.maximum(larger, blue) >= _LEAST_LIT) & (second < _CLIPPED)
    histogram = torch.zeros((len(sample), 3, 256), device=fitted.device)
    histogram.scatter_add_(2, sample.long(), counted[:, None].expand_as(sample).float())
    below = histogram.cumsum(2)
    total = below[..., -1:]
    upper = torch.minimum(below, (1 - _TRIMMED) * total)
    kept = (upper - torch.maximum(below - histogram, _TRIMMED * total)).clamp_(min=0)
    weight = _PRIOR * sample.shape[2]
    sums = kept @ torch.arange(256.0, device=fitted.device) + weight * prior
    return sums / (kept.sum(2) + weight)


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

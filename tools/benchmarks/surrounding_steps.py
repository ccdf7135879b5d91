# SPDX-License-Identifier: Apache-2.0
"""The steps before and after the network, in our and in plain implementations."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA, find_instruments
from surgseg_ros.core.labels import (
    CLASS_COUNT,
    NEEDLE,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
)
from surgseg_ros.core.preprocessing import fit, place
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.upsampling import upsample
from surgseg_ros.messages.encodings import converter
from surgseg_ros.messages.images import image_to_msg, rgb_from_image
from surgseg_ros.messages.serialization import IMAGE, TYPES, from_cdr, header, to_cdr
from surgseg_ros.synthetic import Scene

Size = tuple[int, int]
Plane = NDArray[np.uint8]

SEED = 6
"""Seed of a scene that has every class."""


class Step(NamedTuple):
    """
    A step in two implementations.

    :param name: description of the step.
    :param ours: the implementation of this package.
    :param plain: the usual implementation.
    :param min_bytes: minimum number of bytes that it must read and write.
    """

    name: str
    ours: Callable[[], object]
    plain: Callable[[], object]
    min_bytes: int


def steps(size: Size, inputs: Sequence[Size]) -> Iterator[Step]:
    """
    List the steps for an image, in the order of execution.

    :param size: (height, width) of the image.
    :param inputs: (height, width) of the inputs of networks.
    :return: the steps, each with its input in memory.
    """
    frame = Scene(SEED, size).frame(3)
    yield from _parsing(frame.image)
    for input_size in inputs:
        yield from _around_network(frame.image, frame.mask, input_size)
    confidence = cv2.GaussianBlur(frame.image[..., 0], (5, 5), 0)
    rng = np.random.default_rng(0)
    specks = np.where(rng.random(size) < 0.01, np.uint8(NEEDLE), frame.mask)
    for name, mask in (('', frame.mask), (', 1 % specks', specks)):
        yield Step(
            f'instruments{name}',
            partial(find_instruments, Segmentation(mask, confidence)),
            partial(plain_instruments, mask, confidence),
            2 * mask.size,
        )
    message = image_to_msg(frame.mask, header(1))
    yield Step(
        'mask to CDR',
        partial(to_cdr, message),
        lambda: bytes(TYPES.serialize_cdr(message, IMAGE)),
        2 * frame.mask.size,
    )


def _parsing(image: Plane) -> Iterator[Step]:
    bridge = converter()
    for encoding, pixels, minimum in (
        ('rgb8', image, 0),
        ('bgr8', image[..., ::-1], 2 * image.size),
    ):
        message = image_to_msg(np.ascontiguousarray(pixels), header(1))
        message.encoding = encoding
        cdr = to_cdr(message)
        yield Step(
            f'image from CDR, {encoding}',
            lambda cdr=cdr: rgb_from_image(from_cdr(cdr, IMAGE)),
            lambda cdr=cdr: np.array(bridge(TYPES.deserialize_cdr(cdr, IMAGE), 'rgb8')),
            minimum,
        )


def _around_network(image: Plane, truth: Plane, input_size: Size) -> Iterator[Step]:
    size = (image.shape[0], image.shape[1])
    placement = place(size, input_size, 'letterbox')
    grid = (placement.height_px, placement.width_px)
    name = f'{input_size[1]}x{input_size[0]}'
    tensor = torch.from_numpy(image)[None]
    yield Step(
        f'fit to {name}',
        partial(fit, tensor, input_size, 'letterbox'),
        lambda: Image.fromarray(image).resize(grid[::-1], Image.Resampling.BILINEAR),
        image.size + 3 * input_size[0] * input_size[1],
    )
    logits, pixels = logits_of(truth, grid), size[0] * size[1]
    for text, wanted in (
        ('mask', {}),
        ('mask and grid confidence', {'grid_confidence': True}),
        ('mask and confidence', {'confidence': True}),
    ):
        full = 'confidence' in wanted
        yield Step(
            f'{text} from {name}',
            partial(upsample, logits, size, **{'confidence': False, **wanted}),
            partial(plain_upsample, logits, size, bool(wanted)),
            logits.nbytes + pixels * (1 + full),
        )
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    yield Step(
        f'mask and confidence from {name}, noise',
        partial(upsample, noise, size, True),
        partial(plain_upsample, noise, size, True),
        logits.nbytes + 2 * pixels,
    )


def logits_of(truth: Plane, grid: Size) -> Tensor:
    """
    Create logits like those of a trained network.

    :param truth: (H, W) class.
    :param grid: (h, w) of the logits.
    :return: (C, h, w) float32.
    """
    small = cv2.resize(truth, grid[::-1], interpolation=cv2.INTER_NEAREST)
    sure = F.one_hot(torch.from_numpy(small).long(), CLASS_COUNT).permute(2, 0, 1).float()
    soft = F.avg_pool2d(sure[None], 3, 1, 1, count_include_pad=False)[0]
    return 9 * soft + 0.3 * torch.randn(soft.shape, generator=torch.Generator().manual_seed(1))


def plain_upsample(logits: Tensor, size: Size, confidence: bool) -> tuple[Tensor, Tensor | None]:
    """
    Interpolate all planes to the image's size, and take the argmax.

    :param logits: (C, h, w).
    :param size: (H, W).
    :param confidence: whether to compute it.
    :return: (H, W) uint8 class; (H, W) uint8 confidence.
    """
    full = F.interpolate(logits[None], size, mode='bilinear')[0]
    classes = full.argmax(0)
    if not confidence:
        return classes.to(torch.uint8), None
    shares = F.interpolate(logits[None].softmax(1), size, mode='bilinear')[0]
    chosen = shares.gather(0, classes[None])[0]
    return classes.to(torch.uint8), (255 * chosen).round_().to(torch.uint8)


def plain_instruments(mask: Plane, confidence: Plane) -> list[tuple[int, float, int, object]]:
    """
    Find the connected components of each class with OpenCV on the whole image.

    :param mask: (H, W) class.
    :param confidence: (H, W).
    :return: label, score, area in pixels, and box around the pixel centres of each instrument.
    """
    found = []
    joined = np.where(np.isin(mask, ROBOTIC_TOOL_PARTS), np.uint8(ROBOTIC_TOOL), mask)
    for label in range(NEEDLE, ROBOTIC_TOOL + 1):
        selected = (joined == label).view(np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
        areas_px = stats[:, cv2.CC_STAT_AREA]
        for index in np.flatnonzero(areas_px >= DEFAULT_LEAST_AREA * mask.size):
            if not index:
                continue  # the background
            region = (regions == index).view(np.uint8)
            outline = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
            score = cv2.mean(confidence, region)[0] / 255
            found.append((label, score, int(areas_px[index]), cv2.minAreaRect(outline)))
    return found

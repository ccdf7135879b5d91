# SPDX-License-Identifier: Apache-2.0
"""A self-test of models: a synthetic drawing, and the classes that the network must find in it."""

import base64
import binascii
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgseg_ros.core.files import write_atomically
from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.core.model_folder import SPEC_FILE, ModelError, ModelSpec, read_model
from surgseg_ros.core.preprocessing import prepare
from surgseg_ros.core.runtimes.pytorch import load_network

MIN_AGREEMENT: Final = 0.99
"""
Minimum share of the expected pixels that must have their class.

Only the half of each class with the highest confidence is expected, in which bfloat16 and int8
change almost nothing (docs/safety.md). A wrong network is far below: with red and blue exchanged,
another size or other weights, whole regions change.
"""

_DRAWINGS: Final = 8
"""Number of drawings to try; the one in which the network finds the most classes is kept."""

_MIN_SHARE: Final = 0.002
"""Minimum share of the image for a class to count as found."""


def draw(size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """
    Draw bars and lines on a red background, with integers only: the same on every machine.

    :param size: (h, w) in pixels.
    :param number: number of the drawing.
    :return: (h, w, 3) uint8 RGB.
    """
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.int64)
    image = np.stack(
        [110 + 90 * x // width, 40 + 50 * y // height, 40 + 40 * (x + y) // (height + width)], 2
    )
    numbers = _numbers(number)
    for thickness, grey in ((9, 0), (9, 60), (14, 90), (90, 30), (120, 90)):
        along, across = next(numbers) % 33 - 16, next(numbers) % 33 - 16 or 1
        breadth = max(2, height // thickness) * (abs(along) + abs(across))
        middle = along * (next(numbers) % width) + across * (next(numbers) % height)
        depth = breadth // 2 - np.abs(along * x + across * y - middle)
        shade = grey + 150 * depth.clip(0) // (breadth // 2 + 1)
        image = np.where(depth[..., None] > 0, shade[..., None] + np.array([0, 3, 9]), image)
    return image.clip(0, 255).astype(np.uint8)


def make_self_test(spec: ModelSpec, network: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """
    Choose a drawing, and store the classes that the network finds in it.

    :param spec: the model's specification.
    :param network: in float32, from (1, h, w, 3) uint8 to logits on the CPU.
    :return: `drawing`, its number, and `classes`, (h, w) bytes by zlib and base64; NO_DECISION for
        pixels without an expected class.
    """
    drawings = (torch.from_numpy(draw(spec.input_size, n))[None] for n in range(_DRAWINGS))
    maps = [_confident_classes(network, prepare(drawing, spec)) for drawing in drawings]
    number = max(range(_DRAWINGS), key=lambda n: (_classes_found(maps[n]), -n))
    packed = base64.b64encode(zlib.compress(maps[number].tobytes(), 9)).decode()
    return {'drawing': number, 'classes': packed}


def add_self_test(folder: Path | str) -> ModelSpec:
    """
    Write a self-test into the model.json of a folder.

    :param folder: a model folder.
    :return: its specification as written.
    :raises ModelError: if the folder cannot be used.
    """
    spec, weights = read_model(folder)
    written = replace(spec, self_test=make_self_test(spec, load_network(spec, weights)))
    write_atomically(Path(folder) / SPEC_FILE, written.to_json().encode())
    return written


def check_self_test(
    spec: ModelSpec, segment: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> float | None:
    """
    Compare the classes found in the drawing with the expected ones.

    :param spec: the model's specification.
    :param segment: maps (h, w, 3) uint8 RGB to the (h, w) mask, on the device to test.
    :return: the share of expected pixels that have their class; None if there is no self-test.
    :raises ModelError: if that is less than MIN_AGREEMENT, or the self-test cannot be read.
    """
    if not spec.self_test:
        return None
    number, expected = _read(spec.self_test, spec.input_size)
    found = segment(draw(spec.input_size, number))
    counts = expected != NO_DECISION
    agreement = np.count_nonzero((found == expected) & counts) / np.count_nonzero(counts)
    if agreement < MIN_AGREEMENT:
        raise ModelError(
            f'the self-test of {spec.name!r} fails: {100 * agreement:.2f} % of the expected '
            f'pixels have their class, less than {100 * MIN_AGREEMENT:g} %: this runtime or '
            "device computes something else; set runtime to 'torch' or device to 'cpu', or "
            'export the model again'
        )
    return agreement


@torch.inference_mode()
def _confident_classes(network: Callable[[Tensor], Tensor], inputs: Tensor) -> NDArray[np.uint8]:
    """Return the classes; NO_DECISION if the margin is below the median of the class."""
    logits = network(inputs)[0].float()  # (CLASS_COUNT, h, w)
    best = logits.topk(2, 0)
    leads = (best.values[0] - best.values[1]).numpy()
    classes: NDArray[np.uint8] = best.indices[0].numpy().astype(np.uint8)
    kept = np.full_like(classes, NO_DECISION)
    for label in range(CLASS_COUNT):
        found = classes == label
        if found.any():
            kept[found & (leads >= np.median(leads[found]))] = label
    return kept


def _classes_found(classes: NDArray[np.uint8]) -> int:
    counts = np.bincount(classes.reshape(-1), minlength=CLASS_COUNT)[:CLASS_COUNT]
    return int(np.count_nonzero(counts >= _MIN_SHARE * classes.size))


def _read(self_test: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, NDArray[np.uint8]]:
    """Unpack the self-test of model.json, with a limit on its size."""
    length = size[0] * size[1]
    try:
        number, packed = self_test['drawing'], base64.b64decode(self_test['classes'])
        content = zlib.decompressobj().decompress(packed, length + 1)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ModelError(f'self_test cannot be read ({error!r}); write the model again') from error
    classes = np.frombuffer(content, np.uint8)
    known = (classes < CLASS_COUNT) | (classes == NO_DECISION)
    if (
        not isinstance(number, int)
        or not 0 <= number < _DRAWINGS
        or len(classes) != length
        or not known.all()
        or (classes == NO_DECISION).all()
    ):
        raise ModelError(
            f'self_test does not fit: drawing {number!r} of {_DRAWINGS}, and {len(classes)} '
            f'classes for {length} pixels; write the model again'
        )
    return number, classes.reshape(size)


def _numbers(seed: int) -> Iterator[int]:
    """Yield pseudo-random numbers that do not depend on the version of a library."""
    state = 12_345 + 7_919 * seed
    while True:
        state = (state * 1_103_515_245 + 12_345) % 2**31  # as the C standard's example of rand()
        yield state >> 8

# SPDX-License-Identifier: Apache-2.0
"""Times the paper's path and ours, alternating, on the same images."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from surgseg_ros.core.model_folder import ModelSpec, read_model, write_model
from surgseg_ros.core.preprocessing import fit
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.upsampling import upsample
from surgseg_ros.exporting.export import RefusedError, export
from tools.end_to_end.plain_model import PlainModel, plain_upsampling

_UNTIMED: Final = 2

RgbArray = NDArray[np.uint8]


@dataclass
class Variant:
    """
    The measurements of one path, round by round, in milliseconds.

    :param runtime: its description.
    :param agreement: agreement recorded by the export.
    :param whole_ms: from image to mask.
    :param stages_ms: `fit`, `network` and `upsample`.
    :param with_confidence_ms: our postprocessing with confidence.
    :param same_upsampled: share of pixels with the class of the plain postprocessing on the same
        logits.
    :param same_as_plain: share of pixels with the class of the paper's whole path.
    """

    runtime: str
    agreement: Mapping[str, Any] = field(default_factory=dict)
    whole_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    with_confidence_ms: list[float] = field(default_factory=list)
    same_upsampled: float = 1.0
    same_as_plain: float = 1.0

    def note(self, whole_ms: float, stages_ms: Mapping[str, float]) -> None:
        """Add the times of one image."""
        self.whole_ms.append(whole_ms)
        for stage in ('fit', 'network', 'upsample'):
            self.stages_ms.setdefault(stage, []).append(stages_ms[stage])


def export_at(
    model: Path,
    input_size: tuple[int, int],
    precisions: Sequence[str],
    folder: Path,
    frames: int,
    data: Path | None = None,
) -> tuple[ModelSpec, dict[str, Path], dict[str, str]]:
    """
    Change the input size of a model, to which images are stretched as in the paper; export it.

    :param model: a model folder; its network must take any size.
    :param input_size: (height, width) in pixels.
    :param precisions: precisions of the exports for OpenVINO.
    :param folder: folder for `plain`, the model without export, and a folder for each precision.
    :param frames: maximum number of frames for calibration and for comparison.
    :param data: a data set for both; None for synthetic scenes.
    :return: the specification; the folders by precision; why others were refused.
    """
    spec, weights = read_model(model)
    spec = dataclasses.replace(spec, input_size=input_size, fit='stretch', exports={})
    spec = write_model(folder / 'plain', spec, weights)
    exports, refused = {}, {}
    for precision in precisions:
        try:
            export(
                folder / 'plain', folder / precision, 'openvino', precision, (data, None), frames
            )
            exports[precision] = folder / precision
        except RefusedError as error:
            refused[precision] = str(error)
    return spec, exports, refused


def alternate(
    plain_folder: Path, exports: Mapping[str, Path], images: Sequence[RgbArray], rounds: int
) -> dict[str, Variant]:
    """
    Time all paths on each image; each round starts with another path.

    :param plain_folder: the model folder for the paper's path.
    :param exports: model folders for ours, by precision.
    :param images: (H, W, 3) uint8 RGB, used in turn.
    :param rounds: number of measured images.
    :return: the measurements of `plain` and of the precisions.
    """
    plain = PlainModel(plain_folder, 'cpu')
    ours = {name: Segmenter.load(path, 'cpu', 'openvino') for name, path in exports.items()}
    variants = {'plain': Variant('torch float32')}
    variants |= {
        name: Variant(s.runtime.description, s.spec.exports['openvino']['agreement'])
        for name, s in ours.items()
    }
    for number in range(-_UNTIMED, rounds):
        image = images[number % len(images)]
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started_s = time.perf_counter()
            if name == 'plain':
                plain(image)
                stages_ms = plain.stage_ms
            else:
                stages_ms = dict(ours[name].segment(image).stage_ms)
            whole_ms = 1e3 * (time.perf_counter() - started_s)
            if number >= 0:
                variants[name].note(whole_ms, stages_ms)
    for name, segmenter in ours.items():
        _compare(variants[name], segmenter, plain, images)
    return variants


@torch.inference_mode()
def _compare(
    variant: Variant, segmenter: Segmenter, plain: PlainModel, images: Sequence[RgbArray]
) -> None:
    """Compare our masks with the plain ones, and time our postprocessing with confidence."""
    spec, upsampled, masks = segmenter.spec, [], []
    for image in images:
        size = (image.shape[0], image.shape[1])
        inputs = fit(torch.from_numpy(image)[None], spec.input_size, spec.fit)
        logits = segmenter.runtime(inputs)
        mask, *_ = upsample(logits[0], size, False)
        upsampled.append(np.mean(mask.numpy() == plain_upsampling(logits, size)))
        found = segmenter.segment(image, confidence=True)
        variant.with_confidence_ms.append(found.stage_ms['upsample'])
        masks.append(np.mean(found.mask == plain(image)))
    variant.same_upsampled = float(np.mean(upsampled))
    variant.same_as_plain = float(np.mean(masks))

# SPDX-License-Identifier: Apache-2.0
"""How far an exported network agrees with the original, and whether that is enough."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from surgseg_ros.core.fitting import place
from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.core.regions import drop_small_regions
from surgseg_ros.core.runtimes import Runtime
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize
from surgseg_ros.exporting.frames import Frame

Counts = dict[str, list[FrameCounts]]
"""Of the frames of each video."""

LEAST_CLASS_AGREEMENT: Final = 0.999
"""Of f32 and bf16: the least share of pixels, at either size, with the class of the original."""

LARGEST_MIOU_LOSS: Final = 0.005
"""Of int8, which shifts the borders of classes: the most of the official mIoU that may be lost."""


def compare(
    spec: ModelSpec, original: Runtime, exported: Runtime, frames: Sequence[Frame]
) -> dict[str, Any]:
    """
    Segment frames both ways.

    :param spec: the model.
    :param original: its network as trained.
    :param exported: its network as exported.
    :param frames: held out from calibration.
    :return: `frames`, `videos` (numbers of); `runtime`, the description of the exported;
        `class_agreement` and `class_agreement_at_input_size`, shares of pixels; `original` and
        `exported`, each with the official `mIoU` of the raw masks, and `filtered_mIoU` without
        regions below the model's least.
    """
    watched = _Watched(original), _Watched(exported)
    segmenters = [Segmenter(spec, runtime) for runtime in watched]
    full, small = _Share(), _Share()
    counts: list[Counts] = [{}, {}]
    filtered: list[Counts] = [{}, {}]
    for frame in tqdm(frames, 'comparing', unit='frame', leave=False):
        image, truth = frame.read()
        masks = [segmenter.segment(image).mask for segmenter in segmenters]
        full.add(*masks)
        part = place((image.shape[0], image.shape[1]), spec.input_size, spec.fit)
        small.add(*(w.classes[: part.height_px, : part.width_px] for w in watched))
        for mask, raw, kept in zip(masks, counts, filtered, strict=True):
            raw.setdefault(frame.video, []).append(count_frame(truth, mask, edges=False))
            mask = drop_small_regions(mask, spec.least_region)
            kept.setdefault(frame.video, []).append(count_frame(truth, mask, edges=False))
    return {
        'frames': len(frames),
        'videos': len(counts[0]),
        'runtime': exported.description,
        'class_agreement': full.value,
        'class_agreement_at_input_size': small.value,
        'original': _scores(counts[0], filtered[0]),
        'exported': _scores(counts[1], filtered[1]),
    }


def _scores(raw: Counts, filtered: Counts) -> dict[str, float]:
    return {'mIoU': summarize(raw)['mIoU'], 'filtered_mIoU': summarize(filtered)['mIoU']}


def find_fault(precision: str, agreement: dict[str, Any]) -> str:
    """
    Hold an agreement against the bounds.

    :param precision: one of PRECISIONS.
    :param agreement: as `compare` gives it.
    :return: why the export cannot be used, or '' if it can.
    """
    if precision == 'int8':
        before, after = agreement['original']['mIoU'], agreement['exported']['mIoU']
        if before - after <= LARGEST_MIOU_LOSS:
            return ''
        return (
            f'the official mIoU falls from {before:.4f} to {after:.4f} on '
            f'{agreement["frames"]} held-out frames, and {LARGEST_MIOU_LOSS} is the most: '
            'calibrate with more frames and of more videos (--frames), or take --precision bf16'
        )
    least = min(agreement['class_agreement'], agreement['class_agreement_at_input_size'])
    if least >= LEAST_CLASS_AGREEMENT:
        return ''
    return (
        f'{least:.5f} of the pixels of {agreement["frames"]} held-out frames have the class of '
        f'the original, and {LEAST_CLASS_AGREEMENT} is the least'
        + ('' if precision == 'f32' else ': take --precision f32')
    )


class _Watched:
    """A runtime whose last classes at the network's size are kept."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.device = runtime.device
        self.description = runtime.description
        self.max_batch_size = runtime.max_batch_size
        self.classes: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def __call__(self, fitted: Tensor) -> Tensor:
        logits = self._runtime(fitted)
        self.classes = logits[0].argmax(0).cpu().numpy()
        return logits


class _Share:
    """The share of pixels in which pairs of masks agree: counted first, divided last."""

    def __init__(self) -> None:
        self._same = self._all = 0

    def add(self, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        self._same += int(np.count_nonzero(ours == theirs))
        self._all += ours.size

    @property
    def value(self) -> float:
        return self._same / self._all

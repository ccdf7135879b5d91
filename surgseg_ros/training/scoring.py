# SPDX-License-Identifier: Apache-2.0
"""The steps after training: tune margins, temperature and minimum regions, then score."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.postprocessing import drop_small_regions
from surgseg_ros.core.preprocessing import fit_mask, prepare
from surgseg_ros.core.runtimes import Runtime, TorchRuntime
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.calibration import (
    BINS,
    MinimumMargins,
    MinimumRegions,
    Reliability,
    Temperature,
)
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize

ValidationFrame = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]
"""Video, (H, W, 3) uint8 RGB and (H, W) uint8 truth, at the original size of the video."""

Frames = Callable[[], Iterable[ValidationFrame]]
"""Function that returns the frames from the beginning, since they are read more than once."""


def tune_and_score(
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    frames: Frames,
    *,
    margins: bool = False,
    device: str = 'cpu',
    name: str = 'validation',
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """
    Tune and score a trained network before it is written.

    :param spec: the model.
    :param weights: its tensors.
    :param frames: frames for tuning and scoring.
    :param margins: whether each class must have a margin over the next, which changes the weights.
    :param device: `cpu`, `cuda` …
    :param name: key of the scores.
    :return: the model with `temperature`, `least_region`, `scores[name]` and, if requested,
        `training['margins']`; and its weights.
    :raises ModelError: if margins are requested, and the network has no bias for them.
    """
    weights = dict(weights)
    if margins:
        asked = tune_margins(TorchRuntime(spec, weights, device), spec, frames)
        weights = with_margins(spec, weights, asked)
        spec = dataclasses.replace(spec, training={**spec.training, 'margins': list(asked)})
    runtime = TorchRuntime(spec, weights, device)
    spec = dataclasses.replace(spec, temperature=tune_temperature(runtime, spec, frames))
    segmenter = Segmenter(spec, runtime)
    minimum = tune_min_region(segmenter, frames)
    scores = {**spec.scores, name: score(segmenter, frames, minimum)}
    return dataclasses.replace(spec, least_region=minimum, scores=scores), weights


def tune_margins(runtime: Runtime, spec: ModelSpec, frames: Frames) -> tuple[float, ...]:
    """
    Tune the margin that each class must have over the next one to be predicted.

    :param runtime: runs the network.
    :param spec: the model, which defines how images are resized.
    :param frames: frames for tuning.
    :return: margin per class, in logits; 0 for the background.
    """
    margins = MinimumMargins()
    for truth, logits in _at_input_size(runtime, spec, frames, 'margins'):
        margins.add(truth, logits)
    return margins.tune()


def tune_temperature(runtime: Runtime, spec: ModelSpec, frames: Frames) -> float:
    """
    Fit the temperature, by which logits are divided to calibrate the confidence.

    :param runtime: runs the network, including margins, which change the classes.
    :param spec: the model, which defines how images are resized.
    :param frames: frames for tuning.
    :return: the temperature, as in ModelSpec.
    """
    temperature = Temperature()
    for truth, logits in _at_input_size(runtime, spec, frames, 'temperature'):
        temperature.add(truth, logits)
    return temperature.tune()


def _at_input_size(
    runtime: Runtime, spec: ModelSpec, frames: Frames, what: str
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield (h, w) truth and (C, h, w) logits of each frame at the network's size."""
    for _, image, truth in _with_progress(frames, what):
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(runtime.device)
            logits = runtime(prepare(batch, spec))[0].float().cpu().numpy()
        mask = torch.from_numpy(np.ascontiguousarray(truth))[None]
        resized = fit_mask(mask, spec.input_size, spec.fit, NO_DECISION)
        yield resized[0].numpy(), logits


def with_margins(
    spec: ModelSpec, weights: Mapping[str, Tensor], margins: Sequence[float]
) -> dict[str, Tensor]:
    """
    Subtract the margins from the bias of the last layer, so that callers need not handle them.

    :param spec: the model, for error messages.
    :param weights: its tensors; not modified.
    :param margins: per class, in logits.
    :return: the tensors, of which one is changed.
    :raises ModelError: if the last layer has no bias.
    """
    # The only tensor of the head with one value per class: `0.bias` in most architectures.
    biases = [
        key
        for key, value in weights.items()
        if '.segmentation_head.' in f'.{key}'
        and key.endswith('.bias')
        and value.shape == (CLASS_COUNT,)
    ]
    if not biases:
        raise ModelError(
            f'{spec.architecture} of {spec.name!r} has no bias of {CLASS_COUNT} values in its '
            'segmentation_head, from which to subtract the margins: set margins to false'
        )
    bias = weights[biases[-1]]
    return {**weights, biases[-1]: bias - torch.tensor(margins).to(bias)}


def tune_min_region(segmenter: Segmenter, frames: Frames) -> tuple[float, ...]:
    """
    Tune the minimum area of regions of each class.

    :param segmenter: the model.
    :param frames: frames for tuning.
    :return: minimum area per class, as a share of the image, as in ModelSpec.
    """
    regions = MinimumRegions()
    for _, image, truth in _with_progress(frames, 'minimum regions'):
        regions.add(truth, segmenter.segment(image).mask)
    return regions.tune()


def score(segmenter: Segmenter, frames: Frames, minimum: Sequence[float]) -> dict[str, Any]:
    """
    Score by the official definition, at the original size of the video.

    :param segmenter: the model.
    :param frames: frames for scoring.
    :param minimum: minimum region per class for the filtered scores.
    :return: `videos`, `frames` (their numbers); `floor`, the scores of a prediction of
        background only: `mIoU`, `mNSD`, `score`; `class_floor`; and `raw` and `filtered`: the same
        three, `class_mIoU`, `class_mNSD`, and `present_class_IoU`, the mean over the frames whose
        truth has the class, or None. Nine values each, classes 1 to 9. And `calibration`, as
        Calibration sums up.
    :raises ValueError: if there is no frame.
    """
    raw: dict[str, list[FrameCounts]] = {}
    filtered: dict[str, list[FrameCounts]] = {}
    calibration = Calibration(segmenter)
    for video, image, truth in _with_progress(frames, 'scoring'):
        predicted = calibration.add(image, truth)
        kept = drop_small_regions(predicted, minimum)
        raw.setdefault(video, []).append(count_frame(truth, predicted))
        filtered.setdefault(video, []).append(count_frame(truth, kept))
    summary = summarize(raw)
    absent = [np.mean([frame.truth_px == 0 for frame in counts], 0) for counts in raw.values()]
    return {
        'videos': len(raw),
        'frames': sum(map(len, raw.values())),
        'floor': summary['floor'],
        'class_floor': np.mean(absent, 0).tolist(),
        'raw': _selected(summary),
        'filtered': _selected(summarize(filtered)),
        'calibration': calibration.summarize(),
    }


class Calibration:
    """
    Measures the calibration of the confidence, with the model's temperature and without.

    :param segmenter: the model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        plain = Segmenter(dataclasses.replace(segmenter.spec, temperature=1.0), segmenter.runtime)
        self._kinds = {'before': (plain, Reliability()), 'after': (segmenter, Reliability())}

    def add(self, image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """
        Add a frame.

        :param image: (H, W, 3) uint8 RGB.
        :param truth: (H, W) uint8 class index.
        :return: (H, W) uint8, the predicted classes, which the temperature does not change.
        """
        for segmenter, reliability in self._kinds.values():
            found = segmenter.segment(image, confidence=True)
            reliability.add(truth, found)
        return found.mask

    def summarize(self) -> dict[str, Any]:
        """
        Compute the results.

        :return: `bins`; and `before` and `after` the temperature, as Reliability sums up.
        """
        kinds = {key: reliability.summarize() for key, (_, reliability) in self._kinds.items()}
        return {'bins': BINS, **kinds}


def _selected(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Select the values of a model card; classes are averaged over the videos, as officially."""
    videos = summary['videos'].values()
    return {
        **{key: summary[key] for key in ('mIoU', 'mNSD', 'score')},
        **{
            key: np.mean([video[key] for video in videos], 0).tolist()
            for key in ('class_mIoU', 'class_mNSD')
        },
        'present_class_IoU': summary['present_class_IoU'],
    }


def _with_progress(frames: Frames, what: str) -> Iterator[ValidationFrame]:
    """Show progress."""
    yield from tqdm(frames(), what, unit='frame', leave=False)

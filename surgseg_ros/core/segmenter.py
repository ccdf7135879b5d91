# SPDX-License-Identifier: Apache-2.0
"""RGB picture in, class mask out: the one way that node, evaluator and bag tools go."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surgseg_ros.core.fitting import fit, place
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import read_spec
from surgseg_ros.core.model_spec import ModelError, ModelSpec
from surgseg_ros.core.runtimes import Runtime, load_runtime
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.stopwatch import stopwatch
from surgseg_ros.core.upsampling import upsample


class Segmenter:
    """
    A model, ready to segment pictures one by one; not for several threads at once.

    :param spec: the model's specification.
    :param runtime: what runs its network.
    """

    def __init__(self, spec: ModelSpec, runtime: Runtime) -> None:
        """Keep both; see the class."""
        self.spec = spec
        self.runtime = runtime

    @classmethod
    def load(cls, folder: Path | str, device: str = 'auto', runtime: str = 'torch') -> 'Segmenter':
        """
        Load a model folder onto a device.

        :param folder: the model folder.
        :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
        :param runtime: a key of RUNTIMES, or AUTO.
        :return: the segmenter.
        :raises ModelError: if the folder can't be used.
        :raises ValueError: if the machine has no such device, or there is no such runtime.
        """
        spec = read_spec(folder)
        return cls(spec, load_runtime(Path(folder), spec, device, runtime))

    def warm_up(self, size: tuple[int, int] = (1080, 1920)) -> None:
        """
        Segment two grey pictures, so that the first real one waits for nothing.

        :param size: (H, W) of the pictures to come, where known.
        """
        for _ in range(2):
            self.segment(np.full((*size, 3), 127, np.uint8), confidence=True)

    @torch.inference_mode()
    def segment(
        self, image: NDArray[np.uint8], *, roi: Roi | None = None, confidence: bool = False
    ) -> Segmentation:
        """
        Find the class of each pixel.

        :param image: (H, W, 3) uint8 RGB; rows may be padded, it is not written to.
        :param roi: the part to look at; outside it the mask is NO_DECISION.
        :param confidence: whether the result shall hold the confidence.
        :return: mask (and confidence) of the picture's exact size.
        :raises ValueError: if `image` is not such an array, or the roi lies beyond it.
        :raises ArithmeticError: if the network's answer is no number.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f'the picture is {image.shape} {image.dtype}, expected (H, W, 3) uint8 RGB'
            )
        view = image if roi is None else roi.view(image)
        result = self._segment_view(view, confidence)
        return result if roi is None else _paste(result, (image.shape[0], image.shape[1]), roi)

    def _segment_view(self, image: NDArray[np.uint8], confidence: bool) -> Segmentation:
        size = (image.shape[0], image.shape[1])
        watch = stopwatch(self.runtime.device)
        fitted = fit(self._upload(image), self.spec.input_size, self.spec.fit)
        watch.lap('fit')
        logits = self._infer(fitted)
        watch.lap('network')
        placement = place(size, self.spec.input_size, self.spec.fit)
        part = logits[0, :, : placement.height_px, : placement.width_px]
        classes, chosen = upsample(part, size, confidence, self.spec.temperature)
        watch.lap('upsample')
        mask = classes.cpu().numpy()
        certainty = None if chosen is None else chosen.cpu().numpy()
        watch.lap('download')
        return Segmentation(mask, certainty, watch.times_ms())

    def _infer(self, fitted: torch.Tensor) -> torch.Tensor:
        """Run the network; a map of another size, or of NaN, would pass for a mask."""
        logits = self.runtime(fitted)
        expected = (1, CLASS_COUNT, *self.spec.input_size)
        if logits.shape != expected:
            raise ModelError(
                f'the network of {self.spec.name!r} gives {tuple(logits.shape)} logits, expected '
                f'{expected}: its options do not fit its input_size'
            )
        if not torch.isfinite(logits).all():
            raise ArithmeticError(
                f'the network of {self.spec.name!r} gives NaN or infinite logits: check the model '
                'folder, and the memory of the device'
            )
        return logits

    def _upload(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """(1, H, W, 3) on the device, without a copy where torch can read the array as it is."""
        if min(image.strides) < 0:
            image = image.copy()
        return torch.from_numpy(np.asarray(_Shared(image)))[None].to(self.runtime.device)


class _Shared:
    """An array's own memory, called writable: torch warns of any other; none is written to."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, 'data': (interface['data'][0], False)}


def _paste(part: Segmentation, size: tuple[int, int], roi: Roi) -> Segmentation:
    """Put the result of a roi into a picture of NO_DECISION with confidence 0."""
    whole = Segmentation.undecided(size)
    roi.view(whole.mask)[:] = part.mask
    if part.confidence is None or whole.confidence is None:
        return Segmentation(whole.mask, None, part.stage_ms)
    roi.view(whole.confidence)[:] = part.confidence
    return Segmentation(whole.mask, whole.confidence, part.stage_ms)

# SPDX-License-Identifier: Apache-2.0
"""The segmenter of the public API, of the node and of all verbs: RGB image to class mask."""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import scipy.optimize  # imported early: it would delay the first image
import scipy.sparse.csgraph
import scipy.spatial  # noqa: F401
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgseg_ros.core.cuda import MAX_IN_FLIGHT, BatchesInFlight, Completed, Graphs, cuda_streams
from surgseg_ros.core.errors import describe
from surgseg_ros.core.image_batch import ImageBatch, agree, is_same
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import (
    DEFAULT_MODEL,
    ModelError,
    ModelSpec,
    find_model,
    read_spec,
)
from surgseg_ros.core.postprocessing import instruments_in
from surgseg_ros.core.preprocessing import RgbArray, StagedTransfer, place, prepare, transfer_to
from surgseg_ros.core.rgb_images import grey_image
from surgseg_ros.core.runtimes import (
    AUTO,
    Runtime,
    RuntimeOptions,
    TorchRuntime,
    load_runtime,
    simpler_options,
)
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.self_test import check_self_test, draw
from surgseg_ros.core.timing import CudaStopwatch, Stopwatch, stopwatch
from surgseg_ros.core.upsampling import Upsampled, upsample

_LOG: Final = logging.getLogger(__name__)


class Segmenter:
    """
    A model, ready to segment images; not thread-safe.

    Part of the public API; needs neither ROS 2 nor a node.

    >>> import numpy as np
    >>> from surgseg_ros import Segmenter
    >>> segmenter = Segmenter.load(device='cpu')  # the model that comes with the package
    >>> rgb = np.full((480, 640, 3), (150, 60, 50), np.uint8)  # or an image of your own
    >>> result = segmenter.segment(rgb, confidence=True, instruments=True)
    >>> result.mask.shape, result.mask.dtype
    ((480, 640), dtype('uint8'))
    >>> result.confidence.shape, result.confidence.dtype
    ((480, 640), dtype('uint8'))
    >>> isinstance(result.instruments, tuple)
    True

    :param spec: the model's specification.
    :param runtime: the runtime of its network.
    """

    def __init__(self, spec: ModelSpec, runtime: Runtime) -> None:
        """Store both; see `load`."""
        self.spec = spec
        self.runtime = runtime
        self._transfer = transfer_to(runtime.device)
        self._network: Callable[[Tensor], Tensor] = runtime
        self._graphs: Graphs | None = None
        self._in_flight: BatchesInFlight | None = None
        if isinstance(runtime, TorchRuntime) and runtime.device.type == 'cuda':
            self._network, self._graphs = runtime.eager, Graphs(agree)

    @classmethod
    def load(
        cls,
        folder: Path | str = DEFAULT_MODEL,
        device: str = AUTO,
        runtime: str = AUTO,
        *,
        precision: str = AUTO,
        max_batch_size: int = 1,
        quickest: bool = False,
    ) -> 'Segmenter':
        """
        Load a model folder onto a device.

        :param folder: the model folder, with model.json and weights.safetensors; `default` is the
            model that comes with the package, trained on synthetic scenes only.
        :param device: `auto` (CUDA if available), `cpu`, `cuda`, `cuda:1` …
        :param runtime: `torch`, `openvino`, `onnxruntime`, or `auto`: the fastest one that is
            installed and that the model folder supports.
        :param precision: `auto`, `f32`, `bf16`, `f16` or `int8`; `auto` is the precision of the
            export, and f32 without one.
        :param max_batch_size: the largest number of images in one call of `segment_all`.
        :param quickest: whether `auto` may be bf16 or f16 instead of f32, as in the node: with
            `torch` on CUDA, unless that fails the model's self-test; and on a CPU where OpenVINO
            is quicker in it and finds the same classes.
        :return: the segmenter.
        :raises ModelError: if the folder cannot be used; a subclass of ValueError.
        :raises ValueError: if there is no such device, runtime or precision.
        """
        found = find_model(folder)
        spec = read_spec(found)
        options = RuntimeOptions(device, precision, max_batch_size, quickest)
        segmenter = cls(spec, load_runtime(found, spec, runtime, options))
        simpler = simpler_options(segmenter.runtime, runtime, options)
        while simpler and (reason := segmenter._failed_self_test()):
            failed = f'{segmenter.runtime.description} fails the self-test'
            _LOG.warning('%s (%s); torch is used instead', failed, reason)
            segmenter = cls(spec, load_runtime(found, spec, 'torch', simpler.pop(0)))
            segmenter.runtime.description += f' (auto: {failed})'
        return segmenter

    def _failed_self_test(self) -> str:
        try:
            check_self_test(self.spec, lambda image: self.segment(image).mask)
        except (ModelError, ArithmeticError) as error:  # a reduced precision may overflow
            return str(error)
        return ''

    @property
    def max_batch_size(self) -> int:
        """Number of images up to which one call of `segment_all` is faster than several."""
        return self.runtime.max_batch_size

    @property
    def max_in_flight(self) -> int:
        """Number of calls of `begin` whose results may be outstanding; 1 if more are no faster."""
        return 1 if self._in_flight is None else MAX_IN_FLIGHT

    def described(self) -> dict[str, str]:
        """
        Describe what makes the masks, for a JSON file.

        :return: `name` and `weights_sha256` of the model; `runtime`, for people, with the device
            and why it was chosen; `precision`, one of f32, bf16, f16 and int8.
        """
        return {
            'name': self.spec.name,
            'weights_sha256': self.spec.weights_sha256,
            'runtime': self.runtime.description,
            'precision': self.runtime.precision,
        }

    def warm_up(self, size: tuple[int, int] = (1080, 1920)) -> None:
        """
        Segment grey images, so that the first real image is not slower than later ones.

        :param size: (H, W) of the expected images, if known.
        :raises ValueError: if it is not (H, W).
        """
        grey = grey_image(size)
        for count in range(1, self.max_batch_size + 1):
            for confidence in (True, False) if self._graphs else (True,):
                for _ in range(2):
                    self.segment_all([grey] * count, grid_confidence=True, confidence=confidence)
        if self._graphs and 'CUDA graph' not in self.runtime.description:
            failure = self._graphs.failure
            how = f'without a CUDA graph ({failure})' if failure else 'as a CUDA graph'
            self.runtime.description += f', {how}'
            self._enable_in_flight(size)

    def _enable_in_flight(self, size: tuple[int, int]) -> None:
        """Let batches be in flight if a GPU has streams for them; see `BatchesInFlight`."""
        if isinstance(self._transfer, StagedTransfer) and self._transfer.stream is not None:
            streams = cuda_streams(self.runtime.device, self._transfer.stream)
            in_flight = BatchesInFlight(self.runtime.device, streams, self._transfer)
            self._test_in_flight(in_flight, size)

    def _test_in_flight(self, in_flight: BatchesInFlight, size: tuple[int, int]) -> None:
        """Use it if images in flight have the same results as images one after another."""
        drawn = (draw(self.spec.input_size, number) for number in range(_TRIED))
        images = [np.asarray(cv2.resize(each, size[::-1]), np.uint8) for each in drawn]
        try:
            expected = [self.segment(image, grid_confidence=True) for image in images]
        except ArithmeticError:  # of a drawing; the model's self-test decides about the model
            return
        self._in_flight, found = in_flight, []
        begun: deque[Callable[[], tuple[Segmentation, ...]]] = deque()
        for image in images:
            begun.append(self.begin([image], grid_confidence=True))
            if len(begun) == MAX_IN_FLIGHT:
                found.append(begun.popleft()()[0])
        found += [results()[0] for results in begun]
        if self._in_flight and not all(map(is_same, found, expected)):
            self._disable_in_flight('images in flight had other results')

    def segment(
        self,
        image: RgbArray,
        *,
        roi: Roi | None = None,
        confidence: bool = False,
        grid_confidence: bool = False,
        instruments: bool = False,
    ) -> Segmentation:
        """
        Find the class of each pixel.

        :param image: (H, W, 3) uint8 RGB of any size; may be a view, and is not modified.
        :param roi: the part of the image to segment; outside it, and outside its circle if it has
            one, the mask is NO_DECISION (255). The network gets the rectangle.
        :param confidence: whether the result has the confidence of each pixel.
        :param grid_confidence: whether the result has the confidence at the network's own
            resolution.
        :param instruments: whether the result has the instruments in the mask.
        :return: the mask, of the image's exact size, and what was requested.
        :raises TypeError: if `image` is not a NumPy array, or `roi` not a Roi.
        :raises ValueError: if it has another shape or dtype, or the roi reaches beyond it.
        :raises ArithmeticError: if the network's output is NaN or infinite.
        """
        (result,) = self.segment_all(
            [image], [roi], confidence=confidence, grid_confidence=grid_confidence or instruments
        )
        if not instruments:
            return result
        return dataclasses.replace(result, instruments=instruments_in(result))

    @torch.inference_mode()
    def segment_all(
        self,
        images: Sequence[RgbArray],
        rois: Sequence[Roi | None] | None = None,
        *,
        confidence: bool = False,
        grid_confidence: bool = False,
    ) -> tuple[Segmentation, ...]:
        """
        Find the class of each pixel of several images, in one call of the network.

        :param images: (H, W, 3) uint8 RGB each, of any sizes; at least one.
        :param rois: the part of each image to segment; None: the whole images.
        :param confidence: whether the results have the confidence of each pixel.
        :param grid_confidence: whether the results have the confidence at the network's own
            resolution.
        :return: one result for each image, in order; the times are those of the whole call.
        :raises TypeError: if one is not a NumPy array, or a roi not a Roi.
        :raises ValueError: if one has another shape or dtype, or a roi reaches beyond its image;
            if there is no image, or another number of rois.
        :raises ArithmeticError: if the network's output for one is NaN or infinite.
        """
        batch = ImageBatch.of(images, rois, confidence, grid_confidence)
        views = batch.views()
        with self._transfer.working():
            watch = stopwatch(self.runtime.device)
            uploaded = self._transfer.upload(views)
            if self._graphs is None:
                planes = self._compute(uploaded, confidence, grid_confidence, watch)
            else:
                watch.lap('fit')  # the copy to the device; the graph has the stages
                planes = self._replay(uploaded, confidence, grid_confidence)
                watch.lap('network')
                watch.lap('upsample')
            arrays = self._transfer.download(planes)
            watch.lap('download')
        self._check(arrays[0])
        return batch.results(arrays[1:], watch.times_ms())

    @torch.inference_mode()
    def begin(
        self,
        images: Sequence[RgbArray],
        rois: Sequence[Roi | None] | None = None,
        *,
        confidence: bool = False,
        grid_confidence: bool = False,
    ) -> Callable[[], tuple[Segmentation, ...]]:
        """
        Begin to find the class of each pixel of several images; on a CPU, do it at once.

        If this fails, `segment_all` computes the results.

        :param images: see `segment_all`; they are not modified until the results are available.
        :param rois: see `segment_all`.
        :param confidence: see `segment_all`.
        :param grid_confidence: see `segment_all`.
        :return: a function that waits for the results of `segment_all`; to be called once, before
            `max_in_flight` further calls of this method. Errors are raised by either.
        """
        batch = ImageBatch.of(images, rois, confidence, grid_confidence)
        if self._in_flight is None:
            done = self._again(batch)
            return lambda: done
        try:
            complete = self._in_flight.start(
                self._replay, batch.views(), confidence, grid_confidence
            )
        except Exception as error:
            done = self._again(batch, error)
            return lambda: done
        return lambda: self._completed(batch, complete)

    def _completed(
        self, batch: ImageBatch, complete: Callable[[], Completed]
    ) -> tuple[Segmentation, ...]:
        try:
            (sums, *arrays), times_ms = complete()
            self._check(sums)
            return batch.results(arrays, times_ms)
        except Exception as error:
            return self._again(batch, error)

    def _again(
        self, batch: ImageBatch, error: Exception | None = None
    ) -> tuple[Segmentation, ...]:
        """Compute what failed in flight; nothing is in flight from now on if that works."""
        images, rois, confidence, grid_confidence = batch
        results = self.segment_all(
            images, rois, confidence=confidence, grid_confidence=grid_confidence
        )
        if error is not None:
            self._disable_in_flight(describe(error))
        return results

    def _disable_in_flight(self, reason: str) -> None:
        self._in_flight = None
        _LOG.warning('images are processed one at a time, which is slower: %s', reason)

    def _replay(
        self, images: Sequence[Tensor], confidence: bool, grid_confidence: bool
    ) -> Sequence[Tensor]:
        if self._graphs is None:
            return self._compute(images, confidence, grid_confidence)
        return self._graphs.run(self._compute, images, confidence, grid_confidence)

    def _compute(
        self,
        images: Sequence[Tensor],
        confidence: bool,
        grid_confidence: bool,
        watch: Stopwatch | CudaStopwatch | None = None,
    ) -> Sequence[Tensor]:
        """
        Do all work on the device: on a GPU, this is one CUDA graph.

        :param images: (1, H, W, 3) uint8 RGB each.
        :param confidence: as for `segment_all`.
        :param grid_confidence: as for `segment_all`.
        :param watch: measures the stages; None in a graph.
        :return: the sum of the logits of each image, (N,), which is NaN or infinite if any of them
            is; then for each image, in order, what `Upsampled` has and was requested.
        """
        lap = watch.lap if watch else _ignore
        inputs = [prepare(image, self.spec) for image in images]
        batch = inputs[0] if len(inputs) == 1 else torch.cat(inputs)  # (N, h, w, 3)
        lap('fit')
        logits = self._infer(batch)  # (N, CLASS_COUNT, h, w)
        lap('network')
        planes = [logits.sum((1, 2, 3), dtype=torch.float32)]
        for of_one, image in zip(logits, images):
            size = (image.shape[1], image.shape[2])
            upsampled = self._upsample(of_one, size, confidence, grid_confidence)
            planes += [plane for plane in upsampled if plane is not None]
        lap('upsample')
        return planes

    def _infer(self, batch: Tensor) -> Tensor:
        """Run the network and check the shape of its output, which is not checked later."""
        logits = self._network(batch)
        expected = (len(batch), CLASS_COUNT, *self.spec.input_size)
        if logits.shape != expected:
            raise ModelError(
                f'the network of {self.spec.name!r} returns {tuple(logits.shape)} logits, '
                f'expected {expected}: its options are incompatible with input_size'
            )
        return logits

    def _upsample(
        self, logits: Tensor, size: tuple[int, int], confidence: bool, grid_confidence: bool
    ) -> Upsampled:
        """Upsample (CLASS_COUNT, h, w) logits to the image's size."""
        placement = place(size, self.spec.input_size, self.spec.fit)
        part = logits[:, : placement.height_px, : placement.width_px]
        return upsample(part, size, confidence, self.spec.temperature, grid_confidence)

    def _check(self, sums: NDArray[np.float32]) -> None:
        """Reject NaN and infinity, whose argmax would look like a decision."""
        if not np.isfinite(sums).all():
            raise ArithmeticError(
                f'the network of {self.spec.name!r} returns NaN or infinite logits: check the '
                'model folder, and the memory of the device'
            )


_TRIED: Final = 6
"""Number of images in flight that are compared with images one after another."""


def _ignore(stage: str) -> None:
    """Measure nothing."""

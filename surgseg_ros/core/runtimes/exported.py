# SPDX-License-Identifier: Apache-2.0
"""Shared code of runtimes of exported networks: reading an export, and importing its library."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgseg_ros.core.model_folder import EXPORT_FILES, ModelError, ModelSpec, read_checked
from surgseg_ros.core.runtimes.selection import AUTO


def read_export(
    folder: Path, spec: ModelSpec, backend: str, precision: str = AUTO
) -> tuple[str, list[bytes]]:
    """
    Read an export, and check that its files are those that model.json names.

    :param folder: the model folder.
    :param spec: its specification.
    :param backend: a key of EXPORT_FILES.
    :param precision: required precision of the export, or `auto`.
    :return: one of PRECISIONS, and the content of the files in the order of EXPORT_FILES.
    :raises ModelError: if the folder holds no such export, or one of another precision, or a file
        is missing or changed.
    """
    if backend not in spec.exports:
        raise ModelError(
            f'{folder}: the model has no export for {backend}; make one: surgseg_ros export '
            f'--model {folder} --backend {backend} --precision f32 --output NEW_FOLDER'
        )
    export = spec.exports[backend]
    if precision not in (AUTO, export['precision']):
        raise ModelError(
            f'{folder}: precision is {precision!r}, but the export for {backend} is '
            f"{export['precision']}: set precision to 'auto', or export again"
        )
    contents = [
        read_checked(Path(folder) / name, export['files'][name]) for name in EXPORT_FILES[backend]
    ]
    return export['precision'], contents


def import_library(name: str, remedy: str) -> Any:
    """
    Import an optional library.

    :param name: name of the module.
    :param remedy: what to do if it is not installed.
    :return: the module.
    :raises ValueError: if it cannot be imported.
    """
    # Disable telemetry, which is on by default: of OpenVINO and NNCF in a separate module, of
    # ONNX Runtime from 1.29 on in a thread, with hashes of the model.
    os.environ['ORT_DISABLE_TELEMETRY'] = '1'
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f'{name} cannot be imported ({error}): {remedy}') from error


def one_by_one(run: Callable[[Tensor], Tensor], fitted: Tensor) -> Tensor:
    """
    Run a network whose graph takes one image on a batch.

    :param run: from (1, h, w, 3) to logits, whose memory it may reuse.
    :param fitted: (N, h, w, 3).
    :return: (N, CLASS_COUNT, h, w) logits; for one image, those of `run` without a copy.
    """
    if len(fitted) == 1:
        return run(fitted)
    return torch.cat([run(image[None]).clone() for image in fitted])

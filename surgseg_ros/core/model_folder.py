# SPDX-License-Identifier: Apache-2.0
"""A model is a folder: model.json, which says what the weights are, and weights.safetensors."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
from torch import Tensor

from surgseg_ros.core.files import write_whole
from surgseg_ros.core.model_spec import ModelError, ModelSpec

SPEC_FILE: Final = 'model.json'
WEIGHTS_FILE: Final = 'weights.safetensors'
_LARGEST_SPEC_BYTES: Final = 1 << 20


def read_spec(folder: Path | str) -> ModelSpec:
    """
    Read the model.json of a model folder, without its weights.

    :param folder: the model folder.
    :return: the specification.
    :raises ModelError: if it is missing or not understood.
    """
    path = Path(folder) / SPEC_FILE
    try:
        if not Path(folder).is_dir():
            raise ModelError(
                f'the model folder does not exist: give a folder that `train` wrote, '
                f'with {SPEC_FILE} and {WEIGHTS_FILE}'
            )
        if path.stat().st_size > _LARGEST_SPEC_BYTES:
            raise ModelError(f'{path}: larger than {_LARGEST_SPEC_BYTES} bytes; not a {SPEC_FILE}')
        return ModelSpec.from_json(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f'{path}: can not be read ({error.strerror}); give a folder that `train` wrote'
        ) from error
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from error


def read_model(folder: Path | str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """
    Read a model folder, and check that the weights are those that its model.json names.

    :param folder: the model folder.
    :return: the specification, and the weights by parameter name, on the CPU.
    :raises ModelError: if a file is missing, truncated, changed or not understood.
    """
    spec = read_spec(folder)
    return spec, read_weights(folder, spec)


def read_weights(folder: Path | str, spec: ModelSpec) -> dict[str, Tensor]:
    """
    Read the weights of a model folder, and check that they are those that its model.json names.

    :param folder: the model folder.
    :param spec: as `read_spec` read it.
    :return: the weights by parameter name, on the CPU.
    :raises ModelError: if the file is missing, truncated, changed or not understood.
    """
    path = Path(folder) / WEIGHTS_FILE
    content = read_checked(path, spec.weights_sha256)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f'{path}: is not a safetensors file ({error})') from error


def read_checked(path: Path, sha256: str) -> bytes:
    """
    Read a file of a model folder, and check that it is the one that its model.json names.

    :param path: the file.
    :param sha256: hex digest that model.json gives.
    :return: its content.
    :raises ModelError: if it is missing, truncated or changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f'{path}: can not be read ({error.strerror}); copy the whole model folder'
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelError(
            f'{path}: SHA-256 is {digest!r}, {SPEC_FILE} says {sha256!r}: the file is truncated '
            'or another one; copy the model folder again'
        )
    return content


def write_model(folder: Path | str, spec: ModelSpec, weights: Mapping[str, Tensor]) -> ModelSpec:
    """
    Write a model folder; each file appears whole or not at all, model.json last.

    :param folder: made where it does not exist; a model in it is replaced.
    :param spec: what to write; `weights_sha256` is filled in, and `exports` and `self_test`, which
        were made of other weights, are left out.
    :param weights: tensors by parameter name.
    :return: the specification as written.
    :raises ModelError: if the specification can not be written.
    """
    folder = Path(folder)
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    )
    digest = hashlib.sha256(content).hexdigest()
    written = replace(spec, weights_sha256=digest, exports={}, self_test={})
    text = written.to_json()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS_FILE, content)
    write_whole(folder / SPEC_FILE, text.encode())
    return written

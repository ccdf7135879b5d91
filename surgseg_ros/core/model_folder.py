# SPDX-License-Identifier: Apache-2.0
"""A model is a folder: model.json, which says what the weights are, and weights.safetensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from surgseg_ros.core.files import write_whole
from surgseg_ros.core.model_spec import ModelError, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

SPEC_FILE: Final = 'model.json'
WEIGHTS_FILE: Final = 'weights.safetensors'
_LARGEST_SPEC_BYTES: Final = 1 << 20
_LARGEST_FILE_BYTES: Final = 4 << 30
"""Of weights or of an export: a thousand million numbers of float32."""


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
        return ModelSpec.from_json(_read_file(path, _LARGEST_SPEC_BYTES))
    except OSError as error:
        raise ModelError(
            f'{path}: cannot be read ({error.strerror}); give a folder that `train` wrote'
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
    import safetensors.torch  # not above: a specification is read without torch

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
    :raises ModelError: if it is missing, truncated, changed, too large or leads elsewhere.
    """
    try:
        content = _read_file(path, _LARGEST_FILE_BYTES)
    except OSError as error:
        raise ModelError(
            f'{path}: cannot be read ({error.strerror}); copy the whole model folder'
        ) from error
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelError(
            f'{path}: SHA-256 is {digest!r}, {SPEC_FILE} says {sha256!r}: the file is truncated '
            'or another one; copy the model folder again'
        )
    return content


def _read_file(path: Path, largest_bytes: int) -> bytes:
    """
    Read a file of a model folder, and no other.

    A folder may be linked file by file, as colcon does, but only as one: a link among files, or
    one to a file of another name, would have us read whatever it leads to.
    """
    real = Path(os.path.realpath(path, strict=True))
    if real != Path(os.path.realpath(path.with_name(SPEC_FILE))).with_name(path.name):
        raise ModelError(f'is a link to {real}, out of the model folder: copy the file itself')
    if not real.is_file():
        raise ModelError('is no regular file: copy the model folder again')
    size = real.stat().st_size
    if size > largest_bytes:
        raise ModelError(f'has {size} bytes, larger than the {largest_bytes} that are read')
    with real.open('rb') as file:
        return file.read(largest_bytes)


def write_model(folder: Path | str, spec: ModelSpec, weights: Mapping[str, Tensor]) -> ModelSpec:
    """
    Write a model folder; each file appears whole or not at all, model.json last.

    :param folder: made where it does not exist; a model in it is replaced.
    :param spec: what to write; `weights_sha256` is filled in, and `exports` and `self_test`, which
        were made of other weights, are left out.
    :param weights: tensors by parameter name.
    :return: the specification as written.
    :raises ModelError: if the specification cannot be written.
    """
    import safetensors.torch

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


def write_spec(folder: Path | str, spec: ModelSpec) -> None:
    """
    Write the model.json of a model folder again, whose other files stay as they are.

    :param folder: the model folder.
    :param spec: as it was read, with other values where they name none of those files.
    :raises ModelError: if the specification cannot be written.
    """
    write_whole(Path(folder) / SPEC_FILE, spec.to_json().encode())

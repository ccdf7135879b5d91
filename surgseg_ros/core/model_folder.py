# SPDX-License-Identifier: Apache-2.0
"""Finds, reads, checks and writes model folders: specification, weights and exports."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgseg_ros.core.files import read_in_folder, write_atomically
from surgseg_ros.core.labels import CLASS_NAMES, class_table_difference

if TYPE_CHECKING:
    from torch import Tensor


FORMAT_VERSION: Final = 1
INTENDED_USES: Final = ('demo', 'synthetic', 'research')
"""`demo`: only to show that the software runs; `synthetic`: trained on synthetic scenes only."""
FIT_MODES: Final = ('letterbox', 'stretch')
"""`letterbox` keeps the aspect ratio and pads with black; `stretch` does not keep it."""
TEMPERATURES: Final = (0.05, 20.0)
"""Range of temperatures; beyond it, one class has probability 1, or all are equal."""
_LARGEST_INPUT_PX: Final = 8192
_OBJECTS: Final = frozenset(
    {'options', 'colour_normalization', 'training', 'scores', 'exports', 'self_test'}
)
_OPTIONAL: Final = _OBJECTS | {'least_region', 'temperature'}


class ModelError(ValueError):
    """A model folder that cannot be used; the message names the folder, the value and a remedy."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """
    What a network is, how an image is preprocessed for it, and how it was trained.

    :param name: name for people; shown in the node's diagnostics.
    :param architecture: name in segmentation_models_pytorch, such as `Unet`.
    :param encoder: encoder's name in segmentation_models_pytorch.
    :param options: further arguments of the architecture, `decoder_channels` for example.
    :param input_size: (height, width) of the network's input in pixels.
    :param fit: one of FIT_MODES.
    :param mean: mean per channel, of images scaled to 0..1.
    :param std: standard deviation per channel, of images scaled to 0..1.
    :param colour_normalization: `target`, means of red, green and blue (0..255) towards which
        images are scaled, and `power`, how far (0..1); empty: images are not changed.
    :param colour_order: `rgb`, the order of the training images.
    :param classes: class names by index; must be the table of surgseg_ros.core.labels.
    :param least_region: per class, the minimum area of a connected component as a share of the
        image's area; smaller ones are removed if the filter is used; 0 keeps all.
    :param temperature: divisor of the logits that calibrates the probabilities; it does not change
        the classes. 1 for a model that was not calibrated.
    :param intended_use: one of INTENDED_USES; a node's status is valid only with `research`.
    :param training: how it was trained, and on what; free form.
    :param scores: its scores; free form.
    :param weights_sha256: hex digest of weights.safetensors.
    :param exports: the same network for other runtimes; see surgseg_ros.core.model_folder.
    :param self_test: a synthetic drawing and its expected classes; see surgseg_ros.core.self_test.
    """

    name: str
    architecture: str = 'Unet'
    encoder: str = 'resnet34'
    options: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = (512, 640)
    fit: str = 'letterbox'
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    colour_normalization: Mapping[str, Any] = field(default_factory=dict)
    colour_order: str = 'rgb'
    classes: tuple[str, ...] = CLASS_NAMES
    least_region: tuple[float, ...] = (0.0,) * len(CLASS_NAMES)
    temperature: float = 1.0
    intended_use: str = 'research'
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ''
    exports: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """
        Check every value.

        :raises ModelError: on the first invalid value.
        """
        if self.format_version != FORMAT_VERSION or type(self.format_version) is not int:
            raise ModelError(
                f'format_version is {self.format_version!r}, this release reads {FORMAT_VERSION}: '
                'use the release of surgseg_ros that wrote the model, or export it again'
            )
        if tuple(self.classes) != CLASS_NAMES:
            raise ModelError(class_table_difference(tuple(self.classes)))
        _check_choice('fit', self.fit, FIT_MODES)
        _check_choice('colour_order', self.colour_order, ('rgb',))
        _check_choice('intended_use', self.intended_use, INTENDED_USES)
        _check_text('name', self.name, r'[^\x00-\x1f\x7f\ud800-\udfff]{1,200}')
        _check_text('architecture', self.architecture, r'\w{1,100}')
        _check_text('encoder', self.encoder, r'[\w.-]{1,100}')  # no ':', which could fetch or load
        _check_text('weights_sha256', self.weights_sha256, '([0-9a-f]{64})?')
        _check_numbers('input_size', self.input_size, 2, 32, _LARGEST_INPUT_PX)
        _check_numbers('mean', self.mean, 3, 0.0, 1.0)
        _check_numbers('std', self.std, 3, 1e-6, 10.0)
        _check_colour_normalization(self.colour_normalization)
        _check_numbers('least_region', self.least_region, len(CLASS_NAMES), 0.0, 1.0)
        _check_numbers('temperature', (self.temperature,), 1, *TEMPERATURES)
        if any(type(side) is not int or side % 32 for side in self.input_size):
            raise ModelError(f'input_size is {self.input_size!r}: give multiples of 32 pixels')
        try:
            check_exports(self.exports)
        except ValueError as error:
            raise ModelError(f'exports: {error}; make them again with `export`') from error

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """
        Read a model.json.

        :param text: content of the file.
        :return: the specification.
        :raises ModelError: if it is not a JSON object, or a key or value is invalid.
        """
        try:
            values = json.loads(text, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ModelError(f'it is not JSON ({error})') from error
        if not isinstance(values, dict):
            raise ModelError(f'it contains a {type(values).__name__}, expected a JSON object')
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(
                f'unknown keys {unknown!r}: remove them, or use a release that supports them'
            )
        # All keys that determine the mask, or its status, are required.
        required = known - _OPTIONAL
        if missing := sorted(required - set(values)):
            raise ModelError(f'missing keys {missing!r}: write the folder again with `train`')
        for key in ('classes', 'input_size', 'mean', 'std', 'least_region'):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
            elif key in values:
                raise ModelError(f'{key} is {values[key]!r}, expected a list')
        for key in _OBJECTS:
            if not isinstance(values.get(key, {}), dict):
                raise ModelError(f'{key} is {values[key]!r}, expected an object')
        return cls(**values)

    def to_json(self) -> str:
        """
        Convert to the format that `from_json` reads.

        :return: indented JSON, keys in the order of the fields.
        :raises ModelError: if a free-form value is NaN or infinite, which JSON does not support.
        """
        try:
            return json.dumps(asdict(self), indent=2, allow_nan=False) + '\n'
        except ValueError as error:
            raise ModelError(f'the specification holds NaN or infinity: {self!r}') from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f'{text} is not a finite number')
    return number


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f'{key} is {value!r}, expected one of {", ".join(choices)}')


def _check_text(key: str, value: object, pattern: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ModelError(f'{key} is {value!r}, expected a text that matches {pattern}')


def _check_numbers(
    key: str, values: tuple[float, ...], count: int, minimum: float, largest: float
) -> None:
    fits = len(values) == count and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and minimum <= v <= largest
        for v in values
    )
    if not fits:
        raise ModelError(
            f'{key} is {values!r}, expected {count} numbers between {minimum} and {largest}'
        )


def _check_colour_normalization(value: Mapping[str, Any]) -> None:
    if not value:
        return
    if set(value) != {'target', 'power'} or not isinstance(value['target'], list | tuple):
        raise ModelError(f'colour_normalization is {value!r}, expected a list target and a power')
    _check_numbers('target of colour_normalization', tuple(value['target']), 3, 1.0, 255.0)
    _check_numbers('power of colour_normalization', (value['power'],), 1, 0.0, 1.0)


EXPORT_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    'openvino': ('openvino.xml', 'openvino.bin'),
    'onnx': ('model.onnx',),
}
"""Files of an export by backend; no other files are opened."""

EXPORT_PRECISIONS: Final = ('f32', 'bf16', 'int8')
"""Precisions of an export; int8 uses bf16 for layers that are not quantized."""


def check_exports(exports: Mapping[str, Any]) -> None:
    """
    Check the `exports` of a model.json.

    :param exports: backend to `precision`, `files` (name to SHA-256) and `agreement` (free form).
    :raises ValueError: on the first invalid value.
    """
    for backend, export in exports.items():
        if backend not in EXPORT_FILES:
            raise ValueError(f'unknown backend {backend!r}, expected {", ".join(EXPORT_FILES)}')
        if not isinstance(export, dict) or set(export) != {'precision', 'files', 'agreement'}:
            raise ValueError(f'{backend} is {export!r}, expected precision, files and agreement')
        if export['precision'] not in EXPORT_PRECISIONS:
            raise ValueError(
                f'precision of {backend} is {export["precision"]!r}, '
                f'expected one of {", ".join(EXPORT_PRECISIONS)}'
            )
        files = export['files']
        if not isinstance(files, dict) or set(files) != set(EXPORT_FILES[backend]):
            raise ValueError(
                f'files of {backend} are {files!r}, expected {", ".join(EXPORT_FILES[backend])}'
            )
        for name, digest in files.items():
            if not isinstance(digest, str) or not re.fullmatch('[0-9a-f]{64}', digest):
                raise ValueError(f'{name} has {digest!r}, expected a SHA-256 in hex digits')
        if not isinstance(export['agreement'], dict):
            raise ValueError(f'agreement of {backend} is {export["agreement"]!r}, not an object')


SPEC_FILE: Final = 'model.json'
WEIGHTS_FILE: Final = 'weights.safetensors'
_LARGEST_SPEC_BYTES: Final = 1 << 20
_LARGEST_FILE_BYTES: Final = 4 << 30
"""Maximum size of weights or of an export: about a billion float32 values."""


def read_spec(folder: Path | str) -> ModelSpec:
    """
    Read the model.json of a model folder, without its weights.

    :param folder: the model folder.
    :return: the specification.
    :raises ModelError: if it is missing or invalid.
    """
    path = Path(folder) / SPEC_FILE
    try:
        if not Path(folder).is_dir():
            raise ModelError(
                f'the model folder does not exist: give a folder that `train` wrote, '
                f'with {SPEC_FILE} and {WEIGHTS_FILE}'
            )
        return ModelSpec.from_json(read_in_folder(path, SPEC_FILE, _LARGEST_SPEC_BYTES))
    except OSError as error:
        raise ModelError(
            f'{path}: cannot be read ({error.strerror}); give a folder that `train` wrote'
        ) from error
    except ValueError as error:
        raise ModelError(f'{path}: {error}') from error


def read_model(folder: Path | str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """
    Read a model folder, and check the weights against their hash in model.json.

    :param folder: the model folder.
    :return: the specification, and the weights by parameter name, on the CPU.
    :raises ModelError: if a file is missing, truncated, changed or invalid.
    """
    spec = read_spec(folder)
    return spec, read_weights(folder, spec)


def read_weights(folder: Path | str, spec: ModelSpec) -> dict[str, Tensor]:
    """
    Read the weights of a model folder, and check them against their hash in model.json.

    :param folder: the model folder.
    :param spec: as `read_spec` read it.
    :return: the weights by parameter name, on the CPU.
    :raises ModelError: if the file is missing, truncated, changed or invalid.
    """
    import safetensors.torch  # imported here: a specification is read without torch

    path = Path(folder) / WEIGHTS_FILE
    content = read_checked(path, spec.weights_sha256)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f'{path}: is not a safetensors file ({error})') from error


def read_checked(path: Path, sha256: str) -> bytes:
    """
    Read a file of a model folder, and check it against its hash in model.json.

    :param path: the file.
    :param sha256: hex digest from model.json.
    :return: its content.
    :raises ModelError: if it is missing, truncated, changed, too large, or a link to elsewhere.
    """
    try:
        content = read_in_folder(path, SPEC_FILE, _LARGEST_FILE_BYTES)
    except OSError as error:
        raise ModelError(
            f'{path}: cannot be read ({error.strerror}); copy the whole model folder'
        ) from error
    except ValueError as error:
        raise ModelError(f'{path}: {error}') from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelError(
            f'{path}: SHA-256 is {digest!r}, {SPEC_FILE} has {sha256!r}: the file is truncated '
            'or another one; copy the model folder again'
        )
    return content


def write_model(folder: Path | str, spec: ModelSpec, weights: Mapping[str, Tensor]) -> ModelSpec:
    """
    Write a model folder; each file is written completely or not at all, model.json last.

    :param folder: created if it does not exist; a model in it is replaced.
    :param spec: the specification; `weights_sha256` is filled in, and `exports` and `self_test`,
        which belong to other weights, are left out.
    :param weights: tensors by parameter name.
    :return: the specification as written.
    :raises ModelError: if the specification cannot be written.
    """
    import safetensors.torch

    folder = Path(folder)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    content = safetensors.torch.save(on_cpu)
    digest = hashlib.sha256(content).hexdigest()
    written = replace(spec, weights_sha256=digest, exports={}, self_test={})
    text = written.to_json().encode()  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, content)
    write_atomically(folder / SPEC_FILE, text)
    return written


def write_spec(folder: Path | str, spec: ModelSpec) -> None:
    """
    Replace the model.json of a model folder; other files are not changed.

    :param folder: the model folder.
    :param spec: the specification as read, with changes that do not concern those files.
    :raises ModelError: if the specification cannot be written.
    """
    write_atomically(Path(folder) / SPEC_FILE, spec.to_json().encode())


DEFAULT_MODEL: Final = 'default'
"""Name of the model that comes with the package. A folder of this name is given as `./default`."""

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def find_model(folder: Path | str, package: Path = _PACKAGE) -> Path:
    """
    Find the folder of a model.

    :param folder: the folder, or DEFAULT_MODEL for the model that comes with the package.
    :param package: the folder of the package.
    :return: the folder; it is only checked to exist for DEFAULT_MODEL.
    :raises ModelError: if DEFAULT_MODEL is not installed; the message lists the folders searched.
    """
    if str(folder) != DEFAULT_MODEL:
        return Path(folder)
    shares = [parent / 'share' / package.name for parent in package.parents]
    # Beside the package in a checkout; otherwise where colcon and pip install it.
    paths = [root / 'models' / DEFAULT_MODEL for root in (package.parent, *shares)]
    for candidate in paths:
        if (candidate / SPEC_FILE).is_file():
            return candidate
    raise ModelError(
        f'the model that ships with {package.name} is missing; looked for {SPEC_FILE} in '
        f'{", ".join(map(str, paths))}: install the package again, or name the folder of another '
        'model (parameter model, or --model)'
    )

# SPDX-License-Identifier: Apache-2.0
"""What model.json says of exports: the same network in the form of another runtime."""

import re
from collections.abc import Mapping
from typing import Any, Final

EXPORT_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    'openvino': ('openvino.xml', 'openvino.bin'),
    'onnx': ('model.onnx',),
}
"""By backend, the files of an export; no other name is ever opened."""

PRECISIONS: Final = ('f32', 'bf16', 'int8')
"""What a network computes in; int8 falls back on bf16 for what is not quantised."""


def check_exports(exports: Mapping[str, Any]) -> None:
    """
    Hold the `exports` of a model.json against what this release understands.

    :param exports: backend to `precision`, `files` (name to SHA-256) and `agreement` (free form).
    :raises ValueError: on the first value that does not fit.
    """
    for backend, export in exports.items():
        if backend not in EXPORT_FILES:
            raise ValueError(f'unknown backend {backend!r}, expected {", ".join(EXPORT_FILES)}')
        if not isinstance(export, dict) or set(export) != {'precision', 'files', 'agreement'}:
            raise ValueError(f'{backend} is {export!r}, expected precision, files and agreement')
        if export['precision'] not in PRECISIONS:
            raise ValueError(
                f'precision of {backend} is {export["precision"]!r}, '
                f'expected one of {", ".join(PRECISIONS)}'
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

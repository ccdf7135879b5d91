# SPDX-License-Identifier: Apache-2.0
"""
Converts the weights of a model folder for OpenVINO, and caches the result.

`surgseg_ros.exporting.conversion` does the work in another process: it takes seconds during which
the GIL is held, and imports libraries that are not needed afterwards.
"""

import functools
import hashlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from surgseg_ros.core.cache import Cache, Entry
from surgseg_ros.core.errors import explain_os_error, first_line
from surgseg_ros.core.files import scratch_folder
from surgseg_ros.core.model_folder import (
    EXPORT_FILES,
    WEIGHTS_FILE,
    ModelError,
    ModelSpec,
    read_checked,
)
from surgseg_ros.core.processes import ignore_terminal_signals, register
from surgseg_ros.core.runtimes.base import (
    ONEDNN_LIMITS,
    LibraryError,
    has_instructions,
    import_library,
)
from surgseg_ros.core.timing import LONGEST_SILENCE_S

_LOG: Final = logging.getLogger(__name__)

OPENVINO_REMEDY: Final = "install it (pip install openvino), or set runtime to 'torch'"

VERDICT_FILE: Final = 'verdict.json'
"""What the process writes in addition to the export: `refusal`, or `quickest` and numbers."""

_MAX_ENTRIES: Final = 8
"""Maximum number of conversions in the cache; each is as large as the weights."""

_FORMAT: Final = 1
"""Format version of the cache; raise it when entries of earlier versions must not be read."""

_PACKAGES: Final = ('surgseg_ros', 'torch', 'openvino', 'segmentation_models_pytorch', 'timm')

_OF_THE_NETWORK: Final = (
    *('weights_sha256', 'architecture', 'encoder', 'options', 'input_size', 'fit', 'mean', 'std'),
    *('colour_normalization', 'self_test'),
)
"""Fields of a ModelSpec on which the graph or the images of the comparison depend."""

_SOURCES: Final = (
    *('core/preprocessing.py', 'core/self_test.py', 'core/runtimes/base.py'),
    *('core/runtimes/exported.py', 'core/runtimes/pytorch.py', 'exporting/conversion.py'),
)
"""
The package's files on which they depend, and all of `synthetic`: a checkout changes without a new
version.
"""

_EXACT: Final = ('f32',)
"""The precisions for those who do not want the fastest one."""


class ConversionError(ModelError):
    """A network that OpenVINO cannot convert, or for which it computes other classes."""


class Conversion(NamedTuple):
    """
    A network in the format of OpenVINO.

    :param files: contents of openvino.xml and openvino.bin, with weights in float32.
    :param quickest: the fastest of the compared precisions, of those whose classes agree with
        PyTorch.
    """

    files: tuple[bytes, ...]
    quickest: str


_LOADING: Final = threading.Lock()


def openvino_core() -> Any:
    """
    Return the openvino.Core of this process, which stays until the process ends.

    OpenVINO's CPU plugin replaces the alternate signal stack of the thread that loads it, and
    unmaps that stack when it is destroyed, in whatever thread this happens (OpenVINO 2026.4; see
    sigaltstack(2)). Python runs its signal handlers there, so the next signal would end the
    process with SIGSEGV. Hence one plugin, which is loaded in a thread that ends at once.

    :return: the openvino.Core.
    :raises LibraryError: if openvino is not installed, or cannot load its CPU plugin.
    """
    with _LOADING:
        return _core()


@functools.cache
def _core() -> Any:
    openvino = import_library('openvino', OPENVINO_REMEDY)
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(_load_cpu_plugin, openvino).result()
        except RuntimeError as error:
            raise LibraryError(
                f'openvino cannot load its CPU plugin ({first_line(error)}): {OPENVINO_REMEDY}'
            ) from error


def _load_cpu_plugin(openvino: Any) -> Any:
    core = openvino.Core()
    core.get_property('CPU', 'FULL_DEVICE_NAME')
    return core


_CAPABILITIES: Final = {'bf16': 'BF16', 'f16': 'FP16'}
"""Names of OpenVINO by precision."""


def available_precisions() -> tuple[str, ...]:
    """
    Return the precisions for which this processor has instructions.

    :return: `f32`, and `bf16` and `f16` if both OpenVINO and oneDNN report them.
    :raises ValueError: if openvino is not installed.
    """
    offered = openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    reduced = (n for n, word in _CAPABILITIES.items() if word in offered and has_instructions(n))
    return 'f32', *reduced


def convert_once(folder: Path, spec: ModelSpec, quickest: bool = False) -> Conversion:
    """
    Read the conversion of a model folder from the cache, or convert it and cache the result.

    :param folder: the model folder.
    :param spec: its specification.
    :param quickest: whether to compare all precisions of this processor, not just float32.
    :return: the conversion.
    :raises ConversionError: if the network cannot be converted, or disagrees with PyTorch.
    :raises ModelError: if the weights are not those that the specification names.
    :raises ValueError: if openvino is not installed.
    """
    read_checked(folder / WEIGHTS_FILE, spec.weights_sha256)
    cache, precisions = Cache('openvino', _MAX_ENTRIES), available_precisions()
    usable = [precisions] if quickest else [_EXACT, precisions]
    keys = [_key(spec, each) for each in usable]
    entry = _read_any(cache, keys)
    if entry is None:
        with cache.exclusive('waiting for another process that converts a model'):
            entry = _read_any(cache, keys)
            entry = entry or _convert_and_keep(folder, cache, keys[0], usable[0])
    if refusal := entry.values.get('refusal'):
        raise ConversionError(refusal)
    return Conversion(entry.parts, entry.values['quickest'])


def _read_any(cache: Cache, keys: Iterable[str]) -> Entry | None:
    return next((entry for key in keys if (entry := cache.read(key)) is not None), None)


def _key(spec: ModelSpec, precisions: Sequence[str]) -> str:
    """Return a hash of all that the result depends on: network, code, libraries and processor."""
    package = Path(__file__).parents[2]
    sources = [*map(package.joinpath, _SOURCES), *sorted((package / 'synthetic').glob('*.py'))]
    values = {
        'format': _FORMAT,
        'network': {name: getattr(spec, name) for name in _OF_THE_NETWORK},
        'code': [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources],
        'versions': {name: _version(name) for name in _PACKAGES},
        'processor': openvino_core().get_property('CPU', 'FULL_DEVICE_NAME'),
        'limits': [os.environ.get(name) for name in ONEDNN_LIMITS],
        'precisions': precisions,
        # Which one is the fastest depends on it; that float32 agrees with PyTorch does not.
        'threads': torch.get_num_threads() if len(precisions) > 1 else None,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a folder
        return ''


def _convert_and_keep(folder: Path, cache: Cache, key: str, precisions: Sequence[str]) -> Entry:
    _LOG.info('converting the model for OpenVINO; the result is kept for the next start')
    began_s = time.monotonic()
    entry = _convert(folder, precisions)
    elapsed_s = time.monotonic() - began_s
    if 'quickest' in entry.values:
        _LOG.info('converted in %.1f s: %s', elapsed_s, _summary(entry.values))
    try:
        cache.write(key, entry)
    except OSError as error:
        _LOG.warning(
            'the converted model cannot be kept (%s: %s), so that each start takes %.0f s longer: '
            'let XDG_CACHE_HOME name a folder that can be written',
            error.filename,
            error.strerror,
            elapsed_s,
        )
    return entry


def _summary(values: Any) -> str:
    times = ', '.join(f'{name} {ms:.1f} ms' for name, ms in values['network_ms'].items())
    shares = ', '.join(f'{name} {100 * of:.3f} %' for name, of in values['agreement'].items())
    return f'time of the network for an image: {times}; class agreement with PyTorch: {shares}'


_PROGRAM: Final = """
import sys
sys.path[:] = sys.argv[5:]
from surgseg_ros.core.processes import importing
with importing():
    from surgseg_ros.exporting.conversion import main
main(*sys.argv[1:5])
"""
"""Starts the other process with the module search path of this one."""

_LONGEST_S: Final = 600.0
"""Limit of a conversion, which takes half a minute on two busy cores."""


def _convert(folder: Path, precisions: Sequence[str]) -> Entry:
    """Convert and compare in another process; return what it wrote."""
    try:
        with scratch_folder() as scratch:
            _run(folder, scratch, precisions)
            values = json.loads((scratch / VERDICT_FILE).read_text())
            names = () if 'refusal' in values else EXPORT_FILES['openvino']
            return Entry(values, tuple((scratch / name).read_bytes() for name in names))
    except OSError as error:
        reason = explain_os_error(error)
        raise ConversionError(f'the conversion for OpenVINO failed ({reason})') from error


def _run(folder: Path, scratch: Path, precisions: Sequence[str]) -> None:
    errors = scratch / 'errors.txt'
    threads = str(torch.get_num_threads())
    arguments = [str(folder), str(scratch), threads, ','.join(precisions), *sys.path]
    with errors.open('wb') as file, ignore_terminal_signals():
        child = subprocess.Popen(
            [sys.executable, '-c', _PROGRAM, *arguments],
            stdin=subprocess.PIPE,  # closed when this process ends, which ends the other
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        register(child)
    with child:
        try:
            _follow(child)
            status = child.wait()
        finally:
            child.kill()
    if status:
        lines = errors.read_text(errors='replace').strip().splitlines()
        last = lines[-1][:300] if lines else 'no message'
        raise ConversionError(
            f'the conversion for OpenVINO failed with exit status {status} ({last})'
        )


def _follow(child: 'subprocess.Popen[str]') -> None:
    """Log what the process reports, until it closes its output."""
    output = child.stdout.fileno() if child.stdout else -1
    readable = select.poll()  # select() takes no descriptors from 1024 on
    readable.register(output, select.POLLIN)
    step, began_s = 'importing PyTorch', time.monotonic()
    end_s = began_s + _LONGEST_S
    while time.monotonic() < end_s:
        if not readable.poll(1e3 * LONGEST_SILENCE_S):
            _LOG.info('%s (%.0f s)', step, time.monotonic() - began_s)
            continue
        text = os.read(output, 1 << 16)  # complete lines: each is written in one call
        if not text:
            return
        for step in text.decode(errors='replace').splitlines():
            began_s = time.monotonic()
            _LOG.info(step)
    raise ConversionError(f'the conversion for OpenVINO did not end within {_LONGEST_S:g} s')

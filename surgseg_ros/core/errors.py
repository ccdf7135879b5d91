# SPDX-License-Identifier: Apache-2.0
"""What errors mean for people, and whether input, machine or a bug is the cause."""

import errno
import os
import sys
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from opcode import opmap
from typing import Final

_OURS: Final = ('surgseg_ros', 'tools.end_to_end')
"""This package, and what its verb `benchmark` calls in a checkout."""

_REMEDIES: Final[Mapping[int, str]] = {
    errno.ENOSPC: 'free some space there, or choose another place',
    errno.EDQUOT: 'remove something of yours there, or choose another place',
    errno.EFBIG: 'raise the limit of a file (ulimit -f), or choose another file system',
    errno.EROFS: 'choose another place, or have it mounted for writing',
    errno.EACCES: 'change its permissions or choose another place',
    errno.EPERM: 'change its permissions or choose another place',
    errno.ENOTDIR: 'a file is in the place of a folder: remove it or choose another place',
    errno.EISDIR: 'a folder is in the place of a file: give the name of a file',
    errno.EEXIST: 'remove it or choose another name',
    errno.ENOTEMPTY: 'it is not an empty folder: remove it or name a new one',
    errno.ENOENT: 'check the path',
    errno.ENXIO: 'check the path',
    errno.ELOOP: 'a link leads back to itself: fix it or choose another place',
    errno.ENAMETOOLONG: 'choose a shorter name',
    errno.EMFILE: 'raise the limit of open files (ulimit -n), or ask for fewer workers',
    errno.ENFILE: 'close other programs: the whole system has too many open files',
    errno.ENOMEM: 'free some memory: close other programs, or ask for less at a time',
    errno.EAGAIN: 'raise the limit of processes (ulimit -u), or ask for fewer workers',
    errno.EIO: 'check the disk: dmesg tells more',
    errno.ESTALE: 'mount the network file system again',
    errno.EBUSY: 'another program uses it: end that one or choose another place',
    errno.EXDEV: 'choose a place on one file system',
    errno.EINVAL: 'the file system there does not take it: choose another name or place',
}

_MEMORY: Final = 'free some memory: close other programs, or ask for less at a time'

_SHARED_MEMORY: Final = 'enlarge /dev/shm (docker run --shm-size=1g), or set workers=0'

_OF_MACHINE: Final = (
    ('shared memory', _SHARED_MEMORY),
    ('bus error', _SHARED_MEMORY),
    ('exited unexpectedly', 'the system killed it, maybe for want of memory: take fewer workers'),
    ('cannot start new thread', 'raise the limit of processes (ulimit -u)'),
    ('out of memory', _MEMORY),
    ('not enough memory', _MEMORY),
    ('cannot allocate memory', _MEMORY),
    ('cannot allocate memory', _MEMORY),
    ('insufficient memory', _MEMORY),
    ('bad_alloc', _MEMORY),
    ('failed to map segment', _MEMORY),
    ('cuda error', 'check the device with nvidia-smi, or set the device to cpu'),
    ('no space left', 'free some space, or choose another place'),
)
"""What a RuntimeError of a library says (in lower case) where the machine is the cause."""

_BUGS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
)
"""Raised by a library, or by Python, these are a mistake of ours that nobody must overlook."""


def explain(error: BaseException) -> str | None:
    """
    Say what an error means and what to do about it.

    :param error: whatever a command raised.
    :return: a line; None for what neither input nor machine can explain: a mistake of ours, whose
        traceback somebody needs.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return explain_os_error(error)
    if isinstance(error, MemoryError):
        return f'{first_line(error) or "there is not enough memory"}: {_MEMORY}'
    if isinstance(error, BrokenProcessPool):
        return (
            'a worker process was killed, as the system does where memory runs out: ask for fewer '
            'workers, or free some memory'
        )
    if is_ours(error):
        return _text(error)
    text = str(error).lower()
    for part, remedy in _OF_MACHINE:
        if part in text:
            said = next(line for line in str(error).splitlines() if part in line.lower())
            return f'{said.strip().rstrip(".")}: {remedy}'
    if isinstance(error, ImportError) and not (error.name or '').startswith(_OURS):
        return missing_library(error)
    if isinstance(error, _BUGS) or not isinstance(error, Exception):
        return None
    return (
        f'{type(error).__name__}: {first_line(error)}; check the input (PYTHONDEVMODE=1 shows '
        'where it was raised)'
    )


def missing_library(error: ImportError) -> str:
    """
    Say which library is missing, and how the program gets a Python that has it.

    Plain `colcon build` writes the interpreter that runs colcon, the system's, into the programs
    that it installs; and torch, for one, has no rosdep key.

    :param error: of the import.
    :return: a line.
    """
    return (
        f'{first_line(error)}: this is {sys.executable}, which lacks what `make setup` installs '
        'in .venv. In a colcon workspace, build with that Python: .venv/bin/python -m colcon '
        'build; elsewhere, run .venv/bin/python -m surgseg_ros'
    )


def explain_os_error(error: OSError) -> str:
    """
    Say of which file or folder an error is, what the system says, and what to do.

    :param error: with a number.
    :return: a line.
    """
    number = error.errno or 0
    filename = None if error.filename is None else os.fsdecode(error.filename)
    said = error.strerror or os.strerror(number)
    named = '' if filename is None else f'{filename}: '
    remedy = _REMEDIES.get(number)
    if filename is not None and filename.startswith('/dev/shm'):
        remedy = _SHARED_MEMORY
    return f'{named}{said}' + (f'; {remedy}' if remedy else '')


def is_ours(error: BaseException) -> bool:
    """
    Tell an error that this package raises on purpose, with a text for people, from others.

    :param error: any but that of the system.
    :return: whether its class is of this package, or a `raise` of this package raised it.
    """
    if type(error).__module__.startswith(_OURS):
        return True
    if type(error) not in (ValueError, RuntimeError, ArithmeticError):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not str(last.tb_frame.f_globals.get('__name__')).startswith(_OURS):
        return False
    # Native code that our function calls, of torch for instance, leaves no frame of its own.
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opmap['RAISE_VARARGS']


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """
    Leave out the pages of advice that libraries add to an error.

    :param error: of a library.
    :return: the first line of its text, without an end; its class where it has none.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip('.:') if lines else type(error).__name__


def is_of_machine(error: Exception) -> bool:
    """
    Tell what another try, or another device, may fix.

    Torch raises RuntimeError where a device fails or has no memory left (its OutOfMemoryError and
    AcceleratorError are such), and OpenVINO for all that goes wrong; ONNX Runtime has classes of
    its own. An image that cannot be taken is a ValueError, logits that are no numbers an
    ArithmeticError: these come again wherever it is tried.

    :param error: raised by a Segmenter.
    :return: whether it is of the machine.
    """
    ours = isinstance(error, (RuntimeError, MemoryError))
    return ours or type(error).__module__.startswith('onnxruntime')


def describe(error: Exception) -> str:
    """
    Tell an error to those who run the machine.

    :param error: raised by a Segmenter.
    :return: its class and text, without the advice for those who write kernels that torch adds.
    """
    kind, text = type(error).__name__, str(error)
    if text.startswith('CUDA error'):
        text = text.partition('\n')[0]
    return f'{kind}: {text}'

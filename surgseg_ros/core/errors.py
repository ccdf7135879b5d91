# SPDX-License-Identifier: Apache-2.0
"""Explains errors of the input or of the machine to users, and distinguishes them from bugs."""

import difflib
import errno
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from opcode import opmap
from typing import Final

_PACKAGES: Final = ('surgseg_ros', 'tools.end_to_end')
"""Packages whose errors are raised on purpose: this one, and that of `benchmark` in a checkout."""

_REMEDIES: Final[Mapping[int, str]] = {
    errno.ENOSPC: 'free some space there, or choose another path',
    errno.EDQUOT: 'your disk quota is used up: remove files there, or choose another path',
    errno.EFBIG: 'raise the limit of a file (ulimit -f), or choose another file system',
    errno.EROFS: 'choose another path, or have it mounted for writing',
    errno.EACCES: 'change its permissions or choose another path',
    errno.EPERM: 'change its permissions or choose another path',
    errno.ENOTDIR: 'a file is where a folder is needed: remove it or choose another path',
    errno.EISDIR: 'a folder has this path: give the path of a file',
    errno.EEXIST: 'remove it or choose another name',
    errno.ENOTEMPTY: 'it is not an empty folder: remove it or name a new one',
    errno.ENOENT: 'check the path',
    errno.ENXIO: 'check the path',
    errno.ELOOP: 'a link leads back to itself: fix it or choose another path',
    errno.ENAMETOOLONG: 'choose a shorter name',
    errno.EMFILE: 'raise the limit of open files (ulimit -n), or use fewer workers',
    errno.ENFILE: 'close other programs: the whole system has too many open files',
    errno.ENOMEM: 'free some memory: close other programs, or process less at a time',
    errno.EAGAIN: 'raise the limit of processes (ulimit -u), or use fewer workers',
    errno.EIO: 'check the disk: see dmesg',
    errno.ESTALE: 'mount the network file system again',
    errno.EBUSY: 'another program uses it: end that one or choose another path',
    errno.EXDEV: 'choose a path on the same file system',
    errno.EINVAL: 'the file system there does not support it: choose another path',
}

_MEMORY: Final = 'free some memory: close other programs, or process less at a time'

_SHARED_MEMORY: Final = 'enlarge /dev/shm (docker run --shm-size=1g), or set workers=0'

_OF_MACHINE: Final = (
    ('shared memory', _SHARED_MEMORY),
    ('bus error', _SHARED_MEMORY),
    ('exited unexpectedly', 'the system killed it, maybe for lack of memory: use fewer workers'),
    ("can't start new thread", 'raise the limit of processes (ulimit -u)'),
    ('out of memory', _MEMORY),
    ('not enough memory', _MEMORY),
    ('cannot allocate memory', _MEMORY),
    ("can't allocate memory", _MEMORY),
    ('insufficient memory', _MEMORY),
    ('bad_alloc', _MEMORY),
    ('failed to map segment', _MEMORY),
    ('cuda error', 'check the device with nvidia-smi, or set the device to cpu'),
    ('no space left', 'free some space, or choose another path'),
)
"""Parts of messages (in lower case) of a library's RuntimeError if the machine is the cause."""

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
"""Types of errors that are bugs of this package, and must not be hidden."""


def content_error(error: Exception) -> str:
    """
    Describe in one line what is wrong with the content of a file.

    :param error: raised when the file was read.
    :return: the line, without the type of the error.
    """
    return f'without {error}' if isinstance(error, KeyError) else ' '.join(str(error).split())


def explain(error: BaseException) -> str | None:
    """
    Explain an error, with a remedy.

    :param error: raised by a command.
    :return: one line; None if it is caused neither by input nor by machine: then it is a bug, and
        its traceback is needed.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return explain_os_error(error)
    if isinstance(error, MemoryError):
        return f'{first_line(error) or "there is not enough memory"}: {_MEMORY}'
    if isinstance(error, BrokenProcessPool):
        return (
            'a worker process was killed, probably because memory ran out: use fewer '
            'workers, or free some memory'
        )
    if is_raised_by_package(error):
        return _text(error)
    text = str(error).lower()
    for part, remedy in _OF_MACHINE:
        if part in text:
            matching = next(line for line in str(error).splitlines() if part in line.lower())
            return f'{matching.strip().rstrip(".")}: {remedy}'
    if isinstance(error, ImportError) and not (error.name or '').startswith(_PACKAGES):
        return missing_library(error)
    if isinstance(error, _BUGS) or not isinstance(error, Exception):
        return None
    return (
        f'{type(error).__name__}: {first_line(error)}; check the input (PYTHONDEVMODE=1 shows '
        'where it was raised)'
    )


def lacks_resources(error: BaseException) -> bool:
    """
    Check whether the machine lacks memory, disk space or a device, so that a retry may succeed.

    :param error: raised by a library, whatever its type.
    :return: whether it is a MemoryError or OSError, or its text is that of such an error.
    """
    text = str(error).lower()
    return isinstance(error, (MemoryError, OSError)) or any(
        part in text for part, _ in _OF_MACHINE
    )


def missing_library(error: ImportError) -> str:
    """
    Explain which library is missing, and how to run with a Python that has it.

    Plain `colcon build` writes the path of the interpreter that runs colcon, usually the system's,
    into the installed programs; and some libraries, such as torch, have no rosdep key.

    :param error: raised by the import.
    :return: one line.
    """
    return (
        f'{first_line(error)}: this is {sys.executable}, which lacks what `make setup` installs '
        'in .venv. In a colcon workspace, build with that Python: .venv/bin/python -m colcon '
        'build; elsewhere, run .venv/bin/python -m surgseg_ros'
    )


def explain_os_error(error: OSError) -> str:
    """
    Explain an error of the system: the file or folder, the error, and a remedy.

    :param error: an error with an errno.
    :return: one line.
    """
    number = error.errno or 0
    filename = None if error.filename is None else os.fsdecode(error.filename)
    text = error.strerror or os.strerror(number)
    named = '' if filename is None else f'{filename}: '
    remedy = _REMEDIES.get(number)
    if filename is not None and filename.startswith('/dev/shm'):
        remedy = _SHARED_MEMORY
    return f'{named}{text}' + (f'; {remedy}' if remedy else '')


def is_raised_by_package(error: BaseException) -> bool:
    """
    Return whether this package raised an error on purpose, with a text for users.

    :param error: any error except an OSError with an errno.
    :return: True if its class belongs to this package, or a `raise` in this package raised it.
    """
    if type(error).__module__.startswith(_PACKAGES):
        return True
    if type(error) not in (ValueError, RuntimeError, ArithmeticError):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not str(last.tb_frame.f_globals.get('__name__')).startswith(_PACKAGES):
        return False
    # Native code that our function calls, such as that of torch, has no frame.
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opmap['RAISE_VARARGS']


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """
    Return the first line of an error, without the advice that libraries append.

    :param error: raised by a library.
    :return: the first line without final punctuation; the name of its class if it has no text.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip('.:') if lines else type(error).__name__


def counted(number: int, noun: str) -> str:
    """
    Name a number of things.

    :param number: how many.
    :param noun: the singular of what they are, whose plural ends with s.
    :return: `1 image`, `2 images` and so on.
    """
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def is_of_machine(error: Exception) -> bool:
    """
    Return whether the machine failed, so that a retry or another device may help.

    Torch raises RuntimeError if a device fails or runs out of memory (its OutOfMemoryError and
    AcceleratorError are subclasses), and OpenVINO for every error; ONNX Runtime has its own
    classes. An invalid image is a ValueError, and logits that are not finite an ArithmeticError:
    these would be raised again on any device.

    :param error: raised by a Segmenter.
    :return: True if the machine is the cause.
    """
    is_failure = isinstance(error, (RuntimeError, MemoryError))
    return is_failure or type(error).__module__.startswith('onnxruntime')


def describe(error: Exception) -> str:
    """
    Describe an error for operators.

    :param error: raised by a Segmenter.
    :return: its class and text, without torch's advice for writers of CUDA kernels.
    """
    kind, text = type(error).__name__, str(error)
    if text.startswith('CUDA error'):
        text = text.partition('\n')[0]
    return f'{kind}: {text}'


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """
    Suggest the name that was meant.

    :param name: the unknown name.
    :param names: the known names.
    :return: a question in parentheses, with a leading space; empty if no name is similar.
    """
    near = difflib.get_close_matches(name, [*names], 1)
    return f' (did you mean {near[0]!r}?)' if near else ''

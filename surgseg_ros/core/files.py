# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are written whole or not at all, and errors that say which it was."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PARTIAL: Final = '.partial'
"""What the name of a file or a folder ends with while it is written."""

_LONGEST_NAME: Final = 255
"""Bytes in the name of a file on Linux's file systems (NAME_MAX)."""

_TRIAL_BYTES: Final = 4096
"""Written where a result is to go, before work begins: a full disk takes a name, but no bytes."""

_OPENED: Final = re.compile(r'/dev/(stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+')
"""Names of what this process has open, maybe a regular file that others write to as well."""

_unfinished: dict[Path, bool] = {}
"""What is being written now; whether it is a folder of which only the content is to go."""


def remove_unfinished() -> None:
    """Remove whatever is being written, in a process that ends without unwinding its stack."""
    for path, keep in list(_unfinished.items()):
        _remove(path, keep=keep)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """
    Have an OSError of what is written in the block name the file or folder that was meant.

    Those of `write` and `fsync` name none, and others name a temporary file.

    :param path: the file or folder; the block reads no other.
    :return: context.
    """
    path = Path(path)
    try:
        yield
    except OSError as error:
        # A file in the place of a folder above is named itself.
        if error.filename is None or Path(os.fsdecode(error.filename)) not in path.parents:
            error.filename = str(path)
        error.filename2 = None
        raise


@contextmanager
def replacing(path: Path, *, partial: str = _PARTIAL, sync: bool = True) -> Iterator[Path]:
    """
    Give another name to write a file under; the file gets its own name when it is whole.

    If the block raises, nothing is left, nor any folder that was made for the file. What is no
    regular file, such as /dev/stdout or a pipe, is written to as it is.

    :param path: of the file; its folder is made where it does not exist.
    :param partial: what the other name ends with.
    :param sync: whether to wait until it is on the disk.
    :return: context with the name to write under.
    :raises OSError: if it cannot be written; it names `path`.
    """
    if _is_special(path):
        with writing(path):
            yield path
        return
    target = Path(os.path.realpath(path))  # a link stays one
    with writing(path):
        name = target.name
        if len(os.fsencode(name)) <= _LONGEST_NAME < len(os.fsencode(name + partial)):
            name = name[: len(name) // 2]
        beside = target.with_name(name + partial)
        with folder_for(target), _unfinished_at(beside):
            yield beside
            if sync:
                with beside.open('rb+') as file:
                    os.fsync(file.fileno())
            beside.replace(target)


def write_whole(path: Path, content: bytes) -> None:
    """
    Write a file so that its name never stands for a part of it.

    :param path: where; its folder is made where it does not exist.
    :param content: of the file.
    :raises OSError: if it cannot be written; it names `path`, and nothing is left.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """
    Give a hidden folder beside a place, to make in it what then goes there.

    It is removed in the end; if the block raises, so are folders that were made for the place.

    :param path: the place, of a file or a folder.
    :return: context with the folder.
    :raises OSError: if it cannot be made, or what is in it cannot be written; it names `path`.
    """
    with folder_for(path):
        with writing(path):
            folder = Path(tempfile.mkdtemp(prefix=f'.{path.name[:50]}.', dir=path.parent))
        try:
            with _unfinished_at(folder):
                yield folder
        except OSError as error:  # of what was written; what was read has a name elsewhere
            if error.filename is None or folder in Path(os.fsdecode(error.filename)).parents:
                error.filename, error.filename2 = str(path), None
            raise
        shutil.rmtree(folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """
    Give a folder among the system's temporary files.

    :return: context with the folder, which is removed in the end.
    """
    with tempfile.TemporaryDirectory() as name, _unfinished_at(Path(name)):
        yield Path(name)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    Give a folder to fill, which becomes `path` when it is whole, or vanishes if the block raises.

    :param path: a folder that does not exist, or is empty and then stays where it is (it may be
        the place where a disk is mounted).
    :return: context with the folder to fill.
    :raises OSError: if it cannot be made; it names `path`.
    """
    with writing(path):
        is_there = _is_folder(path)
    if is_there:
        with _unfinished_at(path, keep=True):
            yield path
        return
    with workshop(path) as folder:
        made = folder / 'made'  # mkdtemp's own is closed to everybody else
        made.mkdir()
        yield made
        with writing(path):
            made.rename(path)


def make_folder(path: Path) -> list[Path]:
    """
    Make a folder, and those above it.

    :param path: of the folder.
    :return: the folders that were not there, the outermost first.
    :raises OSError: if it cannot be made; where a file is in its way, that is named.
    """
    made: list[Path] = []
    try:
        for folder in (*reversed(path.parents), path):
            if _is_folder(folder):
                continue
            if folder.exists():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
            with suppress(FileExistsError):  # another process may make it at the same time
                folder.mkdir()
                made.append(folder)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """
    Remove folders again, as far as they are empty.

    :param folders: the outermost first, as `make_folder` gives them.
    """
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def check_file(path: Path) -> None:
    """
    See that a file can be written, before hours are spent on what goes into it.

    :param path: of the file, which may exist; nothing is left.
    :raises OSError: if it cannot; it names `path`.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        if not _is_special(path):
            _try_folder(target.parent, target.name)
        if _is_folder(target):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not os.access(path, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def check_place(path: Path) -> None:
    """
    See that a file or folder can be made, which is not there yet, before hours are spent on it.

    :param path: of the file or folder; nothing is left.
    :raises OSError: if it cannot; it names `path`, or the file that is in its way.
    """
    with writing(path):
        _try_folder(path.parent, path.name)


def check_folder(path: Path) -> None:
    """
    See that files can be written into a folder, before hours are spent on them.

    :param path: of the folder, which must not exist; nothing is left.
    :raises OSError: if that cannot be; it names `path`, or the file that is in its way.
    """
    with writing(path):
        _try_folder(path)


def check_new_folder(path: Path) -> None:
    """
    See that a folder is new or empty, and that files can be written into it.

    :param path: of the folder.
    :raises ValueError: if there is something in it.
    :raises OSError: if it cannot be written; it names `path`, or the file that is in its way.
    """
    with writing(path):
        is_full = _is_folder(path) and any(path.iterdir())
    if is_full:
        raise ValueError(
            f'the output {str(path)!r} is there already and is not an empty folder: name a new '
            'one, or remove it first'
        )
    check_folder(path)


def check_room(folder: Path, size_bytes: int) -> None:
    """
    See that a disk has room, before a native library writes what it may cut off in silence.

    :param folder: where it is going to write.
    :param size_bytes: as much as that may be.
    :raises OSError: if there is less; it names `folder`.
    """
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


def _try_folder(folder: Path, name: str = '') -> None:
    """Make a folder, look for a name in it, write a little, and remove all that was made."""
    made = make_folder(folder)
    try:
        with suppress(FileNotFoundError):
            (folder / name).lstat()  # raises where a name is too long
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
    finally:
        remove_empty(made)


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """
    Make the folder of a file; if the block raises, remove what was made, as far as it is empty.

    :param path: of the file.
    :return: context.
    :raises OSError: if it cannot be made; it names `path`, or what is in its way.
    """
    with writing(path):
        made = make_folder(path.parent)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


@contextmanager
def _unfinished_at(path: Path, *, keep: bool = False) -> Iterator[None]:
    """Remove what is at a path if the block raises, or if the process ends in it."""
    _unfinished[path] = keep
    try:
        yield
    except BaseException:
        _remove(path, keep=keep)
        raise
    finally:
        _unfinished.pop(path, None)


def _remove(path: Path, *, keep: bool) -> None:
    with suppress(OSError):
        for part in path.iterdir() if keep else (path,):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    """Tell a folder from a file and from nothing; unlike Path.is_dir, raise what hinders that."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(mode)


def _is_special(path: Path) -> bool:
    """Tell what cannot be replaced: a device, a pipe, what a shell has opened."""
    if _OPENED.fullmatch(str(path)):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

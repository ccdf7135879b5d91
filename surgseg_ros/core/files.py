# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders completely or not at all, with errors that name the path."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

_PARTIAL: Final = '.partial'
"""Suffix of the name of a file or folder while it is being written."""

_LONGEST_NAME: Final = 255
"""Maximum length of a file name on Linux file systems in bytes (NAME_MAX)."""

_TRIAL_BYTES: Final = 4096
"""Written as a test before work starts: on a full disk, only empty files can be created."""

_OPENED: Final = re.compile(r'/dev/(stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+')
"""Paths of open file descriptors, which may be regular files that other processes write to."""

_cleanups: dict[object, Callable[[], None]] = {}
"""Functions that remove what each unfinished block has written, the outermost first."""


def remove_unfinished() -> None:
    """Remove whatever is being written, before the process exits without unwinding its stack."""
    for clean_up in reversed(list(_cleanups.values())):
        with suppress(OSError):
            clean_up()


@contextmanager
def cleaned_up(clean_up: Callable[[], None]) -> Iterator[None]:
    """
    Clean up if the block raises, or if the process exits in it.

    :param clean_up: removes what the block has written; at an exit, another thread calls it.
    :return: context manager.
    """
    block = object()
    _cleanups[block] = clean_up
    try:
        yield
    except BaseException:
        clean_up()
        raise
    finally:
        _cleanups.pop(block, None)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """
    Make an OSError in the block name the file or folder that is being written.

    Errors of `write` and `fsync` name no file, and others name a temporary file.

    :param path: the file or folder; the block must not read other files.
    :return: context manager.
    """
    path = Path(path)
    try:
        yield
    except OSError as error:
        # If a file is where a parent folder should be, the error keeps its name.
        if error.filename is None or Path(os.fsdecode(error.filename)) not in path.parents:
            error.filename = str(path)
        error.filename2 = None
        raise


@contextmanager
def replacing(path: Path, *, partial: str = _PARTIAL, sync: bool = True) -> Iterator[Path]:
    """
    Yield a temporary name to write a file under; it is renamed when it is complete.

    If the block raises, the file and any folder that was created for it are removed. If the path
    is not a regular file, but, for example, /dev/stdout or a pipe, it is written to directly.

    :param path: path of the file; its folder is created if it does not exist.
    :param partial: suffix of the temporary name.
    :param sync: whether to wait until the file is on the disk.
    :return: context manager that yields the name to write under.
    :raises OSError: if it cannot be written; it names `path`.
    """
    if _is_special(path):
        with writing(path):
            yield path
        return
    target = Path(os.path.realpath(path))  # a link is kept
    with writing(path):
        name = target.name
        if len(os.fsencode(name)) <= _LONGEST_NAME < len(os.fsencode(name + partial)):
            name = name[: len(name) // 2]
        temporary = target.with_name(name + partial)
        with folder_for(target), _unfinished_at(temporary):
            yield temporary
            if sync:
                with temporary.open('rb+') as file:
                    os.fsync(file.fileno())
            temporary.replace(target)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """
    Read a file whose size is limited.

    :param path: the file.
    :param max_bytes: maximum size.
    :return: its content.
    :raises OSError: if it cannot be read.
    :raises ValueError: if it is larger.
    """
    with path.open('rb') as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f'more than {max_bytes} bytes')
    return data


def read_in_folder(path: Path, name: str, max_bytes: int) -> bytes:
    """
    Read a file of a folder, such as that of a model; reject links to files outside the folder.

    All files may be links into one other folder, as with colcon's symlink install. A single link,
    or one to a file with another name, could lead to any file and is rejected.

    :param path: the file.
    :param name: name of the file of the folder that shows where the others must be.
    :param max_bytes: maximum size.
    :return: its content.
    :raises OSError: if it cannot be read.
    :raises ValueError: if it is larger, not a regular file or elsewhere.
    """
    real = Path(os.path.realpath(path, strict=True))
    if real != Path(os.path.realpath(path.with_name(name))).with_name(path.name):
        raise ValueError(f'is a link to {real}, outside the model folder: copy the file itself')
    if not real.is_file():
        raise ValueError('is not a regular file: copy the model folder again')
    size = real.stat().st_size
    if size > max_bytes:
        raise ValueError(f'has {size} bytes, larger than the {max_bytes} that are read')
    with real.open('rb') as file:
        return file.read(max_bytes)


def write_atomically(path: Path, content: bytes) -> None:
    """
    Write a file completely or not at all.

    :param path: path of the file; its folder is created if it does not exist.
    :param content: content of the file.
    :raises OSError: if it cannot be written; it names `path`, and nothing is left.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """
    Yield a hidden temporary folder next to a path, for files that are then moved to the path.

    It is removed at the end; if the block raises, so are the folders created for the path.

    :param path: path of the file or folder.
    :return: context manager that yields the folder.
    :raises OSError: if it cannot be created, or its content cannot be written; it names `path`.
    """
    with folder_for(path):
        with writing(path):
            folder = Path(tempfile.mkdtemp(prefix=f'.{path.name[:50]}.', dir=path.parent))
        try:
            with _unfinished_at(folder):
                yield folder
        except OSError as error:  # of a file written here; input files are elsewhere
            if error.filename is None or folder in Path(os.fsdecode(error.filename)).parents:
                error.filename, error.filename2 = str(path), None
            raise
        shutil.rmtree(folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """
    Yield a temporary folder.

    :return: context manager that yields the folder, which is removed at the end.
    """
    with tempfile.TemporaryDirectory() as name, _unfinished_at(Path(name)):
        yield Path(name)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    Yield a folder to fill, which becomes `path` at the end, or is removed if the block raises.

    :param path: a folder that does not exist, or an empty one, which is filled in place (it may
        be a mount point).
    :return: context manager that yields the folder to fill.
    :raises OSError: if it cannot be created; it names `path`.
    """
    with writing(path):
        is_there = _is_folder(path)
    if is_there:
        with _unfinished_at(path, keep=True):
            yield path
        return
    with hidden_folder(path) as folder:
        made = folder / 'made'  # mkdtemp's folder is private to this user
        made.mkdir()
        yield made
        with writing(path):
            made.rename(path)


def make_folder(path: Path) -> list[Path]:
    """
    Create a folder and its parents.

    :param path: path of the folder.
    :return: the folders that were created, the outermost first.
    :raises OSError: if it cannot be created; if a file is in its way, it names that file.
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
    Remove folders, as far as they are empty.

    :param folders: the outermost first, as `make_folder` returns them.
    """
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def check_file(path: Path) -> None:
    """
    Check that a file can be written, before a long computation of its content.

    :param path: path of the file, which may exist; nothing is left behind.
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


def check_new_path(path: Path) -> None:
    """
    Check that a file or folder can be created, before a long computation of its content.

    :param path: path of the file or folder; nothing is left behind.
    :raises OSError: if it cannot; it names `path`, or the file that blocks it.
    """
    with writing(path):
        _try_folder(path.parent, path.name)


def check_folder(path: Path) -> None:
    """
    Check that files can be written into a folder, before a long computation of their content.

    :param path: path of the folder, which need not exist; nothing is left behind.
    :raises OSError: if they cannot; it names `path`, or the file that is in its way.
    """
    with writing(path):
        _try_folder(path)


def check_new_folder(path: Path) -> None:
    """
    Check that a folder is new or empty, and that files can be written into it.

    :param path: path of the folder.
    :raises ValueError: if it is not empty.
    :raises OSError: if it cannot be written; it names `path`, or the file that is in its way.
    """
    with writing(path):
        is_full = _is_folder(path) and any(path.iterdir())
    if is_full:
        raise ValueError(
            f'the output {str(path)!r} exists already and is not an empty folder: name a new '
            'one, or remove it first'
        )
    check_folder(path)


def check_free_space(folder: Path, size_bytes: int) -> None:
    """
    Check the free space of a disk, before a native library writes files and ignores errors.

    :param folder: the folder that it will write to.
    :param size_bytes: the maximum number of bytes.
    :raises OSError: if there is less space; it names `folder`.
    """
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


def _try_folder(folder: Path, name: str = '') -> None:
    """Create a folder, check a name in it, write a little, and remove all that was created."""
    made = make_folder(folder)
    try:
        with suppress(FileNotFoundError):
            (folder / name).lstat()  # raises if the name is too long
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
    finally:
        remove_empty(made)


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """
    Create the folder of a file; if the block raises, remove it again, as far as it is empty.

    :param path: path of the file.
    :return: context manager.
    :raises OSError: if it cannot be created; it names `path`, or what is in its way.
    """
    with writing(path):
        made = make_folder(path.parent)
    with cleaned_up(lambda: remove_empty(made)):
        yield


def _unfinished_at(path: Path, *, keep: bool = False) -> AbstractContextManager[None]:
    """Remove what is at a path if the block raises, or if the process exits in it."""
    return cleaned_up(lambda: _remove(path, keep=keep))


def _remove(path: Path, *, keep: bool) -> None:
    with suppress(OSError):
        for part in path.iterdir() if keep else (path,):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder; unlike Path.is_dir, raise errors of access."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(mode)


def _is_special(path: Path) -> bool:
    """Return whether a path cannot be replaced: a device, a pipe, or an open file descriptor."""
    if _OPENED.fullmatch(str(path)):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

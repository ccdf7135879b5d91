# SPDX-License-Identifier: Apache-2.0
"""A cache of this user: one file for each entry, with a hash that is checked when it is read."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from surgseg_ros.core.files import make_folder, write_atomically
from surgseg_ros.core.timing import LONGEST_SILENCE_S

_LOG: Final = logging.getLogger(__name__)

_SUFFIX: Final = '.entry'
_LONGEST_WAIT_S: Final = 180.0
_POLL_S: Final = 0.1

_LARGEST_BYTES: Final = 4 << 30
"""Maximum size of an entry, as of a file of a model folder."""


class Entry(NamedTuple):
    """
    The content of a cache entry.

    :param values: JSON values.
    :param parts: contents of files.
    """

    values: Mapping[str, Any]
    parts: tuple[bytes, ...]


def user_cache() -> Path:
    """
    Return the folder for files that can be made again, in `$XDG_CACHE_HOME` or `~/.cache`.

    :return: the folder, which need not exist.
    :raises OSError: if the user has no home folder.
    """
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():  # the XDG specification requires that relative paths are ignored
        try:
            base = Path.home() / '.cache'
        except RuntimeError as error:
            raise OSError(errno.ENOENT, 'there is no home folder', '~/.cache') from error
    return base / 'surgseg_ros'


class Cache:
    """
    Entries of one kind; the most recently used ones are kept.

    :param kind: name of the folder in `user_cache`.
    :param kept: maximum number of entries.
    """

    def __init__(self, kind: str, kept: int) -> None:
        self._kind, self._kept = kind, kept

    @property
    def folder(self) -> Path:
        """The folder of the entries; raises OSError if the user has no home folder."""
        return user_cache() / self._kind

    def read(self, key: str) -> Entry | None:
        """
        Read an entry; one that is damaged, or of another user, is removed and reported.

        :param key: letters and digits.
        :return: the entry; None if there is none that can be used.
        """
        try:
            path = self.folder / f'{key}{_SUFFIX}'
            content = _read_own(path)
        except OSError:  # there is none, or `write` will report what is wrong with the folder
            return None
        except ValueError as error:
            _discard(path, str(error))
            return None
        try:
            entry = _unpack(content)
        except ValueError as error:
            _discard(path, str(error))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used
        return entry

    def write(self, key: str, entry: Entry) -> None:
        """
        Write an entry completely or not at all, and remove the least recently used entries.

        :param key: letters and digits.
        :param entry: what to keep.
        :raises OSError: if it cannot be written; it names the path.
        """
        path = self.folder / f'{key}{_SUFFIX}'
        self._make_folder()
        if path.is_symlink():  # writing would follow it
            path.unlink()
        write_atomically(path, _pack(entry))
        with contextlib.suppress(OSError):
            entries = sorted(path.parent.glob(f'*{_SUFFIX}'), key=lambda x: -x.stat().st_mtime)
            for old in (*entries[self._kept :], *path.parent.glob(f'*{_SUFFIX}.*')):
                old.unlink()

    @contextlib.contextmanager
    def exclusive(self, waiting: str) -> Iterator[None]:
        """
        Let one process at a time make an entry; all at once if the folder cannot be written.

        After some minutes of waiting, the block is entered without the lock.

        :param waiting: logged, and repeated, while another process holds the lock.
        :return: context manager.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self._make_folder()
                lock = held.enter_context((self.folder / 'lock').open('a'))
                _wait_for_lock(lock, waiting)
            yield

    def _make_folder(self) -> None:
        for folder in make_folder(self.folder):
            folder.chmod(0o700)  # models may be private


def _wait_for_lock(lock: IO[str], waiting: str) -> None:
    """Lock a file, but do not wait forever for a process that may hang."""
    start_s = next_log_s = time.monotonic()
    while time.monotonic() < start_s + _LONGEST_WAIT_S:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= next_log_s:
                _LOG.info(waiting)
                next_log_s = time.monotonic() + LONGEST_SILENCE_S
            time.sleep(_POLL_S)
        else:
            return


def _read_own(path: Path) -> bytes:
    """Read a regular file of this user; links are not followed, as others may have made them."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, 'rb') as file:
        state = os.fstat(number)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
            raise ValueError('it is not a file of this user')
        if state.st_size > _LARGEST_BYTES:
            raise ValueError(f'it has {state.st_size} bytes')
        return file.read(_LARGEST_BYTES)


def _discard(path: Path, reason: str) -> None:
    _LOG.warning('%s is ignored (%s), and will be made again', path, reason)
    with contextlib.suppress(OSError):
        path.unlink()


def _pack(entry: Entry) -> bytes:
    sizes = [len(part) for part in entry.parts]
    head = json.dumps({'facts': dict(entry.values), 'sizes': sizes}).encode()
    content = b'\n'.join((head, b''.join(entry.parts)))
    return hashlib.sha256(content).hexdigest().encode() + b'\n' + content


def _unpack(content: bytes) -> Entry:
    """Split the content of a file that `_pack` made; raise ValueError if it is another."""
    digest, _, rest = content.partition(b'\n')
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise ValueError('it is damaged')
    header, _, joined = rest.partition(b'\n')
    values = json.loads(header)
    return Entry(values['facts'], tuple(_split(joined, values['sizes'])))


def _split(joined: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    begin = 0
    for size in sizes:
        yield joined[begin : begin + size]
        begin += size

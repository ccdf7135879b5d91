# SPDX-License-Identifier: Apache-2.0
"""Opens the files of a bag, and of those that a crash cut off the part that is whole."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader

STORAGES: Final = {'.mcap': 'mcap', '.db3': 'sqlite3'}
"""The storage of a bag by the ending of its files' names."""

_MCAP_MAGIC: Final = b'\x89MCAP0\r\n'
_REMEDIES: Final = {
    '.mcap': 'give a whole copy, or try `mcap recover`',
    '.db3': 'give a whole copy, or try `sqlite3 FILE .recover`',
    '.bag': 'convert this bag of ROS 1 with `rosbags-convert`',
}


class BagError(ValueError):
    """A bag that cannot be read or written as asked."""


class Source(Protocol):
    """What `rosbags` readers of folders and of files have in common."""

    @property
    def connections(self) -> list[Connection]:
        """The topics' publishers, as far as they were recorded."""

    def open(self) -> None:
        """Open the files and find the connections."""

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Go through (connection, time of receipt in nanoseconds, CDR)."""

    def close(self) -> None:
        """Close the files."""


class _CutMcap(McapReader):
    """An MCAP file without its end: the whole records of it, in the order of the file."""

    def open(self) -> None:
        """Count what is there; the index at the end of the file, which says it, is lost."""
        self.bio = self.path.open('rb')
        try:
            self.data_start = self.bio.seek(len(_MCAP_MAGIC))
            self.data_end = _end_of_whole_records(self.bio)
            self.meta_scan()
        except BaseException:
            self.close()
            raise
        counts = self.statistics.channel_message_counts if self.statistics else {}
        self.connections = [x._replace(msgcount=counts.get(x.id, 0)) for x in self.connections]

    messages = McapReader.messages_scan


def open_sources(path: Path, stack: ExitStack) -> tuple[list[Source], list[str]]:
    """
    Open a bag's files.

    :param path: a folder, with metadata.yaml or without, or one .mcap or .db3 file.
    :param stack: gets what closes the files.
    :return: the sources, and what is wrong with the files though something can be read.
    :raises BagError: if nothing can be read.
    """
    if not path.exists():
        raise BagError(f'bag {str(path)!r} does not exist: check the path')
    damage: list[str] = []
    if path.is_file():
        return [_open_file(path, stack, damage)], damage
    if (path / 'metadata.yaml').is_file():
        try:
            return [_opened(Reader(path), stack)], []
        except Exception as error:  # of several libraries, for each way in which a file is broken
            damage.append(str(error))
    files = sorted(x for x in path.iterdir() if x.suffix in STORAGES and x.stat().st_size)
    if not files:
        damage = damage or ['neither metadata.yaml nor .mcap or .db3 files with anything in them']
        raise BagError(f'{str(path)!r} is no bag of ROS 2: {"; ".join(damage)}')
    return [_open_file(file, stack, damage) for file in files], damage


def _open_file(path: Path, stack: ExitStack, damage: list[str]) -> Source:
    """Open one file, if need be only the whole part of it, and note the damage."""
    if not path.stat().st_size:
        raise BagError(f'{str(path)!r} is empty: record it anew')
    remedy = _REMEDIES.get(path.suffix, 'give a folder, a .mcap or a .db3 file')
    try:
        return _opened(Reader(path), stack)
    except Exception as error:
        with path.open('rb') as file:
            is_cut = path.suffix == '.mcap' and file.read(len(_MCAP_MAGIC)) == _MCAP_MAGIC
        if not is_cut:
            raise BagError(f'{str(path)!r} cannot be read: {error} ({remedy})') from error
    try:
        source = _opened(_CutMcap(path), stack)
    except Exception as error:
        raise BagError(f'{str(path)!r} cannot be read: {error} ({remedy})') from error
    damage.append(f'the end of {str(path)!r} is missing ({remedy})')
    return source


def _opened(source: Source, stack: ExitStack) -> Source:
    source.open()
    stack.callback(source.close)
    return source


def _end_of_whole_records(file: BinaryIO) -> int:
    """Walk over an MCAP file's records, each an opcode, 8 bytes of length and that many bytes."""
    start = file.tell()
    size = file.seek(0, 2)
    end = start
    while end + 9 <= size:
        file.seek(end)
        head = file.read(9)
        following = end + 9 + int.from_bytes(head[1:], 'little')
        # Opcode 0 is none: a file system that crashed leaves blocks of zeros.
        if head[0] == 0 or following > size:
            break
        end = following
    return end

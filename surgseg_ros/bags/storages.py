# SPDX-License-Identifier: Apache-2.0
"""Readers and writers of `rosbags`, where rosbag2 writes more, and paths have odd signs."""

import heapq
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import quote
from zlib import crc32

import lz4.frame  # type: ignore[import-untyped]
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import (
    DECOMPRESSORS,
    ChunkInfo,
    McapReader,
    McapWriter,
    read_string,
    write_channel,
    write_string,
)
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader, Sqlite3Writer

from surgseg_ros.bags.records import (
    CHUNK,
    DamagedError,
    Place,
    Received,
    messages_at,
    places,
)
from surgseg_ros.bags.zstandard import MOST_BYTES, unpack

TYPE_HASH_KEY: Final = 'topic_type_hash'
"""Where rosbag2 notes a type's hash in a channel of MCAP."""

_RECORD_HEAD_BYTES: Final = 9
_CHECKSUM_AT: Final = _RECORD_HEAD_BYTES + 24

# rosbags unpacks a chunk whole, and looks at its size afterwards.
DECOMPRESSORS['zstd'] = lambda data, size: unpack(data, min(size, MOST_BYTES))
DECOMPRESSORS['lz4'] = lambda data, size: _unpack_lz4(data, min(size, MOST_BYTES))


class Source(Protocol):
    """What the readers of files have in common."""

    connections: list[Connection]
    """The topics' publishers, as far as they were recorded."""

    def open(self) -> None:
        """Open the file and find the connections."""

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """
        Go through the messages.

        :raises DamagedError: after the last, if some were left out and that is news.
        """

    def close(self) -> None:
        """Close the file."""


class McapFile(McapReader):
    """
    An MCAP file that is whole.

    Without an index of its messages, as rosbag2's preset `fastwrite` leaves it, they come in the
    order of the file, as rosbag2 plays them.
    """

    path: Path
    bio: BinaryIO | None

    def open(self) -> None:
        """Find the connections, and the hashes of their types."""
        super().open()
        try:
            self.note_hashes()
        except BaseException:
            self.close()
            raise

    def note_hashes(self) -> None:
        """Add to the connections what the channels say of their types."""
        hashes = {
            x.id: read_pairs(x.metadata).get(TYPE_HASH_KEY, '') for x in self.channels.values()
        }
        self.connections = [x._replace(digest=hashes.get(x.id, '')) for x in self.connections]

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:  # type: ignore[override]
        """Go through the messages by the index, or else as they stand, past damaged chunks."""
        # Of a chunk without an index of messages, rosbags would take none, without a word.
        is_indexed = self.chunks and all(x.message_index_offsets for x in self.chunks)
        read = self._by_index if is_indexed else self._as_they_stand
        bad: list[str] = []
        yield from read({x.id: x for x in connections}, bad)
        if bad:
            of = f' of {len(self.chunks)}' if self.chunks else ''
            raise DamagedError(
                f'of {self.path.name!r} left out as damaged: {len(bad)}{of} chunks ({bad[0]})'
            )

    def _by_index(self, wanted: Mapping[int, Connection], bad: list[str]) -> Iterator[Received]:
        chunks = [x for x in self.chunks if any(x.channel_count.get(key) for key in wanted)]
        streams = [self._of_chunk(chunk, wanted, bad) for chunk in chunks]
        for time_ns, _, message in heapq.merge(*streams, key=lambda item: item[:2]):
            if message is not None:
                yield message[0], time_ns, message[1]

    def _of_chunk(
        self, chunk: ChunkInfo, wanted: Mapping[int, Connection], bad: list[str]
    ) -> Iterator[tuple[int, int, tuple[Connection, bytes] | None]]:
        """Go through a chunk's messages by time; unpack it no sooner than its first is due."""
        yield chunk.message_start_time, 0, None
        try:
            place = self._place(chunk.chunk_start_offset)
            found = messages_at(self._file(), place, wanted)
        except DamagedError as error:
            bad.append(str(error))
            return
        for connection, time_ns, cdr in sorted(found, key=lambda item: item[1]):
            yield time_ns, chunk.chunk_start_offset, (connection, cdr)

    def _as_they_stand(
        self, wanted: Mapping[int, Connection], bad: list[str]
    ) -> Iterator[Received]:
        end = self.data_start
        for place in places(self._file(), self.data_start, self.data_end):
            end = place.end
            try:
                yield from messages_at(self._file(), place, wanted)
            except DamagedError as error:
                bad.append(str(error))
        if end != self.data_end:
            raise ValueError(
                f'there is no record at byte {end}' + ''.join(f'; {x}' for x in bad[:1])
            )

    def _file(self) -> BinaryIO:
        if self.bio is None:
            raise ValueError(f'{str(self.path)!r} is closed')
        return self.bio

    def _place(self, start: int) -> Place:
        """Find the chunk that the index says to begin at a place of the file."""
        place = next(places(self._file(), start, self.data_end), None)
        if place is None or place.opcode != CHUNK:
            raise DamagedError(f'no chunk is whole at byte {start}')
        return place


class SqliteFile(Sqlite3Reader):
    """
    A file of SQLite that is whole.

    :param path: of the file.
    :param query: how to open it, in place of rosbags' `immutable=1`.
    """

    def __init__(self, path: Path, query: str = '') -> None:
        """Write the path as a part of a URI, of which `#`, `?` and `%` are signs."""
        # What rosbags adds to it becomes the value of a parameter that SQLite does not know.
        super().__init__(Path(f'{quote(str(path.absolute()))}{query and f"?{query}&rest="}'))


def with_log(path: Path) -> SqliteFile:
    """
    Read a file of SQLite together with its log of changes, which `immutable=1` leaves out.

    rosbag2's preset `resilient` leaves one where the recorder was killed. SQLite may make a file
    `-shm` beside it.

    :param path: of the file.
    :return: its reader.
    """
    return SqliteFile(path, 'mode=ro')


READERS: Final[dict[str, type[McapFile | SqliteFile]]] = {'.mcap': McapFile, '.db3': SqliteFile}
"""The reader of a file by the ending of its name."""


class McapFileWriter(McapWriter):
    """Notes the types' hashes where rosbag2 looks for them, and a checksum of each chunk."""

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        """Write the channel of a topic."""
        start = self.chunk.bio.tell()
        super().add_connection(connection, offered_qos_profiles)
        self.chunk.bio.seek(start)
        self.chunk.bio.truncate()
        metadata = BytesIO()
        write_string(metadata, TYPE_HASH_KEY)
        write_string(metadata, connection.digest)
        channel = self.channels[-1]
        self.channels[-1] = channel._replace(metadata=channel.metadata + metadata.getvalue())
        write_channel(self.chunk.bio, self.channels[-1], self.schemas)

    def close_chunk(self) -> None:
        """Write the chunk, and its checksum, for which rosbags puts 0: that there is none."""
        start = self.bio.tell()
        checksum = crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        self.bio.seek(start + _CHECKSUM_AT)
        self.bio.write(checksum.to_bytes(4, 'little'))
        self.bio.seek(0, 2)


class SqliteFileWriter(Sqlite3Writer):
    """Writes the path as a part of a URI, of which `#`, `?` and `%` are signs."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        """Begin the file."""
        super().__init__(Path(quote(str(path.absolute()))), compression)
        self.path = path / f'{path.name}.db3'


class FolderWriter(Writer):
    """Writes a bag's folder with these files."""

    STORAGE_PLUGINS: Mapping[StoragePlugin, Any] = {
        StoragePlugin.MCAP: McapFileWriter,
        StoragePlugin.SQLITE3: SqliteFileWriter,
    }


def read_pairs(metadata: bytes) -> dict[str, str]:
    """
    Read a map of strings as MCAP writes it.

    :param metadata: of a channel.
    :return: the map.
    """
    stream, found = BytesIO(metadata), {}
    while stream.tell() < len(metadata):
        key = read_string(stream)
        found[key] = read_string(stream)
    return found


def _unpack_lz4(data: bytes, most: int) -> bytes:
    """Unpack a chunk; what is longer than it should be, is refused by its size."""
    return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=most + 1))

# SPDX-License-Identifier: Apache-2.0
"""The storages of bags: readers of their files, and extended writers of `rosbags`."""

from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote
from zlib import crc32

from rosbags.interfaces import Connection as WrittenConnection
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter, write_channel, write_string
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from surgseg_ros.bags.connections import Connection
from surgseg_ros.bags.definitions import TYPE_HASH_KEY
from surgseg_ros.bags.mcap_file import McapFile
from surgseg_ros.bags.records import Received
from surgseg_ros.bags.sqlite_file import SqliteFile

_RECORD_HEAD_BYTES: Final = 9
_CHECKSUM_AT: Final = _RECORD_HEAD_BYTES + 24


class Source(Protocol):
    """The interface of the readers of files."""

    connections: list[Connection]
    """The topics' publishers, as far as they are recorded."""

    def open(self) -> None:
        """Open the file and find the connections."""

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """
        Iterate over the messages.

        :raises DamagedError: after the last, if some were left out that were not reported before.
        """

    def close(self) -> None:
        """Close the file."""


def with_log(path: Path) -> SqliteFile:
    """
    Read an SQLite file together with its write-ahead log, which `immutable=1` ignores.

    rosbag2's preset `resilient` leaves one where the recorder was killed. SQLite may make a file
    `-shm` beside it.

    :param path: of the file.
    :return: its reader.
    """
    return SqliteFile(path, 'mode=ro')


READERS: Final[dict[str, type[McapFile | SqliteFile]]] = {'.mcap': McapFile, '.db3': SqliteFile}
"""The reader of a file by its extension."""


class McapFileWriter(McapWriter):
    """Adds the types' hashes where rosbag2 looks for them, and a checksum of each chunk."""

    def add_connection(self, connection: WrittenConnection, offered_qos_profiles: str) -> None:
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
        """Write the chunk and its checksum, for which rosbags writes 0 (none)."""
        start = self.bio.tell()
        checksum = crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        self.bio.seek(start + _CHECKSUM_AT)
        self.bio.write(checksum.to_bytes(4, 'little'))
        self.bio.seek(0, 2)


class SqliteFileWriter(Sqlite3Writer):
    """Escapes the path as a part of a URI, in which `#`, `?` and `%` have a meaning."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        """Start the file."""
        super().__init__(Path(quote(str(path.absolute()))), compression)
        self.path = path / f'{path.name}.db3'


class FolderWriter(Writer):
    """Writes a bag's folder with these files."""

    STORAGE_PLUGINS: Mapping[StoragePlugin, Any] = {
        StoragePlugin.MCAP: McapFileWriter,
        StoragePlugin.SQLITE3: SqliteFileWriter,
    }

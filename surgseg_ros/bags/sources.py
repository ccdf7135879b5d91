# SPDX-License-Identifier: Apache-2.0
"""Finds and opens the files of a bag, and compares them with metadata.yaml."""

import filecmp
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeVar

import yaml

from surgseg_ros.bags.definitions import Source, UnreadableError
from surgseg_ros.bags.records import MCAP_MAGIC, zstd
from surgseg_ros.bags.recovery.mcap_recovery import RecoveredMcap
from surgseg_ros.bags.recovery.sqlite_recovery import RecoveredSqlite
from surgseg_ros.bags.storages import SQLITE_MAGIC, McapFile, SqliteFile, with_log

METADATA_FILE: Final = 'metadata.yaml'

NEWEST_VERSION: Final = 9
"""Version of the format of Jazzy and Kilted; newer versions are read if they are similar."""


class MetadataError(ValueError):
    """A metadata.yaml that cannot be used."""


@dataclass(frozen=True)
class Metadata:
    """
    The description of a bag in its metadata.yaml, as far as it is given.

    :param files: paths of the files, relative to the bag's folder, in the order of recording; a
        path may occur twice by mistake.
    :param file_counts: number of messages of each file.
    :param counts: number of messages of each topic.
    :param hashes: hash of each topic's type.
    """

    files: tuple[str, ...]
    file_counts: dict[str, int]
    counts: Counter[str]
    hashes: dict[str, str]


def read_metadata(folder: Path) -> Metadata:
    """
    Read a bag's metadata.yaml, of any version of the format or from other tools.

    :param folder: the bag.
    :return: its values; values that are missing, or have another type, are unknown.
    :raises MetadataError: if it cannot be read or names no files.
    """
    try:
        content = yaml.safe_load((folder / METADATA_FILE).read_text('utf-8'))
        found = content['rosbag2_bagfile_information']
        metadata = _metadata(found)
    except OSError as error:
        raise MetadataError(f'{METADATA_FILE} cannot be read: {error.strerror}') from error
    except yaml.YAMLError as error:
        text = ' '.join(str(error).split())
        raise MetadataError(f'{METADATA_FILE} is not YAML: {text}') from error
    except KeyError as error:
        raise MetadataError(f'{METADATA_FILE} lacks {error}') from error
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise MetadataError(f'{METADATA_FILE} is not in the format of rosbag2: {error}') from error
    if not metadata.files and not metadata.counts:
        version = found.get('version')
        known = f'its version is {version!r}, and 1 to {NEWEST_VERSION} are supported'
        raise MetadataError(f"{METADATA_FILE} lacks 'relative_file_paths' ({known})")
    return metadata


def _metadata(found: Mapping[str, Any]) -> Metadata:
    listed = _mappings(found.get('files'))
    files = [str(x) for x in _list(found.get('relative_file_paths'))]
    files = files or [str(x['path']) for x in listed if 'path' in x]
    file_counts = {str(x.get('path')): _count(x.get('message_count')) for x in listed}
    counts: Counter[str] = Counter()
    hashes = {}
    for entry in _mappings(found.get('topics_with_message_count')):
        topic = entry.get('topic_metadata')
        if isinstance(topic, Mapping) and 'name' in topic:
            counts[str(topic['name'])] += _count(entry.get('message_count'))
            hashes[str(topic['name'])] = str(topic.get('type_description_hash') or '')
    return Metadata(tuple(files), file_counts, counts, hashes)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [x for x in _list(value) if isinstance(x, Mapping)]


def _count(value: Any) -> int:
    """Read a number of messages; 0 if it is not a number, so that no message counts as missing."""
    try:
        return max(0, int(value))
    except (OverflowError, TypeError, ValueError):
        return 0


STORAGES: Final = {'.mcap': 'mcap', '.db3': 'sqlite3'}
"""The storage of a bag by the extension of its files."""

PACKED: Final = '.zstd'
"""Extension that rosbag2 adds to a file that it compresses as a whole."""

_BLOCK_BYTES: Final = 2**20

_MIN_FREE_BYTES: Final = 2**28
"""Free space that must remain when a file is decompressed."""

_NUMBERED: Final = re.compile('(.*)_(0|[1-9][0-9]*)')

_REMEDIES: Final = {
    '.mcap': 'give a whole copy, or try `mcap recover`',
    '.db3': 'give a whole copy, or try `sqlite3 FILE .recover`',
    '.bag': 'convert this bag of ROS 1 with `rosbags-convert`',
}

_READERS: Final[dict[str, type[McapFile | SqliteFile]]] = {'.mcap': McapFile, '.db3': SqliteFile}
"""The reader of a file by its extension."""

_RECOVERIES: Final[dict[str, Callable[[Path], RecoveredMcap | RecoveredSqlite]]] = {
    '.mcap': RecoveredMcap,
    '.db3': RecoveredSqlite,
}
_BEGINNINGS: Final = {MCAP_MAGIC: '.mcap', SQLITE_MAGIC: '.db3', b'#ROSBAG V': '.bag'}
"""The storage of a file by its first bytes, which are more reliable than its name."""

S = TypeVar('S', bound=Source)


class BagError(ValueError):
    """A bag that cannot be read or written as requested."""


class Opened(NamedTuple):
    """
    A bag's files.

    :param sources: their readers, open.
    :param metadata: from metadata.yaml; None if it is missing or cannot be read.
    :param damage: problems of files that can be read in part.
    :param missing: sentences about files that metadata.yaml lists, but that do not exist.
    """

    sources: list[Source]
    metadata: Metadata | None
    damage: list[str]
    missing: list[str]


def open_sources(path: Path, stack: ExitStack) -> Opened:
    """
    Open a bag's files.

    :param path: a folder, with or without metadata.yaml, or one .mcap or .db3 file, or a
        compressed one (with .zstd appended). Compressed files are decompressed into the system's
        folder for temporary files.
    :param stack: closes the files.
    :return: their readers and problems.
    :raises BagError: if nothing can be read.
    """
    if not path.exists():
        raise BagError(f'bag {str(path)!r} does not exist: check the path')
    damage: list[str] = []
    if path.is_file():
        return Opened([_open_file(path, stack, damage)], None, damage, [])
    metadata = None
    if (path / METADATA_FILE).is_file():
        try:
            metadata = read_metadata(path)
        except MetadataError as error:
            damage.append(str(error))
    files, missing = _files(path, metadata, damage)
    if not files:
        damage += missing or [_what_is_missing(path)]
        raise BagError(f'{str(path)!r} is not a bag of ROS 2: {"; ".join(damage)}')
    files = _without_copies(files, damage)
    sources = _open_all(files, stack, damage)
    return Opened(sources, metadata, damage, missing)


def _what_is_missing(folder: Path) -> str:
    """Describe what is missing in a folder without bag files."""
    text = 'neither metadata.yaml nor .mcap or .db3 files that are not empty'
    return f'{text} ({_REMEDIES[".bag"]})' if any(folder.glob('*.bag')) else text


def _files(
    folder: Path, metadata: Metadata | None, damage: list[str]
) -> tuple[list[Path], list[str]]:
    """List the files that are not empty, and those that are missing."""
    named = sorted(x for x in folder.iterdir() if storage_ending(x) in STORAGES)
    existing = [x for x in named if x.stat().st_size]
    # A file that was being compressed when the recorder crashed exists beside its compressed part.
    existing = [x for x in existing if not _is_packed(x) or x.with_suffix('') not in existing]
    if metadata is None or not metadata.files:
        damage += _gaps(named, existing)
        return existing, []
    files, missing = [], []
    for path in dict.fromkeys(metadata.files):
        if file := _located(folder, path):
            files.append(file)
        else:
            count = metadata.file_counts.get(path)
            of = f' with {count} messages' if count else ''
            missing.append(f'file {path!r}{of}, which {METADATA_FILE} lists, is missing or empty')
    if missing:  # a missing file may have been renamed
        return sorted({*existing, *files}), missing
    return files, []


def _located(folder: Path, path: str) -> Path | None:
    """
    Find a file that metadata.yaml lists.

    Up to version 3 of the format, paths start with the bag's folder, which may have been renamed.
    """
    for file in (folder / path, folder / PurePosixPath(path).name):
        if file.is_file() and file.stat().st_size:
            return file
    return None


def _gaps(named: Sequence[Path], existing: Sequence[Path]) -> Iterator[str]:
    """Yield which files are empty, or are missing in rosbag2's numbering, which starts at 0."""
    stems = {_stem(x) for x in existing}
    for file in named:
        if _stem(file) not in stems:
            yield f'file {file.name!r} is empty'
    numbers: dict[str, set[int]] = {}
    for file in named:
        if found := _NUMBERED.fullmatch(_stem(file)):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    for name, known in numbers.items():
        lacking = max(known) + 1 - len(known)
        if 0 in known and lacking:
            first, last = f'{name}_0', f'{name}_{max(known)}'
            yield f'{lacking} files are missing between {first!r} and {last!r}'


def _stem(path: Path) -> str:
    plain = path.with_suffix('') if _is_packed(path) else path
    return plain.stem if storage_ending(path) else plain.name


def _without_copies(files: Sequence[Path], damage: list[str]) -> list[Path]:
    """Leave out copies of files, whose messages would be read twice."""
    copies: set[Path] = set()
    for one, other in combinations(files, 2):
        if other in copies or one.stat().st_size != other.stat().st_size:
            continue
        if filecmp.cmp(one, other, shallow=False):
            copies.add(other)
            damage.append(f'{other.name!r} is a copy of {one.name!r} and was left out')
    return [x for x in files if x not in copies]


def _open_all(files: Sequence[Path], stack: ExitStack, damage: list[str]) -> list[Source]:
    """Open files; leave out unreadable files, if others can be read."""
    sources, errors = [], []
    for file in files:
        try:
            sources.append(_open_file(file, stack, damage))
        except BagError as error:
            errors.append(error)
    if errors and not sources:
        raise errors[0]
    damage.extend(str(error) for error in errors)
    return sources


def _open_file(path: Path, stack: ExitStack, damage: list[str]) -> Source:
    """Open a file, or only its intact part, and record the damage."""
    if not path.stat().st_size:
        raise BagError(f'{str(path)!r} is empty: record it again')
    file = _unpacked(path, stack, damage) if _is_packed(path) else path
    kind = _kind(file, storage_ending(path))
    remedy = _REMEDIES.get(kind, 'give a folder, a .mcap or a .db3 file')
    if kind not in _READERS:
        raise BagError(f'{str(path)!r} cannot be read: {kind!r} is not a known storage ({remedy})')
    try:
        return _opened(_whole(file, kind), stack)
    except UnreadableError as error:
        raise BagError(f'{str(path)!r} cannot be read: {error}') from error
    except Exception as error:  # several libraries raise many types of errors
        if _kind(file, '') != kind:
            raise BagError(f'{str(path)!r} cannot be read: {error} ({remedy})') from error
    try:
        source = _opened(_RECOVERIES[kind](file), stack)
    except Exception as error:
        raise BagError(f'{str(path)!r} cannot be read: {error} ({remedy})') from error
    damage.append(f'of {str(path)!r} {source.lost} ({remedy})')
    return source


def _kind(file: Path, named: str) -> str:
    """Determine the storage of a file from its first bytes, or else from its name."""
    with file.open('rb') as stream:
        head = stream.read(max(map(len, _BEGINNINGS)))
    return next((x for magic, x in _BEGINNINGS.items() if head.startswith(magic)), named)


def _whole(file: Path, kind: str) -> Source:
    """Choose the reader of a file that is expected to be intact."""
    has_log = kind == '.db3' and file.with_name(f'{file.name}-wal').is_file()
    return with_log(file) if has_log else _READERS[kind](file)


def _opened(source: S, stack: ExitStack) -> S:
    source.open()
    stack.callback(source.close)
    return source


def _unpacked(path: Path, stack: ExitStack, damage: list[str]) -> Path:
    """Decompress the intact part of a file into a folder that is removed with the bag."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='surgseg_ros.')))
    unpacked = folder / path.with_suffix('').name
    with path.open('rb') as packed, unpacked.open('wb') as file:
        try:
            with zstd.open(packed, 'rb') as stream:
                while block := stream.read1(_BLOCK_BYTES):  # read would drop the last intact part
                    file.write(block)
                    if shutil.disk_usage(folder).free < _MIN_FREE_BYTES:
                        raise BagError(
                            f'{str(path)!r} has no room: decompressed into {str(folder.parent)!r} '
                            f'it leaves less than {_MIN_FREE_BYTES >> 20} MiB there; set TMPDIR'
                        )
        except (EOFError, zstd.ZstdError) as error:
            damage.append(f'{str(path)!r} is damaged: {error}')
    return unpacked


def storage_ending(path: Path) -> str:
    """
    Return the extension that identifies the storage, a key of STORAGES for a bag file.

    :param path: path of a file, compressed or not.
    :return: `.mcap` for `a.mcap` and `a.mcap.zstd`, and also for `A.MCAP`, which other file
        systems may store.
    """
    plain = path.with_suffix('') if _is_packed(path) else path
    return plain.suffix.lower()


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == PACKED


def describe_loss(opened: Opened, counts: Counter[str], topics: Collection[str]) -> list[str]:
    """
    Describe the damage of a bag's files, and count the messages that are lost.

    :param opened: the files.
    :param counts: number of messages of each topic in them.
    :param topics: topics to report on.
    :return: sentences; empty if nothing is lost.
    """
    expected = opened.metadata.counts if opened.metadata else Counter[str]()
    lacking = [(name, n) for name, n in (expected - counts).items() if name in topics]
    lost = [f'{n} messages of {name!r} are missing' for name, n in lacking]
    # If no message is missing, a missing file was only renamed.
    return [*opened.damage, *(opened.missing if lost else ()), *lost]

# SPDX-License-Identifier: Apache-2.0
"""What metadata.yaml says of a bag, as far as it helps to read the bag's files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

METADATA_FILE: Final = 'metadata.yaml'

NEWEST_VERSION: Final = 9
"""Of the format, which Jazzy and Kilted write; a newer one is read as far as it is like this."""


class MetadataError(ValueError):
    """A metadata.yaml that cannot be used."""


@dataclass(frozen=True)
class Metadata:
    """
    What there should be, as far as that is said.

    :param files: paths of the files, relative to the bag's folder, in the order of recording; one
        may stand twice by mistake.
    :param file_counts: messages of each file.
    :param counts: messages of each topic.
    :param hashes: hash of each topic's type.
    """

    files: tuple[str, ...]
    file_counts: dict[str, int]
    counts: Counter[str]
    hashes: dict[str, str]


def read_metadata(folder: Path) -> Metadata:
    """
    Read a bag's metadata.yaml, of any version of the format, or as other tools write it.

    :param folder: the bag.
    :return: what it says; what it leaves out, or says in another form, is unknown.
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
        raise MetadataError(f'{METADATA_FILE} is no YAML: {text}') from error
    except KeyError as error:
        raise MetadataError(f'{METADATA_FILE} lacks {error}') from error
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise MetadataError(f'{METADATA_FILE} is not as rosbag2 writes it: {error}') from error
    if not metadata.files and not metadata.counts:
        version = found.get('version')
        known = f'it is of version {version!r}, known are 1 to {NEWEST_VERSION}'
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
    """Read a number of messages: 0 where it is none, for then it does not tell what is missing."""
    try:
        return max(0, int(value))
    except (OverflowError, TypeError, ValueError):
        return 0

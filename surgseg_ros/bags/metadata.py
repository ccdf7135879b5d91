# SPDX-License-Identifier: Apache-2.0
"""What metadata.yaml says of a bag, as far as it helps to read the bag's files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

METADATA_FILE: Final = 'metadata.yaml'

NEWEST_VERSION: Final = 9
"""Of the format, which Jazzy and Kilted write. rosbag2 takes a newer one for unknown as well."""


class MetadataError(ValueError):
    """A metadata.yaml that can't be used."""


@dataclass(frozen=True)
class Metadata:
    """
    What there should be.

    :param files: names of the files in the order of recording; one may stand twice by mistake.
    :param file_counts: messages of each file, where that is said.
    :param counts: messages of each topic.
    :param hashes: hash of each topic's type, where that is said.
    """

    files: tuple[str, ...]
    file_counts: dict[str, int]
    counts: Counter[str]
    hashes: dict[str, str]


def read_metadata(folder: Path) -> Metadata:
    """
    Read a bag's metadata.yaml, of any version of the format so far.

    :param folder: the bag.
    :return: what it says.
    :raises MetadataError: if it can't be read, or is of a version that is not known.
    """
    try:
        content = yaml.safe_load((folder / METADATA_FILE).read_text('utf-8'))
        found = content['rosbag2_bagfile_information']
        version = int(found['version'])
        if version <= NEWEST_VERSION:
            return _metadata(found)
    except OSError as error:
        raise MetadataError(f'{METADATA_FILE} cannot be read: {error.strerror}') from error
    except yaml.YAMLError as error:
        text = ' '.join(str(error).split())
        raise MetadataError(f'{METADATA_FILE} is no YAML: {text}') from error
    except KeyError as error:
        raise MetadataError(f'{METADATA_FILE} lacks {error}') from error
    except (AttributeError, TypeError, ValueError) as error:
        raise MetadataError(f'{METADATA_FILE} is not as rosbag2 writes it: {error}') from error
    raise MetadataError(f'{METADATA_FILE} is of version {version}, known are 1 to 9')


def _metadata(found: dict[str, Any]) -> Metadata:
    # Until version 3 the names had the bag's folder in front.
    files = tuple(PurePosixPath(str(x)).name for x in found['relative_file_paths'])
    file_counts = {
        PurePosixPath(str(x['path'])).name: int(x['message_count']) for x in found.get('files', ())
    }
    counts: Counter[str] = Counter()
    hashes = {}
    for entry in found['topics_with_message_count']:
        topic = entry['topic_metadata']
        counts[str(topic['name'])] += int(entry['message_count'])
        hashes[str(topic['name'])] = str(topic.get('type_description_hash') or '')
    return Metadata(files, file_counts, counts, hashes)

# SPDX-License-Identifier: Apache-2.0
"""A first look at a bag: which topics, whose stamps, and which bag it is."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.bag_evaluation.matching import Stamps
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.sources import STORAGES, storage_ending
from surgseg_ros.messages.images import COMPRESSED_IMAGE, IMAGE
from surgseg_ros.messages.received import read_size, read_stamp

_IMAGE_TYPES: Final = (IMAGE, COMPRESSED_IMAGE)
_END_BYTES: Final = 2**20


class Seen(NamedTuple):
    """
    A topic's messages in order of receipt.

    :param stamps: of their headers.
    :param received_ns: when they were received.
    :param sizes: (H, W) in pixels, where they were asked for; None of what is no image.
    """

    stamps: list[int | None]
    received_ns: list[int]
    sizes: list[tuple[int, int] | None]


def check_topics(bag: Bag, topics: Collection[str]) -> None:
    """
    See that topics hold images.

    :param bag: the open bag.
    :param topics: their names.
    :raises BagError: if one is absent or of another type.
    """
    bag.messages(topics)
    for name in topics:
        if (found := bag.topics[name].type_name) not in _IMAGE_TYPES:
            there = [x for x, topic in bag.topics.items() if topic.type_name in _IMAGE_TYPES]
            text = f'topic {name!r} of bag {str(bag.path)!r} is of type {found}, not of images'
            raise BagError(f'{text}: choose among {", ".join(there) or "another bag"}')


def scan_bag(bag: Bag, topics: Collection[str], measured: str | None = None) -> dict[str, Seen]:
    """
    Read the stamps of topics, and of one the sizes; nothing else of their messages.

    :param bag: the open bag; damage ends the look without a word, since reading will say it.
    :param topics: their names.
    :param measured: the one whose images' sizes are read too, if any.
    :return: name to what was seen.
    """
    seen = {name: Seen([], [], []) for name in topics}
    with contextlib.suppress(BagError):
        for topic, received_ns, cdr in bag.messages(topics):
            seen[topic].stamps.append(read_stamp(cdr))
            seen[topic].received_ns.append(received_ns)
            if topic == measured:
                seen[topic].sizes.append(read_size(cdr, bag.topics[topic].type_name))
    return seen


def identify(bag: Bag) -> dict[str, Any]:
    """
    Say which bag it is, whatever its path.

    :param bag: the open bag.
    :return: `size_bytes`, `topics` and `fingerprint`; see `results`.
    """
    return {
        'size_bytes': sum(file.stat().st_size for file in bag_files(bag.path)),
        'topics': {
            name: {'type': topic.type_name, 'messages': topic.message_count}
            for name, topic in sorted(bag.topics.items())
        },
        'fingerprint': fingerprint(bag.path),
    }


def bag_files(path: Path) -> list[Path]:
    """
    List the files of a bag.

    :param path: the bag, a folder or a file.
    :return: its files, sorted; of folders within it, which metadata.yaml may name, those that
        hold messages.
    """
    if path.is_file():
        return [path]
    found = [x for x in path.rglob('*') if x.parent == path or storage_ending(x) in STORAGES]
    return sorted(x for x in found if x.is_file())


def reported(error: BagError, path: Path) -> str:
    """
    Say what is wrong with a bag, without saying where this machine keeps it.

    :param error: of the bag.
    :param path: of the bag.
    :return: the error's text with the bag's own name alone.
    """
    return str(error).replace(f'{path.parent}/', '')


def fingerprint(path: Path) -> str:
    """
    Tell a bag from others without reading all of it: the end of a whole file has its index.

    :param path: the bag, a folder or a file.
    :return: SHA-256 of the names, the sizes and both ends of its files.
    """
    hasher = hashlib.sha256()
    for part in bag_files(path):
        size = part.stat().st_size
        hasher.update(f'{part.name} {size}\n'.encode())
        with part.open('rb') as file:
            hasher.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            hasher.update(file.read(_END_BYTES))
    return hasher.hexdigest()


def count_odd_stamps(stamps: Stamps) -> dict[str, int]:
    """
    Count stamps that tell little or nothing.

    :param stamps: of the images in order; None is left out.
    :return: how many are `zero`, how many `equal` to that of another image, and how many lie
        before that of the image in front of them (`backward`).
    """
    known = [stamp for stamp in stamps if stamp is not None]
    often = Counter(known)
    return {
        'zero': often[0],
        'equal': sum(n for n in often.values() if n > 1),
        'backward': sum(now < before for before, now in pairwise(known)),
    }

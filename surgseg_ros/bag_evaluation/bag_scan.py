# SPDX-License-Identifier: Apache-2.0
"""
The content of a bag: topics, stamps, which truth belongs to which image, recorded instruments.

Instruments are converted to the folders that `evaluate --instruments` scores; frames are numbered
in the order of the images in the bag, from 0.
"""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.sources import STORAGES, storage_ending
from surgseg_ros.core.files import make_folder
from surgseg_ros.core.instrument_files import ListedInstrument
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import BEYOND_IMAGE, HIDDEN, LABELS, NO_DECISION
from surgseg_ros.evaluation.instrument_folders import OF_INSTRUMENTS, write_listed
from surgseg_ros.evaluation.layout import MASK_FOLDER, official_name
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import mask_from_msg, read_image, read_size, read_stamp
from surgseg_ros.messages.serialization import (
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    from_cdr,
    stamp_ns,
)

Stamps = Sequence[int | None]
"""Nanoseconds in order of receipt; None if a message has no stamp."""


class Matching(NamedTuple):
    """
    The assignment of messages to images.

    :param of_image: mapping from an image's index to that of the message that belongs to it.
    :param unmatched: number of messages without an image of their stamp.
    :param ambiguous: number of messages whose stamp does not identify one image.
    """

    of_image: dict[int, int]
    unmatched: int
    ambiguous: int


def match(images: Stamps, others: Stamps, tolerance_ns: int = 0) -> Matching:
    """
    Match messages with images by their stamps, independent of the order of receipt.

    In ROS, a stamp of zero means that there is none. Several images with the same stamp (a
    recording that was restarted, a driver that repeats stamps) cannot be distinguished, nor can
    several messages with the same stamp. These are not matched, but counted. The others are
    matched in the order of their distance, each image and each message once; at equal distance,
    the earlier image and then the earlier message comes first.

    :param images: stamps of the images.
    :param others: stamps of the messages to match with them.
    :param tolerance_ns: largest difference of stamps.
    :return: the matching.
    """
    image_at, unusable = _unique(images)
    other_at, own_unusable = _unique(others)
    free = sorted(image_at)
    pairs = sorted(
        (abs(stamp - near), near, stamp)
        for stamp in other_at
        for near in _within(free, stamp, tolerance_ns)
    )
    of_image: dict[int, int] = {}
    taken: set[int] = set()
    for _, image, other in pairs:
        if image_at[image] not in of_image and other not in taken:
            of_image[image_at[image]] = other_at[other]
            taken.add(other)
    unusable_stamps = sorted(unusable)
    left = [stamp for stamp in other_at if stamp not in taken]
    near_unusable = sum(bool(_within(unusable_stamps, stamp, tolerance_ns)) for stamp in left)
    ambiguous = near_unusable + own_unusable.total()
    return Matching(of_image, len(others) - len(of_image) - ambiguous, ambiguous)


def _unique(stamps: Stamps) -> tuple[dict[int, int], Counter[int]]:
    """Return the indices of unique stamps, and how often the others occur."""
    known = Counter(stamp for stamp in stamps if stamp is not None)
    unusable = Counter({stamp: n for stamp, n in known.items() if n > 1 or stamp == 0})
    index_of = {
        stamp: index
        for index, stamp in enumerate(stamps)
        if stamp is not None and stamp not in unusable
    }
    return index_of, unusable


def _within(ordered: Sequence[int], stamp: int, tolerance_ns: int) -> Sequence[int]:
    first = bisect_left(ordered, stamp - tolerance_ns)
    return ordered[first : bisect_right(ordered, stamp + tolerance_ns)]


_IMAGE_TYPES: Final = (IMAGE, COMPRESSED_IMAGE)
_END_BYTES: Final = 2**20


class TopicMessages(NamedTuple):
    """
    A topic's messages in order of receipt.

    :param stamps: stamps of their headers.
    :param received_ns: times of receipt.
    :param sizes: (H, W) in pixels, if requested; None for a message that is not an image.
    """

    stamps: list[int | None]
    received_ns: list[int]
    sizes: list[tuple[int, int] | None]


def check_topics(bag: Bag, topics: Collection[str]) -> None:
    """
    Check that topics have images.

    :param bag: the open bag.
    :param topics: their names.
    :raises BagError: if one is absent or of another type.
    """
    bag.messages(topics)
    for name in topics:
        if (found := bag.topics[name].type_name) not in _IMAGE_TYPES:
            image_topics = [
                x for x, topic in bag.topics.items() if topic.type_name in _IMAGE_TYPES
            ]
            text = f'topic {name!r} of bag {str(bag.path)!r} has type {found}, not an image type'
            raise BagError(f'{text}: choose among {", ".join(image_topics) or "another bag"}')


def scan_bag(
    bag: Bag, topics: Collection[str], measured: str | None = None
) -> dict[str, TopicMessages]:
    """
    Read the stamps of topics, and the sizes of the images of one topic.

    :param bag: the open bag; damage silently ends the scan, since it is reported when the bag is
        read.
    :param topics: their names.
    :param measured: the topic whose image sizes are read; None for none.
    :return: mapping from name to the messages that were read.
    """
    seen = {name: TopicMessages([], [], []) for name in topics}
    with suppress(BagError):
        for topic, received_ns, cdr in bag.messages(topics):
            seen[topic].stamps.append(read_stamp(cdr))
            seen[topic].received_ns.append(received_ns)
            if topic == measured:
                seen[topic].sizes.append(read_size(cdr, bag.topics[topic].type_name))
    return seen


def identify(bag: Bag) -> dict[str, Any]:
    """
    Identify a bag, independent of its path.

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
    :return: its files, sorted; of those in subfolders, which metadata.yaml may name, only files
        with messages.
    """
    if path.is_file():
        return [path]
    found = [x for x in path.rglob('*') if x.parent == path or storage_ending(x) in STORAGES]
    return sorted(x for x in found if x.is_file())


def error_text(error: BagError, path: Path) -> str:
    """
    Describe an error of a bag without the bag's path on this machine.

    :param error: the error.
    :param path: path of the bag.
    :return: the error's text with only the name of the bag.
    """
    return str(error).replace(f'{path.parent}/', '')


def fingerprint(path: Path) -> str:
    """
    Compute a fingerprint without reading the whole bag: the end of a complete file has its index.

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


def count_stamp_anomalies(stamps: Stamps) -> dict[str, int]:
    """
    Count anomalous stamps.

    :param stamps: stamps of the images in order; None is skipped.
    :return: how many are `zero`, how many `equal` to that of another image, and how many lie
        before that of the previous image (`backward`).
    """
    known = [stamp for stamp in stamps if stamp is not None]
    often = Counter(known)
    return {
        'zero': often[0],
        'equal': sum(n for n in often.values() if n > 1),
        'backward': sum(now < before for before, now in pairwise(known)),
    }


TOPICS: Final = {'instances': IMAGE, 'detections': DETECTIONS, 'keypoints': DETECTIONS}
"""Names of the topics beside that of the masks, and their types."""

_MAX_WAITING: Final = 64
"""
Maximum number of stamps with some of their messages.

If a message is lost, the others of its stamp would wait forever.
"""


def folder_of(root: Path, bag_name: str) -> Path:
    """
    Create the folders of a bag's instruments.

    :param root: parent folder of all bags.
    :param bag_name: name of the bag, as `find_bags` returns it.
    :return: the folder of the bag, named like a video.
    """
    name = bag_name.removesuffix('.mcap').removesuffix('.db3').replace('/', '_')
    video = root / official_name(name)
    for folder in OF_INSTRUMENTS:
        make_folder(video / folder)
    return video


def frame_path(video: Path, index: int) -> Path:
    """
    Return the path of the mask of a frame, beside whose folder the instruments are.

    :param video: see `folder_of`.
    :param index: index of the image in its bag, from 0.
    :return: the path; the file does not exist.
    """
    return video / MASK_FOLDER / f'{index:09d}.png'


def write_recorded(path: Path, mask_topic: str, images: Stamps, video: Path) -> None:
    """
    Write the instruments that a node published.

    :param path: the bag.
    :param mask_topic: the topic beside which the others are.
    :param images: stamps of the images; messages are left out if not exactly one image has their
        stamp.
    :param video: see `folder_of`.
    :raises BagError: if a topic is missing or of another type, or a message cannot be used.
    """
    base = mask_topic.rpartition('/')[0]
    topics = {f'{base}/{name}': name for name in TOPICS}
    often = Counter(images)
    index_of = {stamp: n for n, stamp in enumerate(images) if stamp and often[stamp] == 1}
    waiting: dict[int, dict[str, Any]] = {}
    with Bag(path) as bag:
        _check(bag, topics)
        for topic, cdr in _messages(bag, topics):
            name = topics[topic]
            try:
                is_image = TOPICS[name] == IMAGE
                message = read_image(cdr, IMAGE) if is_image else from_cdr(cdr, DETECTIONS)
                stamp = stamp_ns(message.header)
                of_stamp = waiting.setdefault(stamp, {})
                of_stamp[name] = mask_from_msg(message) if is_image else message
                if len(of_stamp) < len(TOPICS):
                    if len(waiting) > _MAX_WAITING:
                        del waiting[min(waiting)]
                    continue
                del waiting[stamp]
                if stamp in index_of:
                    _write(frame_path(video, index_of[stamp]), **of_stamp)
            except (ImageError, ValueError, IndexError) as error:
                raise BagError(
                    f'{path}: a message of {topic!r} cannot be used: {error}'
                ) from error


def _messages(bag: Bag, topics: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Read the intact part of a bag; the reader of the masks reports the damage."""
    with suppress(BagError):
        for topic, _, cdr in bag.messages(topics):
            yield topic, cdr


def _check(bag: Bag, topics: Mapping[str, str]) -> None:
    for topic, name in topics.items():
        found = bag.topics.get(topic)
        if found is None or found.type_name != TOPICS[name]:
            what = 'is missing' if found is None else f'has type {found.type_name}'
            raise BagError(
                f'{bag.path}: topic {topic!r} {what}: record instances, detections and keypoints '
                'beside the mask (--instruments), or leave out --instruments'
            )


def _write(path: Path, instances: Any, detections: Any, keypoints: Any) -> None:
    found = [(entry.id, entry.results[0].hypothesis) for entry in detections.detections]
    labels = [int(hypothesis.class_id) for _, hypothesis in found]
    if NO_DECISION in labels:
        return write_listed(path, instances, (), is_decided=False)
    if others := set(labels) - LABELS.keys():
        raise ValueError(f'class_id {min(others)} is not a class')
    points: dict[str, list[Keypoint]] = defaultdict(list)
    for entry in keypoints.detections:
        points[entry.id].append(_keypoint(entry))
    listed = [
        ListedInstrument(
            *(number, label, _geometry(tuple(points[name])) if name else Geometry()),
            *(int(name or 0), float(hypothesis.score)),
        )
        for number, (label, (name, hypothesis)) in enumerate(zip(labels, found), 1)
    ]
    return write_listed(path, instances, listed[: NO_DECISION - 1])


def _keypoint(entry: Any) -> Keypoint:
    kind, *flags = (int(result.hypothesis.class_id) for result in entry.results)
    center = entry.bbox.center
    numbers = center.position.x, center.position.y, center.theta, entry.bbox.size_x / 2
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f'a keypoint has the values {numbers}')
    return Keypoint(KeypointKind(kind), *numbers, HIDDEN in flags, BEYOND_IMAGE in flags)


def _geometry(points: tuple[Keypoint, ...]) -> Geometry:
    """Create a geometry; the angle between the jaws was computed at their pivot."""
    positions = {point.kind: point.xy_px for point in points}
    kinds = KeypointKind
    jaws = [positions.get(kind) for kind in (kinds.LEFT_JAW_TIP, kinds.RIGHT_JAW_TIP)]
    pivot = positions.get(kinds.JAW_PIVOT)
    if pivot is None or jaws[0] is None or jaws[1] is None:
        return Geometry(points)
    left, right = (math.atan2(*(jaw - pivot)[::-1]) for jaw in jaws if jaw is not None)
    return Geometry(points, abs(math.degrees(math.remainder(left - right, 2 * math.pi))))

# SPDX-License-Identifier: Apache-2.0
"""
Converts recorded messages of instruments to the folders that `evaluate --instruments` scores.

Frames are numbered in the order of the images in the bag, from 0.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from surgseg_ros.bag_evaluation.bag_scan import Stamps
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.core.files import make_folder
from surgseg_ros.core.instrument_files import ListedInstrument
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import BEYOND_IMAGE, HIDDEN, LABELS, NO_DECISION
from surgseg_ros.evaluation.instrument_folders import OF_INSTRUMENTS, write_listed
from surgseg_ros.evaluation.layout import MASK_FOLDER, official_name
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import mask_from_msg, read_image
from surgseg_ros.messages.serialization import DETECTIONS, IMAGE, from_cdr, stamp_ns

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


def frame_path(video: Path, place: int) -> Path:
    """
    Return the path of the mask of a frame, beside whose folder the instruments are.

    :param video: see `folder_of`.
    :param place: index of the image in its bag, from 0.
    :return: the path; the file does not exist.
    """
    return video / MASK_FOLDER / f'{place:09d}.png'


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
    places = {stamp: n for n, stamp in enumerate(images) if stamp and often[stamp] == 1}
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
                if stamp in places:
                    _write(frame_path(video, places[stamp]), **of_stamp)
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
        raise ValueError(f'class_id {min(others)} is no class')
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
    places = {point.kind: point.place for point in points}
    kinds = KeypointKind
    jaws = [places.get(kind) for kind in (kinds.LEFT_JAW_TIP, kinds.RIGHT_JAW_TIP)]
    pivot = places.get(kinds.JAW_PIVOT)
    if pivot is None or jaws[0] is None or jaws[1] is None:
        return Geometry(points)
    left, right = (math.atan2(*(jaw - pivot)[::-1]) for jaw in jaws if jaw is not None)
    return Geometry(points, abs(math.degrees(math.remainder(left - right, 2 * math.pi))))

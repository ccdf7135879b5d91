# SPDX-License-Identifier: Apache-2.0
"""Writes bags of ROS 2 without ROS; a bag appears only when it is complete."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter, write_channel, write_string
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from surgseg_ros.bags.definitions import TYPE_HASH_KEY
from surgseg_ros.bags.sources import STORAGES, BagError
from surgseg_ros.core.files import hidden_folder
from surgseg_ros.core.stereo_calibration import CameraInfo
from surgseg_ros.messages.images import JPEG_QUALITY, image_to_jpeg, image_to_msg, mask_to_png
from surgseg_ros.messages.serialization import TYPES, camera_info_to_msg, header, to_cdr

T = TypeVar('T')

Frame = tuple[int, NDArray[np.uint8], NDArray[np.uint8] | None]
"""Stamp in nanoseconds, (H, W, 3) uint8 RGB, and (H, W) uint8 mask or None."""

START_TIME_NS: Final = 1_000_000_000 * 10**9
"""Default start of a generated recording; fixed, so that its bytes are reproducible."""

LATCHED_TYPES: Final = ('vision_msgs/msg/LabelInfo', 'diagnostic_msgs/msg/DiagnosticStatus')
"""Types whose last message is also delivered to late subscribers."""

IMAGE_FORMATS: Final[dict[str, Callable[[Any, Any, int], Any]]] = {
    'raw': lambda image, head, quality: image_to_msg(image, head),
    'jpeg': image_to_jpeg,
}
"""Functions that create a message from an image, a header and a JPEG quality."""

MASK_FORMATS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    'raw': image_to_msg,
    'png': mask_to_png,
}
"""Functions that create a message from a mask and a header; JPEG would change classes."""

_FORMAT_VERSION: Final = 8  # the newest that Iron and Jazzy read; Humble reads it as well
_FOREVER: Final = QosTime(9223372036, 854775807)

_RECORD_HEAD_BYTES: Final = 9
_CHECKSUM_AT: Final = _RECORD_HEAD_BYTES + 24


class McapFileWriter(McapWriter):
    """Adds the hashes of types where rosbag2 looks for them, and a checksum of each chunk."""

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
        """Write the chunk and its checksum, for which rosbags writes 0 (none)."""
        start = self.bio.tell()
        checksum = crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        self.bio.seek(start + _CHECKSUM_AT)
        self.bio.write(checksum.to_bytes(4, 'little'))
        self.bio.seek(0, 2)


class SqliteFileWriter(Sqlite3Writer):
    """Escapes the path as part of a URI, in which `#`, `?` and `%` have a special meaning."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        """Start the file."""
        super().__init__(Path(quote(str(path.absolute()))), compression)
        self.path = path / f'{path.name}.db3'


class FolderWriter(Writer):
    """Writes the folder of a bag with the file writers above."""

    STORAGE_PLUGINS: Mapping[StoragePlugin, Any] = {
        StoragePlugin.MCAP: McapFileWriter,
        StoragePlugin.SQLITE3: SqliteFileWriter,
    }


def stamped(
    frames: Iterable[tuple[int, NDArray[np.uint8], NDArray[np.uint8] | None]],
    rate_hz: float | Callable[[int], Fraction],
    start_ns: int = START_TIME_NS,
) -> Iterator[Frame]:
    """
    Assign stamps to frames by their numbers.

    :param frames: (number, image, mask) of each frame.
    :param rate_hz: frames per second; or a function from a number to seconds since number 0.
    :param start_ns: stamp of frame 0, in nanoseconds.
    :return: the frames for `write_image_bag`; rounding errors of stamps do not accumulate.
    """
    for number, image, mask in frames:
        after_ns = rate_hz(number) * 10**9 if callable(rate_hz) else number * 1e9 / rate_hz
        yield start_ns + round(after_ns), image, mask


class BagWriter:
    """
    Writes a bag in a `with` block at a temporary path; it is moved to its path on success.

    :param path: the folder to create; or with the extension .mcap or .db3, the file to create.
    :param storage: `mcap` or `sqlite3`, if the extension does not determine it.
    :param packed: whether to compress the chunks of MCAP with zstd. A mask becomes a hundred times
        smaller, in less time than writing it takes; a camera's image hardly becomes smaller.
    :raises BagError: if the storage is unknown; on entering and on leaving, if the path exists.
    """

    def __init__(self, path: Path | str, storage: str = 'mcap', *, packed: bool = False) -> None:
        """Check the arguments; nothing is written yet."""
        self.path = Path(path)
        storage = STORAGES.get(self.path.suffix, storage)
        if storage not in STORAGES.values():
            raise BagError(
                f'storage {storage!r} is unknown: choose one of {list(STORAGES.values())}'
            )
        self._storage = StoragePlugin[storage.upper()]
        self._packed = packed and self._storage is StoragePlugin.MCAP
        self._connections: dict[tuple[str, str], Connection] = {}
        self._stack = ExitStack()

    def __enter__(self) -> 'BagWriter':
        """Start the bag in a hidden folder beside its path."""
        self._writer = self._stack.enter_context(self._made())
        return self

    def __exit__(self, *error: Any) -> None:
        """Move the bag to its path, or remove it if anything failed."""
        self._stack.__exit__(*error)

    @contextmanager
    def _made(self) -> Iterator[FolderWriter]:
        self._refuse_to_overwrite()
        # rosbags names the file in the folder after the folder.
        name = self.path.stem if self.path.suffix in STORAGES else self.path.name
        with hidden_folder(self.path) as folder:
            made = folder / name
            writer = FolderWriter(made, version=_FORMAT_VERSION, storage_plugin=self._storage)
            if self._packed:
                writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            with writer:
                yield writer
            self._refuse_to_overwrite()
            (made / self.path.name if self.path.suffix in STORAGES else made).rename(self.path)

    def write(self, topic: str, type_name: str, message: Any, stamp_ns: int) -> None:
        """
        Write a message.

        :param topic: the topic's name.
        :param type_name: the message's type, one of TYPES.
        :param message: a message object of `rosbags`, or its CDR as bytes.
        :param stamp_ns: time of receipt in nanoseconds; not negative.
        :raises BagError: if the type is unknown or the stamp is negative.
        """
        if stamp_ns < 0:
            raise BagError(f'stamp {stamp_ns} ns of topic {topic!r} is negative: count from 1970')
        if (topic, type_name) not in self._connections:
            self._connections[topic, type_name] = self._connect(topic, type_name)
        is_cdr = isinstance(message, bytes | memoryview)
        cdr = message if is_cdr else to_cdr(message)
        self._writer.write(self._connections[topic, type_name], stamp_ns, cdr)

    def _connect(self, topic: str, type_name: str) -> Connection:
        if type_name not in TYPES.fielddefs:
            raise BagError(f'type {type_name!r} of topic {topic!r} is unknown: check it')
        qos = _offered_qos(is_latched=type_name in LATCHED_TYPES)
        return self._writer.add_connection(
            topic, type_name, typestore=TYPES, offered_qos_profiles=[qos]
        )

    def _refuse_to_overwrite(self) -> None:
        if self.path.exists():
            raise BagError(f'{str(self.path)!r} exists already: choose another name or remove it')


class Written(NamedTuple):
    """The number of images and masks in a bag."""

    images: int
    masks: int


def write_image_bag(
    path: Path | str,
    frames: Iterable[Frame],
    *,
    image_topic: str = '/camera/image_raw',
    ground_truth_topic: str = '/camera/ground_truth',
    frame_id: str = 'endoscope',
    storage: str = 'mcap',
    picture_format: str = 'raw',
    mask_format: str = 'raw',
    jpeg_quality: int = JPEG_QUALITY,
) -> Written:
    """
    Write images, and masks if there are any, as a camera would publish them.

    :param path: path of the bag.
    :param frames: the frames; they are consumed one by one, so that memory does not grow.
    :param image_topic: topic of the images.
    :param ground_truth_topic: topic of the masks, with the stamps of their images.
    :param frame_id: the camera's frame.
    :param storage: `mcap` or `sqlite3`.
    :param picture_format: `raw` for Image as rgb8, `jpeg` for CompressedImage.
    :param mask_format: `raw` for Image as mono8, `png` for CompressedImage.
    :param jpeg_quality: 1 to 100.
    :return: the number of each in the bag.
    :raises BagError: if the path exists, a format is unknown, or both topics are the same.
    """
    if image_topic == ground_truth_topic:
        raise BagError(f'both topics are {image_topic!r}: give the masks one of their own')
    to_image = _choose('pictures', picture_format, IMAGE_FORMATS)
    to_mask = _choose('masks', mask_format, MASK_FORMATS)
    counts: Counter[str] = Counter()
    with BagWriter(path, storage) as bag:
        for stamp_ns, image, mask in frames:
            head = header(stamp_ns, frame_id)
            messages = {image_topic: to_image(image, head, jpeg_quality)}
            if mask is not None:
                messages[ground_truth_topic] = to_mask(mask, head)
            counts.update(_write(bag, messages, stamp_ns))
    return Written(counts[image_topic], counts[ground_truth_topic])


def write_stereo_bag(
    path: Path,
    cameras: Mapping[str, Iterable[Frame]],
    infos: Sequence[CameraInfo],
    *,
    image_topic: str,
    ground_truth_topic: str,
    frame_id: str,
) -> None:
    """
    Write images, masks and calibrations of several cameras with the same stamps.

    :param path: path of the bag.
    :param cameras: frames by the name of the camera, which comes before the last part of each
        topic (`/camera/left/image_raw`), and after the frame's name (`endoscope_left`).
    :param infos: the calibration of each camera; its topic is `camera_info` beside the images.
    :param image_topic: topic of the images.
    :param ground_truth_topic: topic of the masks.
    :param frame_id: the cameras' frame.
    :raises BagError: if the path exists.
    """

    def topic_of(topic: str, name: str) -> str:
        return '/'.join([*topic.split('/')[:-1], name, topic.rpartition('/')[2]])

    beside = '/'.join([*image_topic.split('/')[:-1], 'camera_info'])
    with BagWriter(path) as bag:
        for frames in zip(*cameras.values(), strict=True):
            for name, info, (stamp_ns, image, mask) in zip(cameras, infos, frames, strict=True):
                head = header(stamp_ns, f'{frame_id}_{name}')
                messages = {
                    topic_of(image_topic, name): image_to_msg(image, head),
                    topic_of(beside, name): camera_info_to_msg(head, info),
                }
                if mask is not None:
                    messages[topic_of(ground_truth_topic, name)] = image_to_msg(mask, head)
                _write(bag, messages, stamp_ns)


def _write(bag: BagWriter, messages: Mapping[str, Any], stamp_ns: int) -> list[str]:
    """Write messages by topic; return the topics."""
    for topic, message in messages.items():
        bag.write(topic, message.__msgtype__, message, stamp_ns)
    return list(messages)


def _choose(what: str, name: str, formats: Mapping[str, T]) -> T:
    if name not in formats:
        known = ' or '.join(formats)
        raise BagError(f'{what} cannot be written as {name!r}: choose {known}')
    return formats[name]


def _offered_qos(*, is_latched: bool) -> Qos:
    """Build the QoS that the publisher offered, which `ros2 bag play` offers again."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if is_latched else 5,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if is_latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )

# SPDX-License-Identifier: Apache-2.0
"""
Message types in rosbags, reading and writing of messages, and creation of result messages.

Messages of results have the header of their image, unchanged.
"""

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from surgseg_ros.core.detections import Instrument, without_decision
from surgseg_ros.core.keypoints import Geometry, Keypoint
from surgseg_ros.core.labels import BEYOND_IMAGE, HIDDEN, KEYPOINT_LABELS, LABELS
from surgseg_ros.core.stereo import LocatedInstrument, turn_from_x
from surgseg_ros.core.stereo_calibration import CameraInfo

VISION_MSGS: Final = Path(__file__).parent / 'vision_msgs' / 'msg'

IMAGE: Final = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE: Final = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO: Final = 'sensor_msgs/msg/CameraInfo'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
DETECTIONS_3D: Final = 'vision_msgs/msg/Detection3DArray'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'

_LENGTH: Final = struct.Struct('<I')
_NO_PIXELS: Final = np.empty(0, np.uint8)

_LATEST_S: Final = 2**31 - 1


def make_typestore() -> Typestore:
    """Create a store of all types in use; bags register further types in a copy."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(VISION_MSGS.glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'vision_msgs/msg/{path.stem}'))
    return store


TYPES: Final = make_typestore()


def from_cdr(cdr: bytes, type_name: str) -> Any:
    """
    Read a serialized message; arrays are views of `cdr`.

    :param cdr: CDR with its encapsulation header, of either byte order.
    :param type_name: `sensor_msgs/msg/Image`, for example.
    :return: the message, of a type in TYPES.
    """
    return TYPES.deserialize_cdr(memoryview(cdr), type_name)  # bytes would be copied


def to_cdr(message: Any) -> bytes:
    """
    Serialize a message for a publisher or a bag.

    :param message: a message of a type in TYPES.
    :return: CDR with its encapsulation header, little endian.
    """
    if message.__msgtype__ == IMAGE:
        return _image_to_cdr(message)
    return bytes(TYPES.serialize_cdr(message, message.__msgtype__))


def header(stamp_ns: int, frame_id: str = '') -> Any:
    """
    Create a header.

    :param stamp_ns: nanoseconds.
    :param frame_id: the camera's frame, or empty.
    :return: std_msgs/Header.
    :raises ValueError: if the seconds exceed the range of a message.
    """
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    if seconds > _LATEST_S:
        raise ValueError(f'a stamp of {seconds} s is beyond {_LATEST_S}, the last of ROS messages')
    stamp = TYPES.types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    return TYPES.types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)


def stamp_ns(message_header: Any) -> int:
    """
    Read a header's stamp.

    :param message_header: std_msgs/Header.
    :return: nanoseconds.
    """
    return int(message_header.stamp.sec) * 10**9 + int(message_header.stamp.nanosec)


def set_stamp(cdr: bytes, stamp_ns: int) -> bytes:
    """
    Set the stamp of a serialized message.

    :param cdr: little-endian message that starts with a header.
    :param stamp_ns: nanoseconds.
    :return: a copy.
    """
    start = len(_LITTLE_ENDIAN)
    stamp = _STAMP.pack(*divmod(stamp_ns, 10**9))
    return b''.join((cdr[:start], stamp, memoryview(cdr)[start + _STAMP.size :]))


def detections_to_cdr(message_header: Any, instruments: Sequence[Instrument]) -> bytes:
    """
    Serialize the detections message of an image.

    :param message_header: std_msgs/Header of the array and of each detection.
    :param instruments: the instruments found; `without_decision` if there is no decision.
    :return: CDR of vision_msgs/Detection2DArray; boxes in pixels; `class_id` and `id`, the track
        id, are decimal strings; `id` is empty without a track.
    """
    return _boxes_to_cdr(message_header, map(_box_of_instrument, instruments))


def keypoints_to_cdr(
    message_header: Any,
    instruments: Sequence[Instrument],
    geometries: Sequence[Geometry] | None,
    size: tuple[int, ...],
) -> bytes:
    """
    Serialize the keypoints message of an image.

    :param message_header: std_msgs/Header of the array and of each keypoint.
    :param instruments: the instruments found.
    :param geometries: the geometry of each instrument; None without a decision, where the message
        has the same entry as `detections`.
    :param size: (H, W) of the image in pixels.
    :return: CDR of vision_msgs/Detection2DArray; `id` is that of the instrument in `detections`,
        `class_id` one of KEYPOINT_LABELS, the centre in pixels, the size twice the standard
        deviation.
    """
    if geometries is None:
        return detections_to_cdr(message_header, without_decision((size[0], size[1])))
    points = (
        _box_of_keypoint(_name(instrument), point)
        for instrument, geometry in zip(instruments, geometries)
        for point in geometry.keypoints
    )
    return _boxes_to_cdr(message_header, points)


class _Box(NamedTuple):
    """
    An entry of a Detection2DArray.

    :param results: class and score of each.
    :param numbers: x and y of the centre, angle, width and height.
    :param name: its id.
    """

    results: Sequence[tuple[int, float]]
    numbers: tuple[float, float, float, float, float]
    name: str


def _box_of_instrument(instrument: Instrument) -> _Box:
    box = instrument.box
    pose = box.center_x_px, box.center_y_px, box.angle_rad
    results = [(instrument.label, instrument.score)]
    return _Box(results, (*pose, box.size_x_px, box.size_y_px), _name(instrument))


def _box_of_keypoint(name: str, point: Keypoint) -> _Box:
    flags = [(HIDDEN, point.is_hidden), (BEYOND_IMAGE, point.is_beyond)]
    results = [(int(point.kind), point.score), *((flag, 1.0) for flag, is_set in flags if is_set)]
    side = 2 * point.sigma_px
    return _Box(results, (point.x_px, point.y_px, point.angle_rad, side, side), name)


def _name(instrument: Instrument) -> str:
    return str(instrument.track_id) if instrument.track_id else ''


_LITTLE_ENDIAN: Final = b'\0\1\0\0'
"""Encapsulation header of CDR; what follows is aligned from its end."""

_STAMP: Final = struct.Struct('<iI')
_NUMBER: Final = struct.Struct('<d')
_NUMBERS: Final = struct.Struct('<5d')
_NO_POSE: Final = struct.pack('<43d', *(float(n == 6) for n in range(43)))
"""PoseWithCovariance: position, quaternion x, y, z, w and zero covariance, that is, unknown."""


def _boxes_to_cdr(message_header: Any, boxes: Iterable[_Box]) -> bytes:
    """
    Serialize a Detection2DArray.

    It may have a hundred entries of six nested messages. `rosbags` takes milliseconds for them.
    """
    stamp, frame_id = message_header.stamp, message_header.frame_id
    head = bytearray(_STAMP.pack(stamp.sec, stamp.nanosec) + _string(frame_id))
    _align(head, _LENGTH.size)
    out, count = head + _LENGTH.pack(0), 0
    for results, numbers, name in boxes:
        count += 1
        _align(out, _LENGTH.size)
        out += head
        out += _LENGTH.pack(len(results))
        for label, score in results:
            out += _string(str(label))
            _align(out, _NUMBER.size)
            out += _NUMBER.pack(score)
            out += _NO_POSE
        out += _NUMBERS.pack(*numbers)
        out += _string(name)
    _LENGTH.pack_into(out, len(head), count)
    return _LITTLE_ENDIAN + out


def _string(text: str) -> bytes:
    encoded = text.encode()
    return b'%b%b\0' % (_LENGTH.pack(len(encoded) + 1), encoded)


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def detections_3d_to_msg(message_header: Any, located: Sequence[LocatedInstrument]) -> Any:
    """
    Create the message of instruments in 3-D.

    :param message_header: std_msgs/Header of the first camera's image.
    :param located: the instruments, in that camera's rectified frame.
    :return: vision_msgs/Detection3DArray; x of each pose is along the shaft, and the rotation
        about it is arbitrary; the box is the tip, of size 0; `id` is that of `detections`.
    """
    detections = [_detection_3d(message_header, instrument) for instrument in located]
    return TYPES.types[DETECTIONS_3D](header=message_header, detections=detections)


def _detection_3d(message_header: Any, located: LocatedInstrument) -> Any:
    types, instrument = TYPES.types, located.instrument
    pose = _pose(located.tip_m.tolist(), turn_from_x(located.axis).tolist())
    hypothesis = types['vision_msgs/msg/ObjectHypothesisWithPose'](
        hypothesis=types['vision_msgs/msg/ObjectHypothesis'](
            class_id=str(instrument.label), score=located.score
        ),
        pose=types['geometry_msgs/msg/PoseWithCovariance'](
            pose=pose, covariance=located.covariance.ravel()
        ),
    )
    size = types['geometry_msgs/msg/Vector3'](x=0.0, y=0.0, z=0.0)
    box = types['vision_msgs/msg/BoundingBox3D'](center=pose, size=size)
    return types['vision_msgs/msg/Detection3D'](
        message_header, [hypothesis], box, _name(instrument)
    )


def camera_info_from_msg(message: Any) -> CameraInfo:
    """
    Convert a CameraInfo message.

    :param message: sensor_msgs/CameraInfo.
    :return: the calibration.
    """
    matrices = (np.array(values, np.float64) for values in (message.k, message.r, message.p))
    k, r, p = (matrix.reshape(3, -1) for matrix in matrices)
    size, roi = (message.height, message.width), message.roi
    is_part = max(message.binning_x, message.binning_y) > 1 or (
        roi.width > 0 and (roi.x_offset, roi.y_offset, roi.height, roi.width) != (0, 0, *size)
    )
    d = np.array(message.d, np.float64)
    return CameraInfo(size, message.distortion_model, d, k, r, p, is_part)


def camera_info_to_msg(message_header: Any, info: CameraInfo) -> Any:
    """
    Create the message of a camera's calibration.

    :param message_header: std_msgs/Header of the camera's image.
    :param info: the calibration of the whole images.
    :return: sensor_msgs/CameraInfo.
    """
    whole = TYPES.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    matrices = (matrix.ravel() for matrix in (info.d, info.k, info.r, info.p))
    return TYPES.types[CAMERA_INFO](message_header, *info.size, info.model, *matrices, 0, 0, whole)


def label_info_to_msg(time_ns: int) -> Any:
    """
    Create the message that names every number in masks, detections and keypoints.

    :param time_ns: now, in nanoseconds.
    :return: vision_msgs/LabelInfo.
    """
    vision_class = TYPES.types['vision_msgs/msg/VisionClass']
    names = {**LABELS, **KEYPOINT_LABELS}
    table = [vision_class(class_id=label, class_name=name) for label, name in names.items()]
    return TYPES.types[LABEL_INFO](header=header(time_ns), class_map=table, threshold=0.0)


def _image_to_cdr(message: Any) -> bytes:
    """Append the pixels, which are the last field, so that they are copied only once."""
    pixels = memoryview(message.data)
    empty = dataclasses.replace(message, data=_NO_PIXELS)
    rest = TYPES.serialize_cdr(empty, IMAGE)[: -_LENGTH.size]
    return b''.join((rest, _LENGTH.pack(len(pixels)), pixels))


def _pose(position: Sequence[float], orientation: Sequence[float]) -> Any:
    """Create a pose from x, y, z and a quaternion x, y, z, w."""
    types = TYPES.types
    return types['geometry_msgs/msg/Pose'](
        position=types['geometry_msgs/msg/Point'](*position),
        orientation=types['geometry_msgs/msg/Quaternion'](*orientation),
    )

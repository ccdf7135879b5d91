# SPDX-License-Identifier: Apache-2.0
"""Reads and writes bags with another library, independent of this package."""

from types import SimpleNamespace as Message

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer
from rosbags.typesys import Stores, get_typestore

from surgseg_ros.messages.serialization import IMAGE

IMAGES, TRUTHS = '/camera/image_raw', '/camera/ground_truth'


def write_independently(path, frames):
    """Write a bag with the other library."""
    definition, _ = get_typestore(Stores.ROS2_JAZZY).generate_msgdef(IMAGE, ros_version=2)
    with path.open('wb') as file, Writer(file) as writer:
        schema = writer.register_msgdef(IMAGE, definition)
        for number, (stamp, image, truth) in enumerate(frames):
            head = Message(
                stamp=Message(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=f'/eye {number}'
            )
            for topic, pixels, encoding in ((IMAGES, image, 'rgb8'), (TRUTHS, truth, 'mono8')):
                height, width = pixels.shape[:2]
                message = Message(
                    header=head, height=height, width=width, encoding=encoding, is_bigendian=0,
                    step=pixels.nbytes // height, data=pixels.tobytes(),
                )  # fmt: skip
                writer.write_message(topic, schema, message, log_time=stamp + 5_000 + number)
    return path


def read_independently(path):
    """Read a bag with the other library: topic to its messages."""
    found = {}
    with path.open('rb') as file:
        for _, channel, record, message in make_reader(
            file, decoder_factories=[DecoderFactory()]
        ).iter_decoded_messages():
            received = Message(received_ns=record.log_time, message=message)
            found.setdefault(channel.topic, []).append(received)
    return found

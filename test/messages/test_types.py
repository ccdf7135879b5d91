# SPDX-License-Identifier: Apache-2.0
"""The message types are exactly the public ones, compared by their REP-2011 hashes."""

from collections.abc import Iterator
from typing import Any

import pytest

from surgseg_ros.messages.serialization import CAMERA_INFO, TYPES, VISION_MSGS

HASHES = {
    'Detection2DArray': '214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968',
    'Detection2D': '0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea',
    'ObjectHypothesisWithPose': '41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc',
    'ObjectHypothesis': '51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90',
    'BoundingBox2D': '008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f',
    'Detection3DArray': '793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018',
    'Detection3D': 'ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b',
    'BoundingBox3D': 'bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698',
    'Pose2D': 'b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648',
    'Point2D': 'eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247',
    'LabelInfo': '3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783',
    'VisionClass': '1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a',
}

CAMERA_INFO_HASH = 'b3dfd68ff46c9d56c80fd3bd4ed22c7a4ddce8c8348f2f59c299e73118e7e275'


def test_every_message_file_is_compared_with_a_hash() -> None:
    assert {path.stem for path in VISION_MSGS.glob('*.msg')} == set(HASHES)


@pytest.mark.parametrize('name', HASHES)
def test_the_files_are_the_public_types(name: str) -> None:
    assert TYPES.hash_rihs01(f'vision_msgs/msg/{name}') == f'RIHS01_{HASHES[name]}'


def test_camera_info_is_the_public_type() -> None:
    assert TYPES.hash_rihs01(CAMERA_INFO) == f'RIHS01_{CAMERA_INFO_HASH}'


@pytest.fixture(scope='module')
def node() -> Iterator[Any]:
    rclpy = pytest.importorskip('rclpy', reason='there is no ROS 2 here')
    rclpy.init()
    node = rclpy.create_node('types')
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.mark.parametrize(
    ('package', 'name', 'type_hash'),
    [
        *(('vision_msgs', name, type_hash) for name, type_hash in HASHES.items()),
        ('sensor_msgs', 'CameraInfo', CAMERA_INFO_HASH),
    ],
)
def test_types_equal_those_of_ros(node: Any, package: str, name: str, type_hash: str) -> None:
    """Compare with the hash that DDS announces for a publisher of the type."""
    messages = pytest.importorskip(f'{package}.msg', reason='rosdep brings vision_msgs')
    publisher = node.create_publisher(getattr(messages, name), f'type_{name}', 1)
    try:
        (endpoint,) = node.get_publishers_info_by_topic(f'type_{name}')
        if not hasattr(endpoint, 'topic_type_hash'):
            pytest.skip('this ROS 2 has no type hashes')
        assert str(endpoint.topic_type_hash) == f'RIHS01_{type_hash}'
    finally:
        node.destroy_publisher(publisher)

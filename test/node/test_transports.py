# SPDX-License-Identifier: Apache-2.0
"""The topic of compressed images is selected as image_transport does; dVRK's is found too."""

import itertools

import pytest
import rclpy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from surgseg_ros.node.image_subscriber import choose_topic, describe_others, remedy_for_type

_NUMBERS = itertools.count()


class TopicGraph:
    """Cameras and the node under test in one context, so that there is no wait for discovery."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.namespace = f'/world_{next(_NUMBERS)}'
        self.cameras = self.node('cameras')

    def node(self, name, *remappings):
        arguments = [
            word for rule in remappings for word in ('-r', rule.replace('@', self.namespace))
        ]
        return rclpy.create_node(
            name,
            namespace=self.namespace,
            context=self.context,
            cli_args=['--ros-args', *arguments] if arguments else None,
        )

    def publish(self, topic, message_type):
        return self.cameras.create_publisher(message_type, topic, 1)

    def chosen(self, *remappings, topic='image', transport='compressed'):
        node = self.node('segmenter', *remappings)
        name = node.resolve_topic_name(choose_topic(node, topic, transport))
        return name.replace(self.namespace, '@')

    def reported(self, *remappings, topic='image', transport='compressed'):
        node = self.node('segmenter', *remappings)
        return describe_others(node, topic, transport).replace(self.namespace, '@')


@pytest.fixture
def graph():
    graph = TopicGraph()
    yield graph
    graph.cameras.destroy_node()
    rclpy.shutdown(context=graph.context)


@pytest.mark.parametrize(
    ('remappings', 'topic', 'name'),
    [
        ([], 'image', '@/image/compressed'),
        (['image:=@/camera/image_raw'], 'image', '@/camera/image_raw/compressed'),
        (['@/image:=@/camera/image_raw'], 'image', '@/camera/image_raw/compressed'),
        (['image:=camera/image_raw'], 'image', '@/camera/image_raw/compressed'),
        (['image:=@/camera/compressed'], 'image', '@/camera/compressed'),
        (['image/compressed:=@/jpegs'], 'image', '@/jpegs'),
        (['image/compressed:=@/jpegs', 'image:=@/camera/image_raw'], 'image', '@/jpegs'),
        (['image:=@/camera', '@/camera/compressed:=@/jpegs'], 'image', '@/jpegs'),
        ([], 'left/image_raw', '@/left/image_raw/compressed'),
        ([], 'left/image_raw/compressed', '@/left/image_raw/compressed'),
        ([], '~/image', '@/segmenter/image/compressed'),
    ],
)
def test_the_base_name_is_remapped_first_and_a_name_that_ends_in_compressed_is_kept(
    graph, remappings, topic, name
):
    assert graph.chosen(*remappings, topic=topic) == name


@pytest.mark.parametrize('topic', ['image', 'left/image_raw', 'image/compressed'])
def test_raw_images_are_received_on_the_given_name(graph, topic):
    graph.publish(f'{topic}/compressed', CompressedImage)
    assert graph.chosen(topic=topic, transport='raw') == f'@/{topic}'


def test_a_base_name_with_compressed_images_is_used_itself(graph):
    camera = graph.publish('image', CompressedImage)
    assert graph.chosen() == '@/image'
    graph.publish('image/compressed', CompressedImage)
    assert graph.chosen() == '@/image'
    graph.cameras.destroy_publisher(camera)
    assert graph.chosen() == '@/image/compressed'


def test_for_a_base_name_with_raw_images_the_compressed_topic_is_used(graph):
    graph.publish('camera/image_raw', Image)
    graph.publish('camera/image_raw/compressed', CompressedImage)
    remapping = 'image:=@/camera/image_raw'
    assert graph.chosen(remapping) == '@/camera/image_raw/compressed'
    raw = "'@/camera/image_raw' is published as sensor_msgs/msg/Image: set image_transport to raw"
    assert graph.reported(remapping) == raw


TO_RAW, TO_COMPRESSED = 'set image_transport to raw', 'set image_transport to compressed'


@pytest.mark.parametrize(
    ('published', 'message_type', 'topic', 'transport', 'remedy'),
    [
        ('image', Image, 'image', 'compressed', TO_RAW),
        ('image', CompressedImage, 'image', 'raw', TO_COMPRESSED),
        ('image/compressed', CompressedImage, 'image', 'raw', TO_COMPRESSED),
        ('image/compressed', CompressedImage, 'image/compressed', 'raw', TO_COMPRESSED),
        ('image', Image, 'image/compressed', 'raw', "set the topic to '@/image'"),
        (
            'image',
            Image,
            'image/compressed',
            'compressed',
            f"{TO_RAW} and set the topic to '@/image'",
        ),
        ('image', CompressedImage, 'image/compressed', 'compressed', "set the topic to '@/image'"),
        ('image', String, 'image', 'raw', 'remap the topic to one that carries images'),
        ('image', String, 'image', 'compressed', 'remap the topic to one that carries images'),
        ('image/zstd', CompressedImage, 'image', 'raw', "not support the transport 'zstd'"),
        ('image/compressedDepth', CompressedImage, 'image', 'compressed', "'compressedDepth'"),
        ('image/theora', Image, 'image', 'compressed', TO_RAW),
    ],
)
def test_another_published_transport_is_reported_with_a_remedy(
    graph, published, message_type, topic, transport, remedy
):
    graph.publish(published, message_type)
    reported = graph.reported(topic=topic, transport=transport)
    assert reported.startswith(f"'@/{published}' is published as ")
    assert remedy in reported


def test_neighboring_topics_that_are_not_images_are_not_reported(graph):
    graph.publish('image/camera_info', CameraInfo)
    graph.publish('image/note', String)
    graph.publish('other/image', Image)
    graph.cameras.create_subscription(Image, 'image', print, 1)
    assert not graph.reported()
    assert not graph.reported(transport='raw')


@pytest.mark.parametrize(
    ('type_name', 'transport', 'remedy'),
    [
        ('sensor_msgs/msg/Image', 'compressed', TO_RAW),
        ('sensor_msgs/msg/CompressedImage', 'raw', TO_COMPRESSED),
        ('std_msgs/msg/String', 'raw', 'remap the topic to one that carries images'),
    ],
)
def test_a_wrong_type_is_reported_with_a_remedy(type_name, transport, remedy):
    assert remedy_for_type(type_name, transport) == remedy

# SPDX-License-Identifier: Apache-2.0
"""Offline and live agree: what the node publishes of the demo bag is what evaluate_bag writes."""

import subprocess
import sys

import pytest
from bench import REPOSITORY, TopicRecorder, stamp_ns, until
from nodes import NodeHere
from sensor_msgs.msg import Image
from verbs import verb

from surgseg_ros.bags.reading import Bag
from surgseg_ros.messages.results import to_cdr
from tools.demo.source import IMAGE_TOPIC, make_scene_bag

main = verb('evaluate_bag')

MODEL = REPOSITORY / 'models/demo'
FRAMES = 24
"""Of the demo's sixty."""
SETTLE_S = 2  # both ends find each other; what came too early would be lost on its way


class Masks(TopicRecorder):
    """Masks by their stamps."""

    def __init__(self, bench):
        super().__init__()
        self.pixels = {}
        bench.node.create_subscription(Image, 'mask', self.hear, 10)

    def hear(self, message):
        self.pixels[stamp_ns(message)] = bytes(message.data)
        super().hear(message)


@pytest.fixture
def own_node():
    # However slow the machine is, it is not the age of masks that is asked about.
    own_node = NodeHere(model=str(MODEL), device='auto', stale_after_ms=600_000)
    yield own_node
    own_node.close()


def play(bag, own_node, rate, newest_ns):
    """Play a bag once; what came of it, the newest frame's mask too, which is never dropped."""
    masks = Masks(own_node.bench)
    player = subprocess.run(
        [
            *(sys.executable, '-m', 'surgseg_ros', 'bag_player', str(bag), '--wait'),
            *('--topics', IMAGE_TOPIC, '--delay', f'{SETTLE_S}', '--rate', f'{rate:.3f}'),
            *('--ros-args', '-r', f'{IMAGE_TOPIC}:={own_node.bench.namespace}/image'),
        ],
        cwd=REPOSITORY,
    )
    assert player.returncode == 0
    masks.wait_for_stamp(newest_ns)
    return masks


def step(bag, own_node):
    """Send each frame once the mask of the one before has come: none is dropped, however busy."""
    masks, camera = Masks(own_node.bench), own_node.bench.camera()
    own_node.bench.connect(camera, masks)
    with Bag(bag) as frames:
        for _, _, message in frames.read([IMAGE_TOPIC]):
            camera.publish(to_cdr(message))
            masks.wait_for_stamp(stamp_ns(message))
    return masks


def test_the_node_and_the_evaluation_agree_to_the_bit(tmp_path, own_node):
    source = make_scene_bag(tmp_path / 'bag', FRAMES)
    output = tmp_path / 'out.mcap'
    given = ['--model', MODEL, '--bag', source.bag, '--image-topic', IMAGE_TOPIC]
    given += ['--output', output, '--json', tmp_path / 'a.json']
    assert main([str(word) for word in given]) == 0
    with Bag(output) as bag:
        offline = {stamp_ns(m): bytes(m.data) for _, _, m in bag.read(['/mask'])}
    assert len(offline) == FRAMES

    until(lambda: own_node.bench.readers() != [], 'the node listens')
    hurried = play(source.bag, own_node, 1.5, max(offline))
    assert hurried.pixels
    assert hurried.pixels.items() <= offline.items()

    unhurried = step(source.bag, own_node)
    assert {stamp: unhurried.pixels.get(stamp) for stamp in offline} == offline

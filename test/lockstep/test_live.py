# SPDX-License-Identifier: Apache-2.0
"""Offline and live agree: what the node publishes of a bag is what its evaluation writes."""

import subprocess
import sys

import pytest
from bench import REPOSITORY, stamp_ns, until
from nodes import NodeHere
from sensor_msgs.msg import Image

from surgseg_ros.bags.reading import Bag

FRAMES = 30
SETTLE_S = 2  # both ends find each other; what came too early would be lost on its way


@pytest.fixture
def here(model):
    here = NodeHere(model=str(model))
    yield here
    here.close()


@pytest.mark.parametrize(('rate', 'all_come'), [(50, False), (0.5, True)])
def test_the_node_and_the_evaluation_agree_to_the_bit(
    tmp_path, write_bag, evaluate, here, rate, all_come
):
    bag_path = write_bag(tmp_path / 'bag', range(FRAMES if not all_come else 8))
    output = tmp_path / 'out.mcap'
    assert evaluate('--bag', bag_path, '--output', output, '--json', tmp_path / 'a.json') == 0
    with Bag(output) as bag:
        offline = {stamp_ns(m): bytes(m.data) for _, _, m in bag.read(['/mask'])}

    masks = here.bench.listen(Image, 'mask')
    until(lambda: here.bench.readers() != [], 'the node listens')
    player = subprocess.run(
        [
            *(sys.executable, '-m', 'surgseg_ros', 'bag_player', str(bag_path), '--wait'),
            *('--topics', '/camera/image_raw', '--delay', f'{SETTLE_S}', '--rate', f'{rate}'),
            *('--ros-args', '-r', f'/camera/image_raw:={here.bench.namespace}/image'),
        ],
        cwd=REPOSITORY,
    )
    assert player.returncode == 0
    masks.wait_for_stamp(max(offline))  # the newest frame is never dropped
    live = {stamp_ns(m): bytes(m.data) for m in masks.messages}
    assert live
    assert live.items() <= offline.items()
    if all_come:
        assert len(live) == len(offline)

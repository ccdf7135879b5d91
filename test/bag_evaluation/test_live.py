# SPDX-License-Identifier: Apache-2.0
"""The node publishes for the demo bag exactly what evaluate_bag writes."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from bench import REPOSITORY, TopicRecorder, stamp_ns, until
from nodes import NodeInProcess
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from verbs import verb
from vision_msgs.msg import Detection2DArray

from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import write_image_bag
from surgseg_ros.core.gates import GATES
from surgseg_ros.messages.images import image_from_msg
from surgseg_ros.messages.serialization import to_cdr
from tools.demo.source import IMAGE_TOPIC, make_scene_bag
from tools.gates.corruptions import Source, defocus, dim

main = verb('evaluate_bag')

MODEL = REPOSITORY / 'models/default'
FRAMES = 24
"""Number of frames, of the sixty in the demo."""
SPOILED = {4: (dim, 0.5), 5: (dim, 0.53), 9: (defocus, 0.9), 10: (defocus, 1.0)}
"""Frames in which the gates must find something, by index."""
STILL = (14, 15)
"""Frames that repeat the previous one."""
SOME = 18
"""Number of frames that suffices for every kind."""
TAKING_DECISIONS = {
    **{f'gates.{name}.action': 'no_decision' for name in GATES},
    'gates.frozen.action': 'warn',
    'gates.frozen.limit': 2.0,
    'min_confidence': 0.6,
    'steady_frames': 3,
}
LIMIT = 'the model was trained on synthetic scenes only'
"""The reason in the status of the node for every mask of this model."""
DISCOVERY_S = 2  # time for discovery; messages sent before would be lost


class Masks(TopicRecorder):
    """Records masks by their stamps."""

    def __init__(self, bench):
        super().__init__()
        self.pixels = {}
        bench.node.create_subscription(Image, 'mask', self.receive, 10)

    def receive(self, message):
        self.pixels[stamp_ns(message)] = bytes(message.data)
        super().receive(message)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return make_scene_bag(tmp_path_factory.mktemp('scene') / 'bag', FRAMES)


@pytest.fixture
def start():
    """Yield a function that starts the node with some parameters."""
    nodes = []

    def start(**parameters):
        # This test is not about the age of masks, which may be high on a slow machine.
        patience = {'device': 'auto', 'stale_after_ms': 600_000}
        nodes.append(NodeInProcess(model=str(MODEL), **patience, **parameters))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


def play(bag, own_node, rate, newest_ns):
    """Play a bag once; return the results, including the newest frame, which is never dropped."""
    masks = Masks(own_node.bench)
    player = subprocess.run(
        [
            *(sys.executable, '-m', 'surgseg_ros', 'bag_player', str(bag), '--wait'),
            *('--topics', IMAGE_TOPIC, '--delay', f'{DISCOVERY_S}', '--rate', f'{rate:.3f}'),
            *('--ros-args', '-r', f'{IMAGE_TOPIC}:={own_node.bench.namespace}/image'),
        ],
        cwd=REPOSITORY,
    )
    assert player.returncode == 0
    masks.wait_for_stamp(newest_ns)
    return masks


def step(bag, own_node, recorders=(), heard=lambda stamp: None):
    """Send each frame after all results of the previous one arrived, so that none is dropped."""
    masks, camera = Masks(own_node.bench), own_node.bench.camera()
    for recorder in (masks, *recorders):
        own_node.bench.connect(camera, recorder)
    with Bag(bag) as frames:
        for _, _, message in frames.read([IMAGE_TOPIC]):
            camera.publish(to_cdr(message))
            masks.wait_for_stamp(stamp_ns(message))
            heard(stamp_ns(message))
    return masks


def evaluate(bag, folder, *words):
    """Run the verb; return masks, detections and keypoints by stamp, and its entries of frames."""
    output, file = folder / 'out.mcap', folder / 'a.json'
    given = ['--model', MODEL, '--bag', bag, '--image-topic', IMAGE_TOPIC, *words]
    assert main([str(word) for word in (*given, '--output', output, '--json', file)]) == 0
    masks, detections, keypoints = {}, {}, {}
    found = {'/mask': masks, '/detections': detections, '/keypoints': keypoints}
    with Bag(output) as made:
        for topic, _, cdr in made.messages([*found]):
            message = deserialize_message(cdr, Image if topic == '/mask' else Detection2DArray)
            found[topic][stamp_ns(message)] = message
    (numbers,) = json.loads(file.read_text())['bags'].values()
    frames = {frame['stamp_ns']: frame for frame in numbers['over_time']}
    pixels = {stamp: bytes(mask.data) for stamp, mask in masks.items()}
    return pixels, detections, keypoints, frames


def test_the_node_and_the_evaluation_agree_exactly(tmp_path, source, start):
    offline, *_ = evaluate(source.bag, tmp_path)
    assert len(offline) == FRAMES

    own_node = start()
    until(lambda: own_node.bench.readers() != [], 'the node listens')
    hurried = play(source.bag, own_node, 1.5, max(offline))
    assert hurried.pixels
    assert hurried.pixels.items() <= offline.items()

    unhurried = step(source.bag, own_node)
    assert {stamp: unhurried.pixels.get(stamp) for stamp in offline} == offline


def spoil(bag, path):
    """Copy the images of a bag, making some of them dark, out of focus or frozen."""
    with Bag(bag) as frames:
        read = [(stamp_ns(m), image_from_msg(m).rgb) for _, _, m in frames.read([IMAGE_TOPIC])]
    images, rng = [], np.random.default_rng(0)
    for index, (_, image) in enumerate(read[:SOME]):
        if index in SPOILED:
            corrupt, severity = SPOILED[index]
            image = corrupt(Source(image, image), severity, rng)
        images.append(images[-1] if index in STILL else image)
    stamps = [stamp for stamp, _ in read]
    write_image_bag(path, zip(stamps, images, [None] * SOME), image_topic=IMAGE_TOPIC)
    return path


def status_reason(frame):
    """Convert what evaluate_bag reports for a frame to the reason in the status of the node."""
    undecided = frame['reason'] and f'no decision on an image: {frame["reason"]}'
    return '; '.join(filter(None, [LIMIT, undecided or '; '.join(frame['warnings'])]))


def wait_for_status(status, frame, since):
    """Wait until status reports for a frame what evaluate_bag reports."""
    stamp, wanted = frame['stamp_ns'], status_reason(frame)
    last_stamp = f'{stamp // 10**9}.{stamp % 10**9:09d}'

    def is_of_frame(message):
        values = {value.key: value.value for value in message.values}
        # The stamp is that of the last mask with a decision.
        is_its = frame['fate'] == 'undecided' or values['last_stamp'] == last_stamp
        return is_its and values['reason'] == wanted

    found = status.wait(is_of_frame, since=since)
    text = [message.values[0].value for message in status.messages[since:]]
    assert found, f'never {wanted!r} of {stamp}, but {text}'


def test_with_gates_filter_and_threshold_node_and_evaluation_agree(tmp_path, source, start):
    bag, file = spoil(source.bag, tmp_path / 'spoiled'), tmp_path / 'parameters.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': TAKING_DECISIONS}}))
    masks, detections, keypoints, frames = evaluate(bag, tmp_path, '--params-file', file)
    check_that_all_occurs(masks, frames)

    own_node = start(**TAKING_DECISIONS)
    bench = own_node.bench
    found, status = bench.listen(Detection2DArray, 'detections'), bench.status(depth=100)
    raw, points = bench.listen(Image, 'raw_mask'), bench.listen(Detection2DArray, 'keypoints')
    heard = [0]

    def wait_for_the_rest(stamp):
        found.wait_for_stamp(stamp)
        points.wait_for_stamp(stamp)
        wait_for_status(status, frames[stamp], heard[-1])
        heard.append(len(status.messages))

    live = step(bag, own_node, [found], wait_for_the_rest)
    assert {stamp: live.pixels.get(stamp) for stamp in masks} == masks
    seen = {stamp_ns(message): message for message in found.messages}
    assert {stamp: seen.get(stamp) for stamp in detections} == detections
    check_ids(detections)
    seen = {stamp_ns(message): message for message in points.messages}
    assert {stamp: seen.get(stamp) for stamp in keypoints} == keypoints
    assert any(len(message.detections) > 5 for message in keypoints.values())

    def was_filtered(mask):
        return bytes(mask.data) != live.pixels.get(stamp_ns(mask), bytes(mask.data))

    assert raw.wait(was_filtered), 'the filter has not changed any mask'


def check_ids(detections):
    """Check that instruments have ids, and keep them from one frame to the next."""
    ids = [
        {found.id for found in detections[stamp].detections} - {''} for stamp in sorted(detections)
    ]
    assert any(before & after for before, after in itertools.pairwise(ids))
    for message in detections.values():
        for found in message.detections:
            assert (found.id == '') == (found.results[0].hypothesis.class_id == '255')


def test_with_roi_mode_auto_node_and_evaluation_agree(tmp_path, source, start):
    bag = pillarbox(source.bag, tmp_path / 'pillarbox')
    masks, *_ = evaluate(bag, tmp_path, '--roi-mode', 'auto')
    shown = [np.frombuffer(masks[stamp], np.uint8) for stamp in sorted(masks)]
    outside = [(mask == 255).mean() for mask in shown]
    assert outside[0] == 0, 'one image does not confirm a border'
    assert outside[-1] == pytest.approx(0.25, abs=0.01)

    own_node = start(roi_mode='auto')
    live = step(bag, own_node)
    assert {stamp: live.pixels.get(stamp) for stamp in masks} == masks


def pillarbox(bag, path):
    """Copy the first images of a bag, with an eighth of each black on either side."""
    with Bag(bag) as frames:
        read = [(stamp_ns(m), image_from_msg(m).rgb) for _, _, m in frames.read([IMAGE_TOPIC])]
    stamps = [stamp for stamp, _ in read[:SOME]]
    images = [image.copy() for _, image in read[:SOME]]
    for image in images:
        border = image.shape[1] // 8
        image[:, :border] = image[:, -border:] = 0
    write_image_bag(path, zip(stamps, images, [None] * SOME), image_topic=IMAGE_TOPIC)
    return path


def check_that_all_occurs(masks, frames):
    """Check that the bag has frames of every kind; otherwise agreement would prove little."""
    ordered = [frames[stamp] for stamp in sorted(frames)]
    outcomes = {index: frame['fate'] for index, frame in enumerate(ordered)}
    undecided = {index for index, outcome in outcomes.items() if outcome == 'undecided'}
    assert undecided == set(SPOILED)
    assert set(outcomes.values()) == {'mask', 'undecided'}
    reasons = [ordered[index]['reason'] for index in SPOILED]
    assert len(set(reasons)) == len(SPOILED), (
        'otherwise the status may be that of the previous frame'
    )
    assert GATES['black'].problem in reasons[0]
    assert GATES['unfocused'].problem in reasons[-1]
    warned = [index for index, frame in enumerate(ordered) if frame['warnings']]
    assert set(STILL) <= set(warned) - undecided
    assert not set(range(min(SPOILED))) & set(warned)
    decided = [np.frombuffer(masks[frame['stamp_ns']], np.uint8)
               for frame in ordered if frame['fate'] == 'mask']  # fmt: skip
    assert any((mask == 255).any() for mask in decided), 'pixels below min_confidence'
    assert any(((mask > 0) & (mask < 255)).any() for mask in decided), 'instruments'

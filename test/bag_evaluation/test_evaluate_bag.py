# SPDX-License-Identifier: Apache-2.0
"""Errors and exit status of the verb `evaluate_bag`."""

import json
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from independent import IMAGES, TRUTHS
from mcap.writer import Writer

from surgseg_ros.bag_evaluation import evaluation
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.cli import evaluate_bag
from surgseg_ros.core import pipeline
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, header, to_cdr


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('--image-topic', '/left'), "'/left' is not in bag"),
        (('--image-topic', 'camera/image_raw'), "(did you mean '/camera/image_raw'?), which has"),
        (('--image-topic', '/text'), 'has type std_msgs/msg/Header, not an image type'),
        (('--output', 'there.mcap'), 'exists already'),
        (('--output', 'folder'), 'must end with .mcap'),
        (('--output', 'masks.db3'), 'must end with .mcap'),
        (('--json', '.'), 'a folder has this path'),
        (('--report', 'there.mcap'), 'there.mcap/report.html: Not a directory'),
        (('--device', 'tpu'), "device is 'tpu'"),
        (('--model', 'nowhere'), 'nowhere'),
        (('--ray', '127.0.0.1:1'), "no Ray cluster answers at '127.0.0.1:1'"),
    ],
)
def test_invalid_arguments_are_reported(
    tmp_path, frame, evaluate, capsys, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.mcap').touch()
    with BagWriter('bag') as bag:
        bag.write(IMAGES, IMAGE, image_to_msg(frame(1)[1], header(1)), 1)
        bag.write('/text', 'std_msgs/msg/Header', header(1), 1)
    given = ('--bag', 'bag', '--json', 'a.json', '--no-truth', *arguments)
    assert evaluate(*given) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / 'a.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('--bag', 'x', '--mask-topic', '/mask'), '--mask-topic needs --recorded'),
        (('--recorded', 'x'), '--recorded needs --mask-topic'),
        (('--recorded', 'x', '--mask-topic', '/m', '--output', 'o.mcap'), 'leave out'),
        (('--bag', 'x', '--ray', 'auto', '--workers', '2'), 'exclude each other'),
        (('--bag', 'x', '--tolerance-ms', '-1'), '0 or more'),
        (('--bag', 'x', '--image-topic', '/camera/ground_truth'), 'are on different topics'),
        (('--bag', 'x', '--roi', '0', '0', '-5', '9'), '--roi 0 0 -5 9 is not a part of an image'),
    ],
)
def test_conflicting_arguments_are_reported(evaluate, capsys, arguments, expected):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments, '--json', 'a.json')
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_an_interruption_is_reported_in_one_line(
    tmp_path, write_bag, evaluate, capsys, monkeypatch
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_bag, 'run', interrupt)
    bag = write_bag(tmp_path / 'bag', range(1))
    assert evaluate('--bag', bag, '--json', tmp_path / 'a.json') == 130
    assert capsys.readouterr().err.startswith('evaluate_bag: interrupted; ')


def raw(encoding, channels):
    """Return a function that makes an Image of an unsupported encoding."""

    def make(image, head):
        pixels = image[..., :channels].ravel()
        return TYPES.types[IMAGE](
            header=head, height=48, width=80, encoding=encoding, is_bigendian=0,
            step=80 * channels, data=pixels,
        )  # fmt: skip

    return make


def packed(text, encode):
    """Return a function that makes a CompressedImage of unsupported format or data."""

    def make(image, head):
        data = np.frombuffer(encode(image), np.uint8)
        return TYPES.types[COMPRESSED_IMAGE](header=head, format=text, data=data)

    return make


def webp(image):
    return cv2.imencode('.webp', image)[1].tobytes()


REJECTED = {
    '8UC3': (raw('8UC3', 3), "encoding: 2 times, first: image dropped: encoding '8UC3'"),
    '8UC1': (raw('8UC1', 1), "encoding: 2 times, first: image dropped: encoding '8UC1'"),
    'webp': (packed('webp', webp), 'decode: 2 times, first: '),
    'depth': (packed('16UC1; compressedDepth png', webp), 'encoding: 2 times, first: '),
    'empty': (packed('jpeg', lambda image: b''), 'decode: 2 times, first: '),
    'malformed': (lambda image, head: to_cdr(image_to_msg(image, head))[:60], 'cdr: 2 times'),
}
"""Invalid images, and the messages for two of them."""


@pytest.fixture
def write_rejected(frame):
    """Return a function that writes images of one kind, with their ground truth."""

    def write(path, make, numbers=range(2)):
        with BagWriter(path) as bag:
            for stamp, image, truth in map(frame, numbers):
                message = make(image, header(stamp))
                type_name = IMAGE if isinstance(message, bytes) else message.__msgtype__
                bag.write(IMAGES, type_name, message, stamp)
                bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp)
        return path

    return write


@pytest.mark.parametrize('arguments', [(), ('--no-truth',)])
@pytest.mark.parametrize(('make', 'expected'), REJECTED.values(), ids=REJECTED)
def test_if_every_image_is_rejected_nothing_is_written(
    tmp_path, write_rejected, evaluate, capsys, make, expected, arguments
):
    write_rejected(tmp_path / 'bag', make)
    targets = ('--output', tmp_path / 'new/out.mcap', '--json', tmp_path / 'a.json')
    more = ('--report', tmp_path / 'report', *arguments)
    assert evaluate('--bag', tmp_path / 'bag', *targets, *more) == 2
    error = capsys.readouterr().err
    assert f"bag 'bag' was not evaluated: topic '{IMAGES}' has 2 rejected images" in error
    assert expected in error
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


@pytest.mark.parametrize(('workers', 'images'), [(0, 3), (1, 4 * evaluation.BLOCKS)])
def test_if_the_network_fails_on_every_image_nothing_is_written(
    workers, images, tmp_path, write_bag, evaluate, capsys, monkeypatch
):
    monkeypatch.setattr(evaluation, '_workers', lambda device: workers)
    monkeypatch.setattr(pipeline, '_infer', lambda *_, **__: ValueError('no logits'))
    write_bag(tmp_path / 'bag', range(images))
    targets = ('--output', tmp_path / 'out.mcap', '--json', tmp_path / 'a.json')
    assert evaluate('--bag', tmp_path / 'bag', *targets) == 2
    error = capsys.readouterr().err
    assert f'has {images} failed images; ValueError: {images} times, first: ' in error
    assert 'no logits' in error
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_a_roi_beyond_every_image_is_refused_before_the_network_runs(
    tmp_path, write_bag, evaluate, capsys, monkeypatch
):
    monkeypatch.setattr(evaluation, 'decided', None)
    write_bag(tmp_path / 'bag', range(3))
    targets = ('--output', tmp_path / 'out.mcap', '--json', tmp_path / 'a.json')
    assert evaluate('--bag', tmp_path / 'bag', *targets, '--roi', 0, 0, 2000, 2000) == 2
    error = capsys.readouterr().err
    assert f"topic '{IMAGES}' has no image that contains roi" in error
    assert 'reaches beyond the image of 80x48 pixels: set roi to' in error
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


@pytest.fixture
def write_mixed(frame):
    """Return a function that writes a bag whose first image is another one."""

    def write(path, first):
        with BagWriter(path) as bag:
            for stamp, image, truth in map(frame, range(3)):
                cdr = to_cdr(image_to_msg(image, header(stamp)))
                bag.write(IMAGES, IMAGE, first if stamp == frame(0)[0] else cdr, stamp)
                bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp)
        return path

    return write


SMALL = to_cdr(image_to_msg(np.zeros((20, 20, 3), np.uint8), header(1)))
FIRST = {'small': (SMALL, 'failed'), 'unreadable': (SMALL[:60], 'rejected')}


@pytest.mark.parametrize(('first', 'outcome'), FIRST.values(), ids=FIRST)
def test_one_image_that_contains_the_roi_is_enough(
    tmp_path, write_mixed, evaluate, first, outcome
):
    given = ('--bag', write_mixed(tmp_path / 'bag', first), '--json', tmp_path / 'a.json')
    assert evaluate(*given, '--roi', 0, 0, 60, 40) == 0
    (numbers,) = json.loads((tmp_path / 'a.json').read_text())['bags'].values()
    assert [x['fate'] for x in numbers['over_time']] == [outcome, 'mask', 'mask']


def test_the_reason_is_that_of_the_first_readable_image(tmp_path, write_mixed, evaluate, capsys):
    given = ('--bag', write_mixed(tmp_path / 'bag', SMALL[:60]), '--json', tmp_path / 'a.json')
    assert evaluate(*given, '--roi', 0, 0, 2000, 2000) == 2
    assert 'contains roi: ' in (error := capsys.readouterr().err)
    assert 'reaches beyond the image of 80x48 pixels: set roi to' in error


def test_a_false_size_is_not_an_error_of_the_roi(tmp_path, write_mixed, evaluate, capsys):
    first = TYPES.types[IMAGE](
        header=header(1), height=2**32 - 1, width=2**32 - 1, encoding='rgb8', is_bigendian=0,
        step=0, data=np.zeros(0, np.uint8),
    )  # fmt: skip
    given = ('--bag', write_mixed(tmp_path / 'bag', to_cdr(first)), '--json', tmp_path / 'a.json')
    assert evaluate(*given, '--roi', 0, 0, 2000, 2000) == 2
    error = capsys.readouterr().err
    assert 'reaches beyond the image of 80x48 pixels: set roi to' in error
    assert 'iterator' not in error


@pytest.mark.parametrize(('mode', 'is_refused'), [('auto', False), ('fixed', True)])
def test_only_a_fixed_roi_is_compared_with_the_images(tmp_path, write_bag, mode, is_refused):
    settings = pipeline.PipelineSettings(roi_mode=mode)
    options = Options(image_topic=IMAGES, pipeline=settings, roi=Roi(0, 0, 2000, 2000))
    with Bag(write_bag(tmp_path / 'bag', range(2))) as bag:
        refused = pytest.raises(BagError, match='no image that contains roi')
        with refused if is_refused else nullcontext():
            evaluation._check_roi(bag, options)


def test_a_single_valid_image_is_evaluated(tmp_path, frame, evaluate, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        for number in range(2):
            stamp, image, truth = frame(number)
            make = raw('8UC3', 3) if number else image_to_msg
            bag.write(IMAGES, IMAGE, make(image, header(stamp)), stamp)
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp)
    assert evaluate('--bag', tmp_path / 'bag', '--json', tmp_path / 'a.json') == 0
    found = json.loads((tmp_path / 'a.json').read_text())
    assert (found['frames'], found['rejected']) == (2, 1)
    assert "bag: 1 times, first: image dropped: encoding '8UC3'" in capsys.readouterr().err


@pytest.fixture
def without_images(tmp_path, frame):
    """Write a bag with a topic of images without messages, and ground truth."""
    writer = Writer(str(tmp_path / 'bag.mcap'))
    writer.start('ros2')
    text = TYPES.generate_msgdef(IMAGE, ros_version=2)[0].encode()
    schema = writer.register_schema(IMAGE, 'ros2msg', text)
    topics = [writer.register_channel(name, 'cdr', schema) for name in (IMAGES, '/mask', TRUTHS)]
    for stamp, _, truth in map(frame, range(2)):
        cdr = to_cdr(image_to_msg(truth, header(stamp)))
        writer.add_message(topics[-1], stamp, cdr, stamp)
    writer.finish()
    return tmp_path / 'bag.mcap'


@pytest.mark.parametrize('arguments', [('--bag',), ('--mask-topic', '/mask', '--recorded')])
def test_a_topic_without_messages_is_reported(
    tmp_path, without_images, evaluate, capsys, arguments
):
    assert evaluate(*arguments, without_images, '--json', tmp_path / 'a.json') == 2
    assert f"topic '{IMAGES}' has no images" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['bag.mcap']


def test_messages_of_other_encodings_are_not_damage(tmp_path, evaluate, capsys):
    writer = Writer(str(tmp_path / 'bag.mcap'))
    writer.start()
    schema = writer.register_schema('foxglove.RawImage', 'jsonschema', b'{}')
    writer.add_message(writer.register_channel(IMAGES, 'json', schema), 1, b'{}', 1)
    writer.finish()
    assert evaluate('--bag', tmp_path / 'bag.mcap', '--json', tmp_path / 'a.json') == 2
    error = capsys.readouterr().err
    assert (
        "holds messages in JSON of type 'foxglove.RawImage', which are not ROS messages" in error
    )


@pytest.mark.parametrize('workers', [1, 2])
def test_several_bags_some_of_them_without_images(
    tmp_path, write_bag, write_rejected, evaluate, capsys, workers
):
    write_bag(tmp_path / 'bags/good', range(2))
    make, text = REJECTED['8UC3']
    write_rejected(tmp_path / 'bags/bad', make)
    targets = ('--output', tmp_path / 'masks', '--json', tmp_path / 'a.json')
    assert evaluate('--bag', tmp_path / 'bags', *targets, '--workers', workers) == 1
    found = json.loads((tmp_path / 'a.json').read_text())
    assert list(found['bags']) == ['good']
    assert text in found['unreadable']['bad']
    assert "bad: bag 'bad' was not evaluated" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'masks').iterdir()] == ['good.mcap']


def test_several_bags_all_without_images(tmp_path, write_rejected, evaluate, capsys):
    for name, make in (('one', '8UC3'), ('two', 'webp')):
        write_rejected(tmp_path / 'bags' / name, REJECTED[make][0])
    targets = ('--output', tmp_path / 'masks', '--json', tmp_path / 'a.json')
    assert evaluate('--bag', tmp_path / 'bags', *targets) == 2
    error = capsys.readouterr().err
    assert "bag 'one' was not evaluated" in error
    assert "bag 'two' was not evaluated" in error
    assert [path.name for path in tmp_path.iterdir()] == ['bags']

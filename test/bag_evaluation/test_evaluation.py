# SPDX-License-Identifier: Apache-2.0
"""Each image is evaluated once and in order, as in the node, and every loss is reported."""

import errno
import hashlib
import itertools
import json

import cv2
import numpy as np
import pytest
from independent import IMAGES, TRUTHS, read_independently, write_independently
from made_videos import write_video

from surgseg_ros.bag_evaluation import evaluation, frames
from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.detections import find_instruments
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import read_frames
from surgseg_ros.evaluation.metrics import count_frame, summarize
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, header, to_cdr


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture
def independent(tmp_path, frame):
    return write_independently(tmp_path / 'in.mcap', map(frame, range(20)))


def head_of(received):
    head = received.message.header
    return head.stamp.sec, head.stamp.nanosec, head.frame_id


def test_reads_and_writes_bags_of_another_library(tmp_path, independent, evaluate, monkeypatch):
    output = tmp_path / 'out.mcap'
    assert evaluate('--bag', independent, '--output', output, '--json', tmp_path / 'a.json') == 0

    sent = read_independently(independent)[IMAGES]
    by_topic = read_independently(output)
    assert {topic: len(found) for topic, found in by_topic.items()} == {
        '/mask': 20, '/detections': 20, '/keypoints': 20, '/label_info': 1
    }  # fmt: skip
    pixels = hashlib.sha256()
    (labels,) = by_topic['/label_info']
    assert head_of(labels) == head_of(sent[0])
    for image, mask, found in zip(sent, by_topic['/mask'], by_topic['/detections'], strict=True):
        for answer in (mask, found):
            assert answer.received_ns == image.received_ns
            assert head_of(answer) == head_of(image)
        assert (mask.message.height, mask.message.width) == (48, 80)
        pixels.update(bytes(mask.message.data))
    names = {x.class_id: x.class_name for x in labels.message.class_map}
    assert names[5] == 'thread'
    with Bag(output) as bag:
        assert bag.is_latched('/label_info')
    assert read_json(tmp_path / 'a.json')['mask_sha256'] == pixels.hexdigest()

    monkeypatch.setattr(evaluation, '_workers', lambda device: 2)  # as with more cores
    again = tmp_path / 'again.mcap'
    assert evaluate('--bag', independent, '--output', again, '--json', tmp_path / 'b.json') == 0
    assert again.read_bytes() == output.read_bytes()
    first, second = (read_json(tmp_path / name) for name in ('a.json', 'b.json'))
    assert first['mask_sha256'] == second['mask_sha256']
    assert (first['score'], first['with_ground_truth']) == (second['score'], 20)


def test_results_are_the_same_with_processes_and_truths_far_behind(
    tmp_path, frame, evaluate, monkeypatch
):
    frames = [frame(number) for number in range(3 * evaluation.BLOCKS)]
    with BagWriter(tmp_path / 'bag') as bag:
        for stamp, image, _ in frames:
            bag.write(IMAGES, IMAGE, image_to_msg(image, header(stamp)), stamp)
        for stamp, _, truth in frames:
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp + 10**12)
    results = []
    for workers in (0, 1):
        monkeypatch.setattr(evaluation, '_workers', lambda device, workers=workers: workers)
        name = tmp_path / f'{workers}.json'
        given = ('--bag', tmp_path / 'bag', '--json', name, '--param', 'steady_frames:=3')
        assert evaluate(*given) == 0
        (numbers,) = read_json(name)['bags'].values()
        for key in ('latency_ms', 'elapsed_s'):
            del numbers[key]
        for over_time in numbers['over_time']:
            del over_time['ms']
        results.append(numbers)
    assert results[0] == results[1]
    assert results[0]['with_ground_truth'] == len(frames)


@pytest.mark.parametrize('last', [2, 5, 13])
def test_an_error_of_writing_ends_the_evaluation(
    tmp_path, write_bag, evaluate, monkeypatch, capsys, last
):
    """The first mask, one in the middle, or the last message of four images."""
    bag, count, write = (
        write_bag(tmp_path / 'in.mcap', range(4)),
        itertools.count(1),
        BagWriter.write,
    )

    def fail(*arguments):
        if next(count) == last:
            raise OSError(errno.ENOSPC, 'no space left')
        write(*arguments)

    monkeypatch.setattr(BagWriter, 'write', fail)
    output, numbers = tmp_path / 'out.mcap', tmp_path / 'a.json'
    assert evaluate('--bag', bag, '--output', output, '--json', numbers) == 2
    assert 'no space left' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['in.mcap']


def test_a_full_size_video_of_another_writer_gets_a_mask_for_each_image(tmp_path, evaluate):
    """As a da Vinci sends it: 1080 rows, with black borders."""
    video = write_video(tmp_path / 'clip.mp4', 5, size=(1920, 1080))
    truth = np.zeros((1080, 1920), np.uint8)
    frames = [(10**18 + n * 10**8, image, truth) for n, image in read_frames(video, range(5))]
    for _, image, _ in frames:
        image[:, :320] = image[:, -320:] = 0
    bag = write_independently(tmp_path / 'in.mcap', frames)
    hashes = []
    for name in ('first', 'second'):
        output, numbers = tmp_path / f'{name}.mcap', tmp_path / f'{name}.json'
        assert evaluate('--bag', bag, '--output', output, '--json', numbers) == 0
        hashes.append(read_json(numbers)['mask_sha256'])
    assert hashes[0] == hashes[1]
    images, masks = read_independently(bag)[IMAGES], read_independently(output)['/mask']
    assert len(masks) == 5
    for image, mask in zip(images, masks, strict=True):
        assert str(mask.message.header) == str(image.message.header)
        assert (mask.message.height, mask.message.width) == (1080, 1920)


def test_masks_and_scores_are_those_of_core_and_evaluation(
    tmp_path, frame, model, independent, evaluate
):
    output = tmp_path / 'out.mcap'
    options = ('--output', output, '--json', tmp_path / 'a.json', '--confidence')
    assert evaluate('--bag', independent, *options) == 0
    found = read_json(tmp_path / 'a.json')
    (numbers,) = found['bags'].values()
    segmenter = Segmenter.load(model)
    with Bag(output) as bag:
        masks = [message for _, _, message in bag.read(['/mask'])]
        confidences = [message for _, _, message in bag.read(['/confidence'])]
    counts = []
    for number, over_time in enumerate(numbers['over_time']):
        stamp, image, truth = frame(number)
        expected = segmenter.segment(image, confidence=True)
        assert np.array_equal(masks[number].data, expected.mask.ravel())
        assert np.array_equal(confidences[number].data, expected.confidence.ravel())
        counts.append(count_frame(truth, expected.mask))
        assert over_time['stamp_ns'] == stamp
        assert over_time['received_ns'] == stamp + 5_000 + number
        assert over_time['iou'] == counts[-1].iou.tolist()
        assert over_time['nsd'] == counts[-1].nsd.tolist()
        assert over_time['truth'] == [1 + number % 9]
        assert over_time['predicted'] == sorted({*np.unique(expected.mask).tolist()} - {0})
        assert over_time['confidence'] == expected.grid_confidence.mean
        assert over_time['confidence'] == pytest.approx(expected.confidence.mean() / 255, abs=0.01)
        labels = [instrument.label for instrument in find_instruments(expected)]
        assert over_time['instruments'] == labels
        assert over_time['no_decision'] == 0.0
    summary = summarize({'': counts})
    for key in ('mIoU', 'mNSD', 'score', 'floor', 'pooled_class_IoU', 'present_class_IoU'):
        assert numbers[key] == found[key] == summary[key]
    assert found['class_mIoU'] == summary['videos']['']['class_mIoU']
    assert (found['frames'], found['with_ground_truth'], found['dropped']) == (20, 20, 0)
    assert set(found['latency_ms']['network']) == {'p50', 'p95', 'p99'}
    assert found['model']['weights_sha256'] == segmenter.spec.weights_sha256
    assert list(found['bags']) == ['in.mcap']
    assert str(tmp_path) not in (tmp_path / 'a.json').read_text()


def test_rejects_or_does_not_decide_the_same_images_as_the_node(tmp_path, frame, evaluate, capsys):
    stamps = [frame(number)[0] for number in range(4)]
    small = np.zeros((20, 20, 3), np.uint8)  # smaller than the roi, so it fails
    with BagWriter(tmp_path / 'bag') as bag:
        for number, stamp in enumerate(stamps):
            image = small if number == 1 else frame(number)[1]
            cdr = to_cdr(image_to_msg(image, header(stamp, 'eye')))
            if number == 2:
                cdr = cdr[:60]
            bag.write(IMAGES, IMAGE, cdr, stamp)
            truth = np.zeros((20, 20), np.uint8) if number == 1 else frame(number)[2]
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp)
    options = ('--roi', 0, 0, 60, 40, '--output', tmp_path / 'out.mcap')
    assert evaluate('--bag', tmp_path / 'bag', *options, '--json', tmp_path / 'a.json') == 0

    (numbers,) = read_json(tmp_path / 'a.json')['bags'].values()
    assert [x['fate'] for x in numbers['over_time']] == ['mask', 'failed', 'rejected', 'mask']
    assert (numbers['frames'], numbers['failed'], numbers['rejected']) == (4, 1, 1)
    failed, rejected = numbers['over_time'][1:3]
    assert (failed['no_decision'], failed['instruments']) == (1.0, [255])
    assert failed['confidence'] is None
    assert rejected['predicted'] is None
    assert rejected['iou'] == [0.0] * 9  # the official score of a missing mask
    assert numbers['with_ground_truth'] == 4
    assert {x['cause']: x['count'] for x in numbers['troubles']} == {'ValueError': 1, 'cdr': 1}
    assert 'reaches beyond the image' in capsys.readouterr().err
    with Bag(tmp_path / 'out.mcap') as bag:
        masks = [message for _, _, message in bag.read(['/mask'])]
        found = [message for _, _, message in bag.read(['/detections'])]
    assert [message.header.stamp.nanosec for message in masks] == [0, 10**8, 3 * 10**8]
    assert set(masks[1].data) == {255}
    assert found[1].detections[0].results[0].hypothesis.class_id == '255'


def test_the_readable_part_of_a_damaged_bag_is_evaluated(tmp_path, write_bag, evaluate, capsys):
    file = write_bag(tmp_path / 'bag', range(150)) / 'bag.mcap'
    (tmp_path / 'cut.mcap').write_bytes(file.read_bytes()[:-500_000])
    status = evaluate('--bag', tmp_path / 'cut.mcap', '--json', tmp_path / 'a.json')

    (numbers,) = read_json(tmp_path / 'a.json')['bags'].values()
    assert status == 1
    assert 0 < numbers['frames'] < 150
    assert numbers['with_ground_truth'] in (numbers['frames'], numbers['frames'] - 1)
    assert 'missing' in numbers['damage']
    assert str(tmp_path) not in numbers['damage']
    assert 'missing' in capsys.readouterr().err


def test_truths_that_are_invalid_or_match_no_image_are_counted(tmp_path, frame, evaluate, capsys):
    base = frame(0)[0]
    png = cv2.imencode('.png', frame(3)[2])[1].reshape(-1)
    compressed = TYPES.types[COMPRESSED_IMAGE](header=header(base + 4), format='png', data=png)
    truths = [
        image_to_msg(frame(1)[2], header(0)),  # no stamp
        image_to_msg(frame(1)[2], header(base + 2)),  # the stamp of two images
        image_to_msg(frame(1)[2] + np.uint8(90), header(base + 1)),  # values that are not classes
        image_to_msg(frame(1)[2][:9], header(base)),  # another size
        image_to_msg(frame(1)[2], header(base + 99)),  # matches no image
    ]
    with BagWriter(tmp_path / 'bag') as bag:
        for number, stamp in enumerate([0, base, base + 1, base + 2, base + 2, base + 4]):
            image = image_to_msg(frame(number)[1], header(stamp))
            bag.write(IMAGES, IMAGE, image, base + number)
        for message in truths:
            bag.write('/raw', IMAGE, message, base + 50)
        bag.write(TRUTHS, COMPRESSED_IMAGE, compressed, base + 60)
    results = {}
    for topic in ('/raw', TRUTHS):
        given = ('--bag', tmp_path / 'bag', '--ground-truth-topic', topic)
        assert evaluate(*given, '--no-truth', '--json', tmp_path / 'a.json') == 0
        (results[topic],) = read_json(tmp_path / 'a.json')['bags'].values()

    assert results['/raw']['ground_truth'] == {
        'messages': 5, 'matched': 2, 'unmatched': 1, 'ambiguous': 2, 'unusable': 2
    }  # fmt: skip
    assert results['/raw']['with_ground_truth'] == 0
    assert results['/raw']['mIoU'] is None
    assert results['/raw']['frames_by_stamp'] == {'zero': 1, 'equal': 2, 'backward': 0}
    assert results[TRUTHS]['with_ground_truth'] == 1
    assert results[TRUTHS]['over_time'][5]['truth'] == [4]
    assert '2 of 5 truths are ambiguous' in capsys.readouterr().err


def test_a_truth_on_which_its_parser_fails_is_unusable(tmp_path, write_bag, evaluate, monkeypatch):
    def fail(_):
        raise KeyError('a bug')

    monkeypatch.setattr(evaluation, '_workers', lambda device: 0)  # processes lack the next line
    monkeypatch.setattr(frames, 'mask_from_msg', fail)
    bag, file = write_bag(tmp_path / 'bag', range(3)), tmp_path / 'a.json'
    assert evaluate('--bag', bag, '--runtime', 'torch', '--json', file) == 0
    (found,) = read_json(file)['bags'].values()
    assert (found['masks'], found['ground_truth']['unusable']) == (3, 3)
    assert "KeyError: 'a bug'" in found['troubles'][0]['first']


def test_without_ground_truth_there_are_masks_but_no_scores(tmp_path, write_bag, evaluate):
    bag = write_bag(tmp_path / 'bag', range(3))
    assert evaluate('--bag', bag, '--no-truth', '--json', tmp_path / 'a.json') == 0
    found = read_json(tmp_path / 'a.json')
    assert (found['frames'], found['with_ground_truth'], found['mIoU']) == (3, 0, None)
    assert found['ground_truth'] is None
    assert found['bags']['bag']['over_time'][0]['iou'] is None
    assert found['bags']['bag']['masks'] == 3


def test_the_report_shows_what_was_evaluated(tmp_path, write_bag, evaluate, capsys):
    bag, report = write_bag(tmp_path / 'operation', range(3)), tmp_path / 'report'
    numbers = ['--json', tmp_path / 'a.json', '--output', tmp_path / 'out.mcap']
    assert evaluate('--bag', bag, *numbers, '--report', report) == 0
    assert f'report: {report / "report.html"}' in capsys.readouterr().out
    page = (report / 'report.html').read_text()
    assert 'operation' in page
    assert page.count('data:image/') >= 3, 'input, truth and prediction of the worst frame'

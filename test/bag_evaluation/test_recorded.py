# SPDX-License-Identifier: Apache-2.0
"""Recorded masks of a node are scored by their stamps, and skipped images are reported."""

import json

import numpy as np
import pytest

from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.evaluation.metrics import count_frame, summarize
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import IMAGE, header, to_cdr

IMAGES, TRUTHS, MASKS = '/camera/image_raw', '/camera/ground_truth', '/mask'
LATE_NS = 30_000_000


@pytest.fixture
def predicted(frame):
    """Return a function that makes the mask of a frame number: the truth, shifted."""
    return lambda number: np.roll(frame(number)[2], 3, axis=1)


@pytest.fixture
def score(tmp_path, evaluate):
    def run(bag, status=0):
        given = ('--recorded', bag, '--mask-topic', MASKS, '--json', tmp_path / 'a.json')
        assert evaluate(*given) == status
        return json.loads((tmp_path / 'a.json').read_text())

    return run


def test_skipped_frames_latency_and_scores(tmp_path, frame, predicted, score):
    skipped = {2, 5}
    with BagWriter(tmp_path / 'bag') as bag:
        for number in range(8):
            stamp, image, truth = frame(number)
            head = header(stamp, 'eye')
            bag.write(IMAGES, IMAGE, image_to_msg(image, head), stamp + 7)
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, head), stamp + 8)
            if number not in skipped:
                late_ns = 7 + LATE_NS * (1 + number)
                bag.write(MASKS, IMAGE, image_to_msg(predicted(number), head), stamp + late_ns)
        stranger = image_to_msg(predicted(0), header(frame(77)[0]))
        bag.write(MASKS, IMAGE, stranger, frame(9)[0])
    found = score(tmp_path / 'bag')

    (numbers,) = found['bags'].values()
    assert (found['kind'], found['model']) == ('recorded', None)
    assert (found['frames'], found['dropped'], found['with_ground_truth']) == (8, 2, 8)
    assert (numbers['strangers'], numbers['masks']) == (1, 6)
    outcomes = [x['fate'] for x in numbers['over_time']]
    assert outcomes == ['dropped' if n in skipped else 'mask' for n in range(8)]
    late_ms = [30.0 * (1 + n) for n in range(8) if n not in skipped]
    assert found['latency_ms']['image_to_mask']['p50'] == pytest.approx(np.median(late_ms))
    counts = [count_frame(frame(n)[2], None if n in skipped else predicted(n)) for n in range(8)]
    of_masks = [count for count in counts if not count.missing]
    assert numbers['mIoU'] == summarize({'': counts})['mIoU']
    assert (
        numbers['score_of_masks'] == summarize({'': of_masks})['score'] == found['score_of_masks']
    )
    assert numbers['over_time'][2]['iou'] == [0.0] * 9


def test_ambiguous_and_invalid_masks_are_counted(tmp_path, frame, predicted, score):
    base = frame(0)[0]
    with BagWriter(tmp_path / 'bag') as bag:
        for number, stamp in enumerate([base, base + 1, base + 1, 0, base + 2, base + 3]):
            head = header(stamp)
            bag.write(IMAGES, IMAGE, image_to_msg(frame(number)[1], head), base + number)
            mask = predicted(number) if number else np.full((48, 80), 255, np.uint8)
            mask = mask[::2, ::2] if number == 5 else mask
            cdr = to_cdr(image_to_msg(mask, head))
            if number == 4:
                cdr = cdr[:99]
            bag.write(MASKS, IMAGE, cdr, base + 100 + number)
        for number, stamp in ((0, base), (5, base + 3)):
            bag.write(TRUTHS, IMAGE, image_to_msg(frame(number)[2], header(stamp)), base)
    found = score(tmp_path / 'bag')

    (numbers,) = found['bags'].values()
    outcomes = [x['fate'] for x in numbers['over_time']]
    assert outcomes == ['failed', 'dropped', 'dropped', 'dropped', 'rejected', 'rejected']
    assert numbers['strangers'] == 3
    assert numbers['frames_by_stamp'] == {'zero': 1, 'equal': 2, 'backward': 1}
    assert [problem['cause'] for problem in numbers['troubles']] == ['cdr', 'size']
    assert 'it has 40x24 pixels, its image has 80x48' in numbers['troubles'][1]['first']
    assert numbers['with_ground_truth'] == 2
    assert numbers['over_time'][5]['iou'] == [0.0] * 9


@pytest.mark.parametrize('case', ['none of a stamp', 'none readable'])
def test_if_no_mask_matches_an_image_nothing_is_scored(
    tmp_path, frame, predicted, evaluate, capsys, case
):
    with BagWriter(tmp_path / 'bag') as bag:
        for number in range(3):
            stamp, image, truth = frame(number)
            head = header(stamp)
            bag.write(IMAGES, IMAGE, image_to_msg(image, head), stamp)
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, head), stamp)
            late = header(stamp + 1) if case == 'none of a stamp' else head
            cdr = to_cdr(image_to_msg(predicted(number), late))
            bag.write(MASKS, IMAGE, cdr if late is not head else cdr[:99], stamp)
    given = ('--recorded', tmp_path / 'bag', '--mask-topic', MASKS, '--json', tmp_path / 'a.json')
    assert evaluate(*given) == 2
    text = {'none of a stamp': '3 dropped images', 'none readable': '3 rejected images; cdr: 3'}
    assert f"topic '{IMAGES}' has {text[case]}" in capsys.readouterr().err
    assert not (tmp_path / 'a.json').exists()


def test_masks_of_no_decision_are_counted_as_reported_by_the_node(tmp_path, frame, score):
    with BagWriter(tmp_path / 'bag') as bag:
        for number in range(2):
            stamp, image, truth = frame(number)
            bag.write(IMAGES, IMAGE, image_to_msg(image, header(stamp)), stamp)
            bag.write(TRUTHS, IMAGE, image_to_msg(truth, header(stamp)), stamp)
            mask = np.full_like(truth, 255)
            bag.write(MASKS, IMAGE, image_to_msg(mask, header(stamp)), stamp)
    assert score(tmp_path / 'bag')['failed'] == 2

# SPDX-License-Identifier: Apache-2.0
"""Masks and truths are matched in any order of arrival."""

import hashlib
import threading

import numpy as np
import pytest

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator, MaskBuffer, Scorer
from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.evaluation.metrics import count_frame


def mask(seed):
    return np.random.default_rng(seed).integers(0, 10, (12, 16), np.uint8)


def refuse(index, error):
    raise AssertionError(index) from error


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('truth_first', [True, False])
def test_each_pair_is_counted_in_either_order(truth_first, workers):
    with WorkerPool(workers) as pool:
        scorer = Scorer({*range(20)}, refuse, pool)
        for index in range(20):
            steps = [
                lambda index=index: scorer.record_truth(index, mask(index)),
                lambda index=index: scorer.record_mask(index, mask(index + 100)),
            ]
            for step in steps if truth_first else steps[::-1]:
                step()
        assert sorted(scorer.counts()) == list(range(20))
    for index, counts in scorer.counts().items():
        expected = count_frame(mask(index), mask(index + 100))
        assert np.array_equal(counts.confusion, expected.confusion)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_invalid_truth_is_reported_with_its_position(workers):
    refused = []
    with WorkerPool(workers) as pool:
        scorer = Scorer(
            {*range(20)}, lambda index, error: refused.append((index, str(error))), pool
        )
        for index in range(20):
            scorer.record_truth(index, mask(index)[:, index % 10 :])
            scorer.record_mask(index, mask(index))
        assert sorted(scorer.counts()) == [0, 10]
    assert [index for index, _ in refused] == [x for x in range(20) if x % 10]
    assert '15x12 pixels, the prediction 16x12' in refused[0][1]


def test_truths_at_the_end_of_a_recording():
    scorer = Scorer({*range(30)}, refuse)
    for index in range(30):
        scorer.record_mask(index, mask(index) if index else None)
    for index in range(30):
        scorer.record_truth(index, mask(index))
    assert [c.missing for c in scorer.counts().values()] == [True] + [False] * 29
    assert all(c.iou.mean() == 1 for c in list(scorer.counts().values())[1:])


def test_masks_that_wait_long_are_compressed():
    buffer = MaskBuffer()
    plain = np.zeros((500, 500), np.uint8)
    for index in range(100):
        buffer.put(index, plain + np.uint8(index % 10))
    raw = sum(kept.nbytes for kept in buffer._fresh.values())
    packed = sum(len(kept.data) for kept in buffer._packed.values())
    assert raw + packed < 12 * plain.nbytes
    assert all(buffer.take(index).max() == index % 10 for index in range(100))
    assert not buffer.holds(0)


def test_masks_without_a_truth_are_not_kept():
    scorer = Scorer({1}, refuse)
    scorer.record_mask(0, mask(0))
    scorer.record_mask(1, mask(1))
    assert not scorer._masks.holds(0)
    scorer.give_up(1)
    assert not scorer._masks.holds(1)


def test_a_finished_accumulator_has_no_thread():
    before = set(threading.enumerate())
    accumulator = FrameAccumulator(set())
    index = accumulator.add_frame(0, 0, 'mask', {})
    accumulator.record_mask(index, mask(0), np.zeros(256, np.int64))
    accumulator.finish()
    assert set(threading.enumerate()) <= before
    assert accumulator.mask_sha256 == hashlib.sha256(mask(0)).hexdigest()

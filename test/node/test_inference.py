# SPDX-License-Identifier: Apache-2.0
"""After an error of the machine: a retry, then smaller batches, then a fallback."""

import numpy as np
import pytest
import torch

from surgseg_ros.core.errors import describe, is_of_machine
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.node.worker import Inference, Input

OUT_OF_MEMORY = torch.OutOfMemoryError('no memory is left')
FULL = Segmentation(np.zeros((2, 2), np.uint8))


class FailingOnDemand:
    """A fake Segmenter: each call fails with the next error of a list, or succeeds."""

    max_batch_size = 2
    max_in_flight = 1

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = []

    def segment_all(self, images, rois, *, confidence, grid_confidence):
        self.calls.append(len(images))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return [FULL] * len(images)


class Fallback:
    def __init__(self, comes=True):
        self.comes, self.reported, self.reasons = comes, [], []

    def fall_back(self, error):
        self.reported.append(error)
        return self.comes

    def disable_batching(self, reason):
        self.reasons.append(reason)


def make_images(count):
    return [Input(np.zeros((2, 2, 3), np.uint8), None)] * count


@pytest.mark.parametrize(
    ('error', 'machine'),
    [
        (OUT_OF_MEMORY, True),
        (torch.AcceleratorError('the device is gone'), True),
        (RuntimeError('Exception from src/inference'), True),
        (MemoryError(), True),
        (type('RuntimeException', (Exception,), {'__module__': 'onnxruntime.capi.x'})(), True),
        (ValueError('the roi lies beyond it'), False),
        (ArithmeticError('NaN'), False),
    ],
)
def test_errors_of_the_machine_differ_from_errors_of_the_image(error, machine):
    assert is_of_machine(error) == machine


def test_advice_for_kernel_developers_is_omitted():
    lost = torch.AcceleratorError('CUDA error: it is gone\nCompile with `TORCH_USE_CUDA_DSA`')
    assert describe(lost) == 'AcceleratorError: CUDA error: it is gone'
    assert describe(RuntimeError('in infer.cpp:\nno')) == 'RuntimeError: in infer.cpp:\nno'


def test_a_single_failure_is_retried_successfully():
    segmenter, fallback = FailingOnDemand(OUT_OF_MEMORY), Fallback()
    assert Inference(segmenter, fallback).segment(make_images(1)) == [FULL]
    assert (segmenter.calls, fallback.reported) == ([1, 1], [])


def test_an_error_of_the_image_is_not_retried():
    error = ArithmeticError('NaN')
    segmenter, fallback = FailingOnDemand(error), Fallback()
    assert Inference(segmenter, fallback).segment(make_images(1)) == [error]
    assert (segmenter.calls, fallback.reported) == ([1], [])


def test_after_two_failures_a_fallback_is_requested_and_nothing_runs_until_it_is_ready():
    segmenter, fallback = FailingOnDemand(*[OUT_OF_MEMORY] * 9), Fallback()
    inference = Inference(segmenter, fallback)
    assert inference.segment(make_images(1)) == [OUT_OF_MEMORY]
    assert inference.segment(make_images(2)) == [OUT_OF_MEMORY] * 2
    assert (segmenter.calls, fallback.reported) == ([1, 1], [OUT_OF_MEMORY])


def test_without_a_fallback_each_image_is_tried():
    segmenter, fallback = FailingOnDemand(*[OUT_OF_MEMORY] * 2), Fallback(comes=False)
    inference = Inference(segmenter, fallback)
    assert inference.segment(make_images(1)) == [OUT_OF_MEMORY]
    assert inference.segment(make_images(1)) == [FULL]


def test_if_only_single_images_succeed_batching_is_disabled_and_reported():
    segmenter, fallback = FailingOnDemand(*[OUT_OF_MEMORY] * 2), Fallback()
    inference = Inference(segmenter, fallback)
    assert inference.segment(make_images(2)) == [FULL] * 2
    assert segmenter.calls == [2, 2, 1, 1]
    assert inference.max_batch_size == 1
    assert 'one at a time: OutOfMemoryError: no memory is left' in fallback.reasons[0]


def test_a_lost_device_is_not_tried_for_every_image_of_a_batch():
    segmenter, fallback = FailingOnDemand(*[OUT_OF_MEMORY] * 9), Fallback()
    assert Inference(segmenter, fallback).segment(make_images(2)) == [OUT_OF_MEMORY] * 2
    assert segmenter.calls == [2, 2, 1, 1]
    assert (len(fallback.reported), fallback.reasons) == (1, [])

# SPDX-License-Identifier: Apache-2.0
"""With images in flight, items and decisions are those of one image after another."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgseg_ros.bag_evaluation.frames import BagImage, Truth, decided
from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.processes import QUEUE_DEPTH
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.serialization import header

SETTINGS = PipelineSettings({'black': GateSetting('no_decision', 0.9)}, steady_frames=3)


class Network:
    """Its masks have the class in the first pixel; images with 9 there have none."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight, self.begun, self.largest = max_in_flight, 0, 0

    def segment(self, image, **_):
        if image[0, 0, 0] == 9:
            raise ArithmeticError('NaN')
        mask = np.full(image.shape[:2], image[0, 0, 0], np.uint8)
        return Segmentation(mask, np.full_like(mask, 200))

    def begin(self, images, rois, **_):
        self.begun += 1
        self.largest = max(self.largest, self.begun)

        def results():
            self.begun -= 1
            return (self.segment(images[0]),)

        return results


def item(number, value):
    if value < 0:
        return Truth(number, None)
    rgb = np.full((16, 20, 3), value, np.uint8)
    return BagImage(number, header(10**9 + number * 10**8, ''), rgb, {})


def described(found):
    if isinstance(found, Truth):
        return found
    decision = found.decision
    return found.received_ns, decision.mask.tobytes(), decision.code, decision.warnings


def run(network, values, settings=SETTINGS):
    items = (item(*pair) for pair in enumerate(values))
    return [described(x) for x in decided(items, network, CameraPipeline(settings))]


@given(st.lists(st.sampled_from([-1, -1, 0, 3, 5, 8, 9, 200]), max_size=25))
def test_order_and_decisions_do_not_depend_on_how_many_are_in_flight(values):
    alone, both = Network(1), Network(2)
    assert run(both, values) == run(alone, values)
    assert alone.largest == 0
    assert both.largest == min(2, sum(value >= 0 for value in values)) or -1 in values
    assert not both.begun


def test_with_roi_mode_auto_nothing_is_begun_early():
    settings = PipelineSettings(roi_mode='auto')
    network = Network(2)
    assert run(network, [3, 200, 5], settings) == run(Network(1), [3, 200, 5], settings)
    assert network.largest == 0


@pytest.mark.parametrize(('in_flight', 'largest'), [(1, 1), (2, QUEUE_DEPTH + 1)])
def test_only_a_few_items_wait_for_an_image(in_flight, largest):
    read = 0

    def items():
        nonlocal read
        for pair in enumerate([3, *[-1] * 50]):
            read += 1
            yield item(*pair)

    found = decided(items(), Network(in_flight), CameraPipeline())
    assert described(next(found))[0] == 0
    assert read == largest


def test_no_image_is_kept_by_an_error():
    gc.disable()
    try:
        images = [item(number, 9) for number in range(5)]
        kept = [weakref.ref(image.image) for image in images]
        taken = (images.pop(0) for _ in kept)
        found = decided(taken, Network(1), CameraPipeline())
        assert [next(found).decision.failed for _ in kept] == [True] * 5
        del found
        assert [reference() for reference in kept] == [None] * 5
    finally:
        gc.enable()

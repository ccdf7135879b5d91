# SPDX-License-Identifier: Apache-2.0
"""The model changes between two frames, or the old one stays and `status` reports why."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from bench import TIMEOUT_S, image_cdr, make_image, stamp_ns, until
from nodes import segmenter_attributes
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tiny_models import write_tiny_model

from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.self_test import add_self_test

PATIENT = {'stale_after_ms': 600_000, 'cpu_threads': 1}
WITHOUT_CONVERSION = {'runtime': 'torch', **PATIENT}


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """Return a model that gives other masks, with a self-test."""
    folder = write_tiny_model(tmp_path_factory.mktemp('other'), seed=7, name='other')
    add_self_test(folder)
    return folder


@pytest.fixture
def camera(start_node, model):
    return ConnectedCamera(start_node(model=str(model), **WITHOUT_CONVERSION))


class ConnectedCamera:
    """A connected camera, and recorders of what the node publishes."""

    def __init__(self, own_node):
        self.own_node, self.bench = own_node, own_node.bench
        self.mask, self.status = self.bench.listen(Image, 'mask'), self.bench.status()
        self._camera = self.bench.camera()
        self.bench.connect(self._camera, self.mask)

    def mask_of(self, pixels):
        sent_ns = self.bench.new_stamp_ns()
        self._camera.publish(image_cdr(pixels, sent_ns))
        return bytes(self.mask.wait_for_stamp(sent_ns).data)

    def next_mask(self):
        """Return the next mask; an image in flight during a change of the model gets none."""
        self.bench.connect(self._camera, self.mask)
        return bytes(self.mask.messages[-1].data)

    def reload(self):
        return self.bench.call(Trigger, 'segmenter/reload_model', Trigger.Request())

    def wait_for_reason(self, text, code='model_change_failed'):
        heard = self.status.wait(lambda m: text in m.values[0].value)
        assert heard, [m.values[0].value for m in self.status.messages]
        assert heard.message == 'degraded'
        assert code in heard.values[3].value.split(',')
        return heard.values[0].value


def expected(folder, runtime='torch'):
    return Segmenter.load(folder, 'cpu', runtime).segment(make_image()).mask.tobytes()


def test_a_new_model_is_loaded_in_the_background_while_the_old_one_works(start_node, model, other):
    """The new model is converted first, which takes seconds."""
    camera = ConnectedCamera(start_node(model=str(model), **PATIENT))
    old, new = (expected(folder, 'auto') for folder in (model, other))
    assert old != new
    assert camera.mask_of(make_image()) == old

    assert camera.bench.set(model=str(other)).successful

    masks = []
    until(lambda: masks.append(camera.next_mask()) or masks[-1] == new, 'the other model')
    assert set(masks) <= {old, new}
    assert camera.next_mask() == new
    reported = camera.status.wait(
        lambda m: m.message == 'valid' and m.values[2].value.startswith('other (')
    )
    assert 'self-test' not in reported.values[2].value
    assert 'inactive' not in {m.message for m in camera.status.messages[1:]}


def test_a_folder_that_is_not_a_model_is_rejected_and_the_reason_is_in_status(camera, model):
    refused = camera.bench.set(model='/no/such/folder')
    assert not refused.successful
    assert 'does not exist' in refused.reason
    assert 'does not exist' in camera.wait_for_reason("'/no/such/folder' was requested")
    assert camera.mask_of(make_image()) == expected(model)
    heard = len(camera.status.messages)
    assert camera.reload().success
    changed = camera.status.wait(lambda m: 'changed' in m.values[0].value, since=heard)
    assert changed.message == 'degraded', 'the last mask is from the previous model'
    assert changed.values[3].value == 'model_changed'
    camera.next_mask()
    camera.status.wait_for_state('valid', since=heard)


def wrong_weights(folder):
    weights = folder / 'weights.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])


def wrong_self_test(folder):
    spec = json.loads((folder / 'model.json').read_text())
    spec['self_test']['drawing'] ^= 1
    (folder / 'model.json').write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ('spoil', 'message'), [(wrong_weights, 'truncated'), (wrong_self_test, 'self-test of')]
)
def test_a_failed_change_keeps_the_old_model(camera, model, other, tmp_path, spoil, message):
    folder = shutil.copytree(other, tmp_path / 'spoiled')
    spoil(folder)
    assert camera.bench.set(model=str(folder)).successful, 'it is checked later'
    assert message in camera.wait_for_reason(f"'{folder}' was requested and cannot be used")
    answer = until(
        lambda: not (a := camera.reload()).message.startswith('another') and a, 'a turn'
    )
    assert not answer.success
    assert message in answer.message
    assert camera.mask_of(make_image()) == expected(model)

    shutil.copytree(other, folder, dirs_exist_ok=True)
    answer = camera.reload()
    assert answer.success
    assert answer.message.startswith('other (')
    assert camera.mask_of(make_image()) == expected(other)


def test_reload_without_a_loaded_model_reports_what_loads_it(camera):
    assert camera.bench.change('deactivate')
    assert camera.bench.change('cleanup')
    answer = camera.reload()
    assert (answer.success, answer.message) == (
        False, 'no model is in use: configure the node to load it',
    )  # fmt: skip


class OnThisDevice:
    """A fake Segmenter on a device that is out of memory, or on the CPU."""

    def __init__(self, device):
        vars(self).update(segmenter_attributes('fragile'))
        self._fails = device != 'cpu'

    def segment_all(self, images, rois, *, confidence, grid_confidence):
        if self._fails:
            raise torch.OutOfMemoryError('no memory is left')
        return [Segmentation(np.full((s := i.shape[:2]), 1, np.uint8), np.full(s, 255, np.uint8))
                for i in images]  # fmt: skip


def test_a_failing_device_is_replaced_by_the_cpu_and_masks_are_degraded(monkeypatch, start_node):
    devices, seen = [], threading.Event()

    def load(folder, device, *arguments, **more):
        devices.append(device)
        assert device != 'cpu' or seen.wait(TIMEOUT_S)
        return OnThisDevice(device)

    monkeypatch.setattr(Segmenter, 'load', load)
    bench = start_node(model='fragile', device='auto', **PATIENT).bench
    mask, status, camera = bench.listen(Image, 'mask'), bench.status(), bench.camera()
    bench.connect(camera, mask)
    assert set(mask.messages[-1].data) == {255}, 'no decision until the CPU is used'
    seen.set()

    def decided():
        bench.connect(camera, mask)
        return set(mask.messages[-1].data) == {1}

    until(decided, 'the CPU')
    assert devices == ['auto', 'cpu']
    status.wait_for_reason('degraded', 'no memory is left')
    until(lambda: 'runs on the CPU instead' in status.messages[-1].values[0].value, 'the reason')
    assert status.messages[-1].values[3].value == 'cpu_fallback'
    assert stamp_ns(mask.messages[-1]) > 0
    assert 'valid' not in {m.message for m in status.messages}

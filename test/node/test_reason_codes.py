# SPDX-License-Identifier: Apache-2.0
"""Each code of `reason_codes` can be produced, and docs/status.md lists them all."""

import io
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from bench import TIMEOUT_S, image_cdr, make_image, until
from nodes import segmenter_attributes
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import Image

from surgseg_ros.core.gates import GATES, WARN, GateSetting
from surgseg_ros.core.parameters import TABLE
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.results import InputFrame
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.encodings import color_layout
from surgseg_ros.messages.images import image_from_compressed
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, header
from surgseg_ros.node.freshness import (
    HEADER,
    Age,
    Generation,
    ResultPolicy,
    clock_warning,
    staleness,
)
from surgseg_ros.node.health import Health
from surgseg_ros.node.image_subscriber import ImageSubscriber
from surgseg_ros.node.model_slot import ModelSlot
from surgseg_ros.node.other_publishers import LISTED_DEAD_S, UNKNOWN_NAME, OtherPublishers
from surgseg_ros.node.parameters import Settings

MS = 10**6
STATUS_PAGE = (Path(__file__).parents[2] / 'docs' / 'status.md').read_text()

Coded = Iterable[Any]
"""Objects that each have a `code`."""


def decide(image: Any = None, stamps: Iterable[int] = (1,), **settings: Any) -> Coded:
    """Process an image for each stamp; return the warnings of the last."""
    pixels = make_image() if image is None else image
    pipeline = CameraPipeline(PipelineSettings(**settings))
    size = pixels.shape[:2]
    output = Segmentation(np.zeros(size, np.uint8), np.zeros(size, np.uint8))
    decisions = [pipeline.decide(InputFrame(pixels, stamp), output) for stamp in stamps]
    return decisions[-1].warnings


def gate(name: str) -> Coded:
    """Set a limit that every image exceeds."""
    low, high = GATES[name].span
    setting = GateSetting(WARN, high if GATES[name].below else low)
    return decide(stamps=(1, 2), gates={name: setting})


def failed_network() -> Coded:
    return CameraPipeline().decide(InputFrame(make_image()), ArithmeticError('NaN')).reasons


def unchecked_jpeg() -> Coded:
    """Make a JPEG of four channels with an uncommon subsampling."""
    buffer = io.BytesIO()
    PIL.Image.new('CMYK', (32, 32)).save(buffer, 'JPEG', subsampling=1)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    make = TYPES.types[COMPRESSED_IMAGE]
    return image_from_compressed(make(header=header(1), format='jpeg', data=data)).warnings


def watched(*events: Callable[[Health], None], at_ms: int = 0) -> Coded:
    """Activate a camera at 0 ms, apply events, and return the reasons at a time."""
    health = Health()
    health.activate(0)
    for event in events:
        event(health)
    return health.verdict(at_ms * MS, 500).reasons


def an_image(health: Health) -> None:
    health.record_arrival(MS)


def a_mask(health: Health) -> None:
    health.record_mask(MS, 1, {})


def subscriber(*published: Any, health: Health | None = None) -> ImageSubscriber:
    node = SimpleNamespace(
        resolve_topic_name=lambda topic: f'/{topic}',
        get_publishers_info_by_topic=lambda topic: list(published),
        get_topic_names_and_types=lambda: [],
    )
    return ImageSubscriber(
        node, 'image', 'raw', 'auto', [health or Health()], lambda *given: None, None
    )


def silent_camera() -> Coded:
    qos = SimpleNamespace(
        reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
    )
    info = SimpleNamespace(
        topic_type=IMAGE, node_name='camera', node_namespace='/', qos_profile=qos
    )
    return [subscriber(info).explain_silence()]


def two_cameras(health: Health) -> None:
    several = subscriber(health=health)
    several._publishers_seen = 2
    several._on_image(b'', {})


def another_publisher() -> Coded:
    other = SimpleNamespace(endpoint_gid=[7], node_name=UNKNOWN_NAME, node_namespace='')
    node = SimpleNamespace(
        get_fully_qualified_name=lambda: '/segmenter',
        resolve_topic_name=lambda topic: f'/{topic}',
        get_publishers_info_by_topic=lambda topic: [other],
        create_subscription=lambda *given, **more: None,
    )
    now_s = iter((0.0, LISTED_DEAD_S + 1))
    others = OtherPublishers(node, ['mask'], 'status', 'me', lambda: next(now_s))
    others.start()
    others.check()
    return [others.check()]


class Network:
    """A fake Segmenter; `segment_all` is for the test of the node."""

    def __init__(self, intended_use: str = 'research') -> None:
        vars(self).update(segmenter_attributes('a model'))
        self.spec.intended_use = intended_use

    def segment_all(self, images: Any, rois: Any, **more: Any) -> list[Segmentation]:
        sizes = [image.shape[:2] for image in images]
        return [Segmentation(np.zeros(s, np.uint8), np.full(s, 255, np.uint8)) for s in sizes]


def slot(intended_use: str = 'research', cpu_works: bool = True) -> ModelSlot:
    def load(folder: str, device: str, *arguments: Any, **more: Any) -> Network:
        if device == 'cpu' and not cpu_works:
            raise ValueError('no memory here either')
        return Network(intended_use)

    made = ModelSlot(
        SimpleNamespace(info=str, warning=str, error=str),
        Generation(),
        lambda limits: None,
        lambda: None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, 'load', load)
        made.fill(Settings.from_values({**{row.name: row.default for row in TABLE}, 'model': 'a'}))
        if not cpu_works or intended_use == 'falls back':
            assert made.fall_back(RuntimeError('the device is lost'))
            until(made.degraded_reasons, 'the end of the fallback')
    return made


def refused_change() -> Coded:
    made = slot()
    made.report_change_failure('/other', 'it does not exist')
    return made.degraded_reasons()


def single_images() -> Coded:
    made = slot()
    made.disable_batching('two at once fail')
    return made.degraded_reasons()


BY_HEADER = ResultPolicy(age_source=HEADER)

PRODUCED: dict[ReasonCode, Callable[[], Coded]] = {
    ReasonCode.NO_IMAGE_YET: watched,
    ReasonCode.STALE_CAMERA: lambda: watched(an_image, a_mask, at_ms=600),
    ReasonCode.NO_PUBLISHER: lambda: [subscriber().explain_silence()],
    ReasonCode.NOTHING_RECEIVED: silent_camera,
    ReasonCode.NO_MASK_YET: lambda: watched(an_image),
    ReasonCode.STALE_MASK: lambda: watched(
        a_mask, lambda health: health.record_arrival(550 * MS), at_ms=600
    ),
    ReasonCode.MODEL_DEMO: lambda: slot('demo').degraded_reasons(),
    ReasonCode.MODEL_SYNTHETIC: lambda: slot('synthetic').degraded_reasons(),
    ReasonCode.MODEL_CHANGED: lambda: watched(
        a_mask, lambda health: health.record_model_change(())
    ),
    ReasonCode.MODEL_CHANGE_FAILED: refused_change,
    ReasonCode.CPU_FALLBACK: lambda: slot('falls back').degraded_reasons(),
    ReasonCode.DEVICE_FAILED: lambda: slot(cpu_works=False).degraded_reasons(),
    ReasonCode.BATCHING_DISABLED: single_images,
    ReasonCode.TWO_CAMERAS: lambda: watched(two_cameras, a_mask),
    ReasonCode.TWO_PUBLISHERS: another_publisher,
    ReasonCode.COLOR_LOST: lambda: color_layout('rgb8; jpeg compressed mono8', True).warnings,
    ReasonCode.COLOR_ORDER: lambda: color_layout('rgb8; jpeg compressed', False).warnings,
    ReasonCode.JPEG_NOT_CHECKED: unchecked_jpeg,
    ReasonCode.STAMP_ZERO: lambda: decide(stamps=(0,)),
    ReasonCode.STAMP_REPEATED: lambda: decide(stamps=(5, 5)),
    ReasonCode.CLOCKS_DIFFER: lambda: [clock_warning(Age(0, -1), BY_HEADER)],
    ReasonCode.TOO_OLD: lambda: [staleness(Age(501, 0), ResultPolicy())],
    ReasonCode.PROCESSING_FAILED: failed_network,
    ReasonCode.LOW_CONFIDENCE: lambda: decide(min_confidence=0.5),
    **{entry.code: lambda name=name: gate(name) for name, entry in GATES.items()},
}
"""How to produce each code without ROS."""

OVER_DDS = {
    *(ReasonCode.NOT_CONFIGURED, ReasonCode.CONFIGURING, ReasonCode.NOT_ACTIVE),
    *(ReasonCode.TRANSITION_FAILED, ReasonCode.SHUT_DOWN, ReasonCode.IMAGE_REJECTED),
}


@pytest.mark.parametrize('code', PRODUCED, ids=lambda code: code.value)
def test_each_code_can_be_produced(code):
    assert [reason.code for reason in PRODUCED[code]()] == [code]


def test_every_code_can_be_produced():
    assert PRODUCED.keys() | OVER_DDS == set(ReasonCode)
    assert not PRODUCED.keys() & OVER_DDS


def test_codes_of_the_life_cycle_and_of_a_rejected_image_are_in_status(start_node, monkeypatch):
    heard = threading.Event()

    def load(*arguments, **more):
        assert heard.wait(TIMEOUT_S)
        return Network()

    monkeypatch.setattr(Segmenter, 'load', load)
    bench = start_node(model='').bench
    status = bench.status()

    def wait_for(code):
        assert status.wait(lambda message: codes_of(message) == [code.value]), code

    wait_for(ReasonCode.TRANSITION_FAILED)
    assert bench.set(model='a model', stale_after_ms=600_000).successful
    _, configured = bench.change_async('configure')
    wait_for(ReasonCode.CONFIGURING)
    heard.set()
    assert configured.wait(TIMEOUT_S)
    wait_for(ReasonCode.NOT_ACTIVE)
    assert bench.change('activate')
    wait_for(ReasonCode.NO_IMAGE_YET)
    camera = bench.camera()
    bench.connect(camera, bench.listen(Image, 'mask'))
    camera.publish(image_cdr(make_image(), 1)[:-1])
    wait_for(ReasonCode.IMAGE_REJECTED)
    for step in ('deactivate', 'cleanup'):
        assert bench.change(step)
    wait_for(ReasonCode.NOT_CONFIGURED)
    assert bench.change('shutdown')
    wait_for(ReasonCode.SHUT_DOWN)


def codes_of(status):
    (text,) = (value.value for value in status.values if value.key == 'reason_codes')
    return text.split(',') if text else []


def test_the_docs_list_every_code_with_its_explanation():
    section = STATUS_PAGE.split('## Reason codes')[1].split('\n## ')[0]
    rows = re.findall(r'^\| `(\w+)` \| (.*?) \|', section, re.MULTILINE)
    assert rows == [(code.value, code.explanation) for code in ReasonCode]


@pytest.mark.parametrize('code', ReasonCode, ids=lambda code: code.value)
def test_codes_are_unique_and_explained_in_a_sentence(code):
    assert re.fullmatch(r'[a-z]+(_[a-z]+)*', code.value)
    assert code.value == code.name.lower()
    assert ReasonCode(code.value) is code
    assert re.fullmatch(r'[A-Z][^|]*\.', code.explanation)
    assert Reason(code, 'text').code is code

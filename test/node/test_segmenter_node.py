# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for a frame, and its status; over DDS, in this process."""

import cv2
import numpy as np
import pytest
from bench import FRAME_ID, image_cdr, make_image, stamp_ns, until
from rclpy.duration import Duration
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from tiny_models import write_tiny_model
from vision_msgs.msg import Detection2DArray

from surgseg_ros.core.detections import find_instruments, instance_image
from surgseg_ros.core.geometry import Distance, Distances, find_geometries
from surgseg_ros.core.model_folder import DEFAULT_MODEL, find_model, read_spec
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.serialization import TYPES, header, to_cdr
from surgseg_ros.node import outputs

FRESH = 600_000
PATIENT = {'stale_after_ms': FRESH, 'cpu_threads': 1}


@pytest.fixture
def start(start_node, model):
    """Start the node with the tiny model; a slow machine must not make it stale."""
    return lambda *arguments, **more: start_node(
        *arguments, **{'model': str(model), **PATIENT, **more}
    )


@pytest.fixture(scope='module')
def segment(model):
    return Segmenter.load(model, 'cpu').segment


def pixels_of(message: Image) -> np.ndarray:
    shape = (message.height, message.width, -1)
    return np.frombuffer(message.data, np.uint8).reshape(shape).squeeze()


def test_results_are_exact_and_carry_the_header(start, segment):
    bench = start().bench
    mask, found = bench.listen(Image, 'mask'), bench.listen(Detection2DArray, 'detections')
    confidence = bench.listen(Image, 'confidence')
    camera = bench.camera()
    bench.connect(camera, mask)
    for seed, size in enumerate([(48, 80), (61, 37), (1, 1), (480, 640)]):
        pixels, sent_ns = make_image(seed, *size), bench.new_stamp_ns()
        camera.publish(image_cdr(pixels, sent_ns))
        expected = segment(pixels, confidence=True)
        message = mask.wait_for_stamp(sent_ns)
        assert message.header.frame_id == FRAME_ID
        assert (message.encoding, message.height, message.width) == ('mono8', *size)
        assert np.array_equal(pixels_of(message), expected.mask.squeeze())
        sure = pixels_of(confidence.wait_for_stamp(sent_ns))
        assert np.array_equal(sure, expected.confidence.squeeze())
        detections = found.wait_for_stamp(sent_ns)
        assert detections.header.frame_id == FRAME_ID
        labels = [d.results[0].hypothesis.class_id for d in detections.detections]
        assert labels == [str(i.label) for i in find_instruments(expected)]


def test_instances_and_keypoints_match_the_detections(start, segment):
    bench = start().bench
    found, points = (
        bench.listen(Detection2DArray, topic) for topic in ('detections', 'keypoints')
    )
    instances = bench.listen(Image, 'instances')
    camera = bench.camera()
    bench.connect(camera, found)
    pixels, sent_ns = make_image(3, 480, 640), bench.new_stamp_ns()
    camera.publish(image_cdr(pixels, sent_ns))
    expected = segment(pixels, grid_confidence=True)
    instruments = find_instruments(expected)
    geometries = find_geometries(instruments, expected.mask)
    drawn = instances.wait_for_stamp(sent_ns)
    assert drawn.header.frame_id == FRAME_ID
    np.testing.assert_array_equal(pixels_of(drawn), instance_image(instruments, expected.mask))
    message = points.wait_for_stamp(sent_ns)
    assert message.header.frame_id == FRAME_ID
    heard = [(point.id, point.results[0].hypothesis.class_id) for point in message.detections]
    ids = [detection.id for detection in found.wait_for_stamp(sent_ns).detections]
    assert len({int(number) for number in ids}) == len(instruments)
    assert heard == [
        (number, str(int(point.kind)))
        for number, geometry in zip(ids, geometries, strict=True)
        for point in geometry.keypoints
    ]
    assert heard


def test_another_activation_starts_new_tracks(start):
    bench = start().bench
    found, camera = bench.listen(Detection2DArray, 'detections'), bench.camera()

    def ids():
        bench.connect(camera, found)
        heard = []
        for _ in range(2):
            sent_ns = bench.new_stamp_ns()
            camera.publish(image_cdr(make_image(3, 480, 640), sent_ns))
            detections = found.wait_for_stamp(sent_ns).detections
            heard.append([int(detection.id) for detection in detections])
        return heard

    first, again = ids()
    assert first == again
    assert bench.change('deactivate')
    assert bench.change('activate')
    afresh, _ = ids()
    assert len(afresh) == len(first)
    assert min(afresh) > max(first)


def test_distances_are_published_if_enabled(start, monkeypatch):
    found = {'distances': Distances(Distance(12.34, 2.0, 0, 1), None)}
    monkeypatch.setattr(outputs, 'min_distances', lambda *_: found['distances'])
    bench = start(report_distances=True).bench
    mask, diagnostics, camera = bench.listen(Image, 'mask'), bench.diagnostics(), bench.camera()
    bench.connect(camera, mask)

    def send():
        sent_ns = bench.new_stamp_ns()
        camera.publish(image_cdr(make_image(3, 480, 640), sent_ns))
        assert mask.wait_for_stamp(sent_ns)
        return len(diagnostics.messages)

    reported = {'needle_to_tip_px': '12.3', 'needle_to_tip_sigma_px': '2.0'}.items()
    since = send()
    assert diagnostics.wait(lambda part: reported <= part.numbers.items(), since=since)
    found['distances'] = Distances(None, None)
    since = send()
    assert diagnostics.wait(lambda part: 'needle_to_tip_px' not in part.numbers, since=since)


def test_an_error_in_finding_keypoints_is_no_decision_but_keeps_the_mask(start, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError('of a test')

    monkeypatch.setattr(outputs, 'find_geometries', fail)
    bench = start().bench
    mask, points = bench.listen(Image, 'mask'), bench.listen(Detection2DArray, 'keypoints')
    camera = bench.camera()
    bench.connect(camera, mask)
    sent_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(make_image(3, 480, 640), sent_ns))
    assert mask.wait_for_stamp(sent_ns)
    (point,) = points.wait_for_stamp(sent_ns).detections
    assert point.results[0].hypothesis.class_id == '255'


def test_outputs_without_subscribers_are_not_computed(start, monkeypatch):
    made = []

    def spy(pixels, message_header):
        made.append(pixels.ndim)
        return image_to_msg(pixels, message_header)

    image_to_msg = outputs.image_to_msg
    monkeypatch.setattr(outputs, 'image_to_msg', spy)
    bench = start().bench
    mask, camera = bench.listen(Image, 'mask'), bench.camera()
    bench.connect(camera, mask)
    assert set(made) == {2}
    assert len(made) == len(mask.messages), 'only masks are computed'
    overlay = bench.listen(Image, 'overlay')
    while not overlay.wait(timeout_s=0.2):
        bench.connect(camera, mask)
    drawn = overlay.messages[0]
    assert (drawn.encoding, drawn.height, drawn.width) == ('rgb8', 48, 80)
    assert drawn.header == mask.wait_for_stamp(stamp_ns(drawn)).header
    bench.stop_listening(overlay)

    def draws_nothing():
        before = made.count(3)
        bench.connect(camera, mask)
        return made.count(3) == before

    until(draws_nothing, 'the node to notice')


def test_the_overlay_can_be_disabled(start):
    bench = start(overlay=False).bench
    until(lambda: bench.node.count_publishers('mask') == 1, 'the outputs')
    assert bench.node.count_publishers('overlay') == 0


def test_status_reports_whether_masks_can_be_used(start):
    bench = start().bench
    status = bench.status()
    stale = status.wait_for_state('stale')
    assert (stale.level, stale.values[0].value) == (b'\x03', 'no image has arrived yet')
    mask, camera = bench.listen(Image, 'mask'), bench.camera()
    bench.connect(camera, mask)
    assert status.wait_for_state('valid').level == b'\x00'
    last = mask.messages[-1].header.stamp
    stamp = f'{last.sec}.{last.nanosec:09d}'
    values = status.wait(lambda m: m.values[1].value == stamp).values
    assert [value.key for value in values] == ['reason', 'last_stamp', 'model', 'reason_codes']
    assert (values[0].value, values[3].value) == ('', '')
    assert values[2].value.startswith('tiny (')
    heard = len(status.messages)
    assert bench.set(stale_after_ms=10).successful
    stale = status.wait_for_reason('stale', 'no image has arrived within 10 ms', since=heard)
    assert stale.values[3].value == 'stale_camera'


def test_status_is_offered_with_a_deadline(start):
    """A subscriber that requests a deadline receives nothing if none is offered."""
    bench = start().bench
    assert bench.status(deadline=Duration(seconds=1.5)).wait()


@pytest.mark.parametrize(
    ('intended_use', 'reason'), [('demo', 'demonstration'), ('synthetic', 'synthetic scenes only')]
)
def test_a_model_not_trained_on_surgery_is_never_better_than_degraded(
    start, tmp_path, intended_use, reason
):
    model = write_tiny_model(tmp_path, intended_use=intended_use)
    own_node = start(model=str(model), runtime='torch')
    bench = own_node.bench
    status = bench.status()
    bench.connect(bench.camera(), bench.listen(Image, 'mask'))
    degraded = status.wait_for_reason('degraded', reason)
    assert degraded.level == b'\x01'
    assert degraded.values[3].value == f'model_{intended_use}'
    other = write_tiny_model(tmp_path / 'other', 7, name='other', intended_use=intended_use)
    assert bench.set(model=str(other)).successful
    own_node.logs.wait_for_text('the model is now other')
    (advice,) = [x for x in own_node.logs.messages if f'(model_{intended_use})' in x]
    assert 'model:=FOLDER' in advice, 'reported once'
    assert 'valid' not in [message.message for message in status.messages]


def test_without_a_given_model_the_default_model_is_used(start_node):
    own_node = start_node(**PATIENT)
    spec = read_spec(find_model(DEFAULT_MODEL))
    status = own_node.bench.status()
    assert status.wait(lambda message: spec.weights_sha256[:12] in message.values[2].value)
    assert own_node.node.get_parameter('model').value == DEFAULT_MODEL


def test_values_of_diagnostics_are_texts_or_single_numbers(start):
    bench = start().bench
    diagnostics, mask = bench.diagnostics(), bench.listen(Image, 'mask')
    bench.connect(bench.camera(), mask)
    numbers = diagnostics.wait(lambda m: m.numbers.get('published', '0') != '0').numbers
    assert 'CPU' in numbers['device']
    texts = {'reason', 'reason_codes', 'model', 'device'}
    values = {key: float(text) for key, text in numbers.items() if key not in texts}
    assert values['received'] >= values['published']
    stages = ('transport', 'wait', 'parse', 'fit', 'network', 'upsample', 'model', 'download')
    stages += ('gates', 'postprocessing', 'publish', 'age')
    stages += ('detections', 'instruments', 'publish_others', 'detections_age')
    assert values.keys() == {
        *('in_hz', 'out_hz', 'last_stamp_s', 'received', 'published', 'lost_on_the_way'),
        *('overwritten_unread', 'dropped_for_newer', 'rejected', 'too_old', 'undecided'),
        *('no_decision_published', 'discarded', 'pairs', 'singles'),
        *(f'{stage}_{share}_ms' for stage in stages for share in ('p50', 'p95', 'p99')),
    }
    for stage in stages:
        assert values[f'{stage}_p50_ms'] <= values[f'{stage}_p95_ms'] <= values[f'{stage}_p99_ms']


def test_hardware_id_is_the_node_name_and_the_instance_differs_for_each_start(start):
    """Viewers group by the hardware id; the instance distinguishes nodes of the same name."""
    bench = start().bench
    part = bench.diagnostics().wait()
    assert part.hardware_id == part.name == f'{bench.namespace.lstrip("/")}/segmenter'
    instance = bench.status().wait().hardware_id
    assert instance not in ('', part.hardware_id)


def test_live_parameters_take_effect_and_others_are_refused_while_configured(start):
    bench = start().bench
    mask, found = bench.listen(Image, 'mask'), bench.listen(Detection2DArray, 'detections')
    camera = bench.camera()
    bench.connect(camera, mask)
    assert bench.set(least_area=1.0).successful
    sent_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(make_image(), sent_ns))
    assert list(found.wait_for_stamp(sent_ns).detections) == []
    refused = bench.set(roi=[0, 0, 8, 8])
    assert not refused.successful
    assert 'roi: can only be changed while the node is unconfigured' in refused.reason
    assert not bench.set(least_area=1.5).successful, 'out of range'
    assert not bench.set(stale_after_ms='soon').successful, 'of another type'
    assert bench.change('deactivate')
    assert bench.change('cleanup')
    assert bench.set(roi=[0, 0, 8, 8]).successful
    refused = bench.set(roi=[0, 0, 8, 0])
    assert 'roi is [0, 0, 8, 0]' in refused.reason


def test_outside_the_roi_is_no_decision(start, segment):
    own_node = start(roi=[16, 8, 40, 32])
    bench, pixels = own_node.bench, make_image()
    mask, camera = bench.listen(Image, 'mask'), bench.camera()
    bench.connect(camera, mask)
    expected = segment(pixels, roi=Roi(16, 8, 40, 32)).mask
    assert np.array_equal(pixels_of(mask.messages[-1]), expected)
    assert expected[0, 0] == 255
    camera.publish(image_cdr(pixels[:20], bench.new_stamp_ns()))
    assert 'reaches beyond the image of 80x20' in own_node.logs.wait_for_text('roi')
    bench.connect(camera, mask)


def test_images_with_implausible_stamps_are_processed_and_reported_once(start):
    own_node = start()
    bench = own_node.bench
    mask, camera = bench.listen(Image, 'mask'), bench.camera()
    bench.connect(camera, mask)
    heard = len(mask.messages)
    stamps = [0, 0, 10**9 * 500, 10**9 * 500, 10**9 * 400, 10**9 * 300, 10**9 * 300, -(10**9)]
    for number, sent_ns in enumerate(stamps, start=1):
        camera.publish(image_cdr(make_image(), sent_ns))
        until(lambda: len(mask.messages) == heard + number, f'mask {number}')  # noqa: B023
    assert [stamp_ns(message) for message in mask.messages[heard:]] == stamps
    for text in ('the stamp is zero', 'the same stamp', 'stamps go back'):
        own_node.logs.wait_for_text(text)
        assert len([line for line in own_node.logs.messages if text in line]) == 1, text


def test_the_size_of_images_may_change(start):
    own_node = start()
    bench = own_node.bench
    mask, camera = bench.listen(Image, 'mask'), bench.camera()
    bench.connect(camera, mask)
    for size in [(24, 32), (100, 20)]:
        sent_ns = bench.new_stamp_ns()
        camera.publish(image_cdr(make_image(0, *size), sent_ns))
        message = mask.wait_for_stamp(sent_ns)
        assert (message.height, message.width) == size
    assert 'from 80x48 to 32x24' in own_node.logs.wait_for_text('image size changed')


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
def test_compressed_images_are_segmented(start, segment, ending):
    bench = start(image_transport='compressed').bench
    mask = bench.listen(Image, 'mask')
    camera = bench.camera(message_type=CompressedImage)
    until(lambda: bench.readers() == [ReliabilityPolicy.RELIABLE], 'the node listens')
    data = cv2.imencode(ending, make_image()[..., ::-1])[1].reshape(-1)
    compressed = TYPES.types['sensor_msgs/msg/CompressedImage']
    while not mask.wait(timeout_s=0.5):
        message = compressed(header=header(bench.new_stamp_ns()), format='jpeg', data=data)
        camera.publish(to_cdr(message))
    expected = segment(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]).mask
    assert np.array_equal(pixels_of(mask.messages[0]), expected)


def test_two_cameras_do_not_wait_for_each_other(start):
    bench = start(image_topics=['l/image', 'r/image'], camera_names=['left', 'right']).bench
    masks = [bench.listen(Image, f'{channel}/mask') for channel in ('left', 'right')]
    left, right = bench.status('left/status'), bench.status('right/status')
    bench.connect(bench.camera('l/image'), masks[0])
    left.wait_for_state('valid')
    assert right.wait_for_state('stale')
    assert {message.message for message in right.messages} <= {'stale', 'inactive'}
    bench.connect(bench.camera('r/image'), masks[1])
    right.wait_for_state('valid')
    diagnostics = bench.diagnostics()
    for channel in ('left', 'right'):
        name = f'{bench.namespace[1:]}/segmenter: {channel}'
        assert diagnostics.wait(lambda part, name=name: part.name == name)


def test_without_a_simulated_clock_the_status_is_still_published(start):
    bench = start(use_sim_time=True).bench
    status, diagnostics = bench.status(), bench.diagnostics()
    until(lambda: len(status.messages) > 2 and len(diagnostics.messages) > 2, 'reports')
    mask = bench.listen(Image, 'mask')
    bench.connect(bench.camera(), mask)
    assert status.wait_for_state('valid').message == 'valid'


def test_both_halves_of_a_side_by_side_image_are_cameras(start, segment):
    """One topic named twice, each time with half of the image as roi, without stereo_layout."""
    halves = [0, 0, 80, 48, 80, 0, 80, 48]
    bench = start(
        image_topics=['image', 'image'], camera_names=['left', 'right'], roi=halves
    ).bench
    masks = [bench.listen(Image, f'{channel}/mask') for channel in ('left', 'right')]
    camera = bench.camera()
    both = [ReliabilityPolicy.RELIABLE] * 2
    until(lambda: bench.readers(camera.topic_name) == both, 'both cameras listen')
    pixels, sent_ns = make_image(3, 48, 160), 0
    while not all(mask.wait(lambda m, ns=sent_ns: stamp_ns(m) == ns, 1.0) for mask in masks):
        sent_ns = bench.new_stamp_ns()
        camera.publish(image_cdr(pixels, sent_ns))
    for index, mask in enumerate(masks):
        expected = segment(pixels, roi=Roi(80 * index, 0, 80, 48)).mask
        found = pixels_of(mask.wait_for_stamp(sent_ns))
        assert np.array_equal(found, expected)
        assert (found[:, 80 * (1 - index) : 80 * (1 - index) + 80] == 255).all()

# SPDX-License-Identifier: Apache-2.0
"""Instruments of bags, computed or recorded, written in folders for `evaluate --instruments`."""

import json

import numpy as np
import pytest
from verbs import verb

from surgseg_ros.bag_evaluation.findings import find
from surgseg_ros.bag_evaluation.frames import CompletedFrame, tracked
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.detections import instance_image
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.labels import HOLDER, THREAD
from surgseg_ros.core.pipeline import CameraPipeline, Decision, FrameResult, complete
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.evaluation.instrument_folders import read_frame
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import (
    DETECTIONS,
    IMAGE,
    detections_to_cdr,
    header,
    keypoints_to_cdr,
)
from surgseg_ros.synthetic import Scene

SIZE = (180, 320)
IMAGES = '/camera/image_raw'
START_NS = 10**18


def frames_of(video):
    return {path.stem: read_frame(path) for path in sorted((video / 'instances').glob('*.png'))}


def test_instruments_of_a_bag_are_those_that_predict_finds_in_its_images(
    tmp_path, model, evaluate
):
    words = '--videos 1 --frames 3 --size 320x180 --seed 4 --rate 30 --bag'
    assert verb('synthesize')(['--output', str(tmp_path / 'set'), *words.split()]) == 0
    bag = tmp_path / 'set/bags/video_01'
    given = ('--json', tmp_path / 'a.json', '--device', 'cpu', '--runtime', 'torch')
    assert evaluate('--bag', bag, *given, '--instruments', tmp_path / 'found') == 0
    words = ['--model', model, '--input', tmp_path / 'set', '--output', tmp_path / 'out']
    words += ['--device', 'cpu', '--every', 1, '--instruments']
    assert verb('predict')([str(word) for word in words]) == 0
    found, expected = (frames_of(tmp_path / name / 'video_01') for name in ('found', 'out'))
    assert list(found) == list(expected) == [f'{n:09d}' for n in range(3)]
    assert any(frame.listed for frame in found.values())
    for name, frame in found.items():
        np.testing.assert_array_equal(frame.instances, expected[name].instances)
        assert frame.listed == expected[name].listed
    assert evaluate('--bag', bag, *given, '--instruments', tmp_path / 'found') == 2


def test_pieces_that_the_tracks_join_have_the_keypoints_of_the_whole():
    mask, pipeline = np.zeros(SIZE, np.uint8), CameraPipeline()
    mask[10:110, 60:66] = mask[104:110, 60:140] = THREAD
    covered = mask.copy()
    covered[70:102] = HOLDER
    for number, image in enumerate((mask, covered)):
        whole = GridConfidence(np.full((1, 1), 230, np.uint8), Roi(0, 0, *SIZE[::-1]))
        segmentation = Segmentation(image, grid_confidence=whole)
        decision = Decision(segmentation, stamp_ns=START_NS + number * 10**8)
        found = find(decision)
        result = FrameResult(**vars(decision), instruments=found.instruments)
        after = tracked(CompletedFrame(0, None, result, found, {}, ()), pipeline)
    assert len(after.result.instruments) < len(found.instruments)
    assert list(after.found.geometries) == find_geometries(after.result.instruments, covered)


class Recorded:
    """Messages that a node publishes for some frames of a scene; one has no decision."""

    def __init__(self, count, undecided=()):
        scene, pipeline = Scene(7, SIZE), CameraPipeline()
        whole = GridConfidence(np.full((1, 1), 230, np.uint8), Roi(0, 0, *SIZE[::-1]))
        self.results = []
        for n in range(count):
            segmentation = Segmentation(scene.frame(n).mask, grid_confidence=whole)
            decision = Decision(segmentation, stamp_ns=START_NS + n * 10**8)
            if n in undecided:
                decision = Decision(Segmentation.undecided(SIZE), code='no', stamp_ns=START_NS)
            self.results.append(pipeline.track(complete(decision)))

    def write(self, path, without=(), topics=('instances', 'detections', 'keypoints')):
        with BagWriter(path) as bag:
            for n, result in enumerate(self.results):
                now_ns = START_NS + n * 10**8
                head = header(now_ns, 'eye')
                image = np.zeros((*SIZE, 3), np.uint8)
                bag.write(IMAGES, IMAGE, image_to_msg(image, head), now_ns)
                if n in without:
                    continue
                found, mask = result.instruments, result.mask
                geometries = find_geometries(found, mask) if result.is_decided else None
                messages = {
                    'mask': (IMAGE, image_to_msg(mask, head)),
                    'instances': (IMAGE, image_to_msg(instance_image(found, mask), head)),
                    'detections': (DETECTIONS, detections_to_cdr(head, found)),
                    'keypoints': (DETECTIONS, keypoints_to_cdr(head, found, geometries, SIZE)),
                }
                for topic in ('mask', *topics):
                    bag.write(f'/left/{topic}', *messages[topic], now_ns)
        return path

    def geometries(self, n):
        return find_geometries(self.results[n].instruments, self.results[n].mask)


@pytest.fixture
def score(tmp_path, evaluate):
    def run(bag):
        words = ('--recorded', bag, '--mask-topic', '/left/mask', '--json', tmp_path / 'a.json')
        return evaluate(*words, '--no-truth', '--instruments', tmp_path / 'found')

    return run


def test_published_instruments_are_read_unchanged(tmp_path, score):
    recorded = Recorded(4, undecided=[2])
    assert score(recorded.write(tmp_path / 'bag', without=[1])) == 0
    found = frames_of(tmp_path / 'found/video_bag')
    assert list(found) == ['000000000', '000000002', '000000003']
    assert found['000000002'].listed == ()
    assert (found['000000002'].instances == 255).all()
    for n in (0, 3):
        frame, result = found[f'{n:09d}'], recorded.results[n]
        np.testing.assert_array_equal(
            frame.instances, instance_image(result.instruments, result.mask)
        )
        assert len(frame.listed) == len(result.instruments) > 0
        for one, instrument, geometry in zip(
            frame.listed, result.instruments, recorded.geometries(n), strict=True
        ):
            assert (one.label, one.track_id) == (instrument.label, instrument.track_id)
            for point, expected in zip(one.geometry.keypoints, geometry.keypoints, strict=True):
                assert (point.kind, *point[5:]) == (expected.kind, *expected[5:])
                assert point[1:5] == pytest.approx(expected[1:5], abs=1e-3)
            if one.geometry.opening_deg is not None:
                assert one.geometry.opening_deg == pytest.approx(geometry.opening_deg, abs=0.01)


def test_published_instruments_are_scored_against_the_truth(tmp_path, score):
    words = '--videos 1 --frames 2 --size 320x180 --seed 0 --instruments'
    assert verb('synthesize')(['--output', str(tmp_path / 'set'), *words.split()]) == 0
    (tmp_path / 'set/video_01').rename(tmp_path / 'set/video_bag')
    recorded = Recorded(2)
    assert score(recorded.write(tmp_path / 'bag', without=[1])) == 0
    words = ['--reference', tmp_path / 'set', '--predictions', tmp_path / 'found']
    words += ['--json', tmp_path / 'scores.json', '--instruments', '--allow-missing']
    assert verb('evaluate')([str(word) for word in words]) == 0
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert (scores['frames'], len(scores['missing'])) == (2, 1)


def test_rejects_a_bag_without_the_topics_and_leaves_nothing(tmp_path, score, capsys):
    bag = Recorded(1).write(tmp_path / 'bag', topics=['detections', 'keypoints'])
    assert score(bag) == 2
    assert "topic '/left/instances' is missing: record instances" in capsys.readouterr().err
    assert not (tmp_path / 'found').exists()


def test_rejects_an_invalid_keypoint(tmp_path, score, capsys):
    recorded = Recorded(1)
    one = recorded.results[0].instruments[0]
    object.__setattr__(one, 'label', 99)
    assert score(recorded.write(tmp_path / 'bag')) == 2
    assert 'cannot be used' in capsys.readouterr().err

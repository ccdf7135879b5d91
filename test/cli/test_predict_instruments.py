# SPDX-License-Identifier: Apache-2.0
"""`predict --instruments`: instruments that a model finds, or those in given masks."""

import json

import cv2
import numpy as np
import pytest
from drawn_masks import SIZE, empty, tool
from predicting import main, predict, write_images
from verbs import verb

from surgseg_ros.core.detections import instance_image
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.pipeline import CameraPipeline
from surgseg_ros.core.results import InputFrame
from surgseg_ros.core.segmentation import Circle, Field, Roi
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.instrument_folders import read_frame


def read_video(output, name='video_case'):
    """Read the instruments of every frame of a video."""
    return [read_frame(path) for path in sorted((output / name / 'instances').glob('*.png'))]


def test_instruments_are_those_of_the_pipeline(model, tmp_path):
    write_images(tmp_path / 'case', 'a.png', 'b.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out', '--instruments') == 0
    segmenter = Segmenter.load(model, 'cpu', 'torch')
    found, pipeline = read_video(tmp_path / 'out'), CameraPipeline()
    assert any(frame.listed for frame in found)
    for frame, name in zip(found, ('a.png', 'b.png'), strict=True):
        image = read_image_file(tmp_path / 'case' / name)
        result = pipeline.process(segmenter, InputFrame(image))
        assert np.array_equal(frame.instances, instance_image(result.instruments, result.mask))
        assert [(x.label, x.track_id) for x in frame.listed] == [
            (x.label, x.track_id) for x in result.instruments
        ]
        assert [x.score for x in frame.listed] == pytest.approx(
            [x.score for x in result.instruments], abs=1e-4
        )
        for listed, geometry in zip(
            frame.listed, find_geometries(result.instruments, result.mask), strict=True
        ):
            for point, expected in zip(listed.geometry.keypoints, geometry.keypoints, strict=True):
                assert (point.kind, *point[5:]) == (expected.kind, *expected[5:])
                assert point[1:5] == pytest.approx(expected[1:5], abs=1e-3)


def test_the_minimum_area_of_instruments_is_applied_and_recorded(model, tmp_path, capsys):
    write_images(tmp_path / 'case', 'a.png')
    words = (model, tmp_path / 'case', tmp_path / 'out', '--instruments')
    assert predict(*words, '--param', 'least_area:=0.9') == 0
    assert len(read_video(tmp_path / 'out')[0].listed) <= 1
    assert predict(*words) == 2
    assert 'instruments' in capsys.readouterr().err


def test_instruments_of_an_interrupted_video_are_written_again(model, tmp_path):
    write_images(tmp_path / 'case', 'a.png', 'b.png')
    words = (model, tmp_path / 'case', tmp_path / 'out', '--instruments')
    assert predict(*words) == 0
    (tmp_path / 'out/video_case/segmentation/b.png').unlink()
    (tmp_path / 'out/video_case/instruments/a.json').unlink()
    assert predict(*words) == 0
    assert len(read_video(tmp_path / 'out')) == 2


def from_masks(folder, output, *more):
    return main([str(x) for x in ('--masks', folder, '--output', output, *more)])


def draw(folder, stride, size, seed, *more):
    words = f'--videos 1 --frames 2 --stride {stride} --size {size} --seed {seed}'.split()
    assert verb('synthesize')(['--output', str(folder), *words, *more]) == 0
    return folder


@pytest.fixture
def drawn(tmp_path):
    return draw(tmp_path / 'drawn', 5, '240x136', 2, '--instruments')


def test_instruments_of_given_masks_are_scored_against_the_truth(drawn, tmp_path, capsys):
    assert from_masks(drawn, tmp_path / 'out', '--instruments') == 0
    assert 'instruments of 2 masks' in capsys.readouterr().out
    assert {path.name for path in (tmp_path / 'out/video_01').iterdir()} == {
        *('instances', 'instruments')
    }
    names = {'reference': drawn, 'predictions': tmp_path / 'out', 'json': tmp_path / 'a.json'}
    words = [str(word) for key, name in names.items() for word in (f'--{key}', name)]
    assert verb('evaluate')([*words, '--instruments']) == 0
    scores = json.loads((tmp_path / 'a.json').read_text())
    assert scores['frames'] == 2
    assert scores['f1'] > 0.7
    assert scores['tip_px']['count'] > 0
    assert all(
        x.score == 1 for frame in read_video(tmp_path / 'out', 'video_01') for x in frame[1]
    )


def test_a_mask_of_no_decision_has_no_instruments_and_is_marked(tmp_path):
    (tmp_path / 'masks/video_1/segmentation').mkdir(parents=True)
    mask = np.full((20, 30), 255, np.uint8)
    cv2.imwrite(str(tmp_path / 'masks/video_1/segmentation/000000000.png'), mask)
    assert from_masks(tmp_path / 'masks', tmp_path / 'out', '--instruments') == 0
    document = json.loads((tmp_path / 'out/video_1/instruments/000000000.json').read_text())
    assert document == {'is_decided': False, 'instruments': []}
    (frame,) = read_video(tmp_path / 'out', 'video_1')
    assert (frame.instances == 255).all()


def crossing_tools():
    return tool(tool(empty(), (60, 60), (330, 200)), (60, 220), (330, 40))


@pytest.mark.parametrize('circle', [None, Circle(240, 135, 130)])
def test_instruments_of_given_masks_enter_where_no_decision_ends(tmp_path, circle):
    (tmp_path / 'masks/video_1/segmentation').mkdir(parents=True)
    roi = Roi(110, 5, 261, 261, circle)
    mask = np.full(SIZE, 255, np.uint8)
    roi.view(mask)[:] = np.maximum(roi.view(crossing_tools()), roi.outside())
    cv2.imwrite(str(tmp_path / 'masks/video_1/segmentation/000000000.png'), mask)
    assert from_masks(tmp_path / 'masks', tmp_path / 'out', '--instruments') == 0
    (frame,) = read_video(tmp_path / 'out', 'video_1')
    points = [x for one in frame.listed for x in one.geometry.keypoints]
    entries = [x for x in points if x.kind == KeypointKind.SHAFT_ENTRY]
    assert [x.is_hidden for x in entries] == [False, False]
    assert Field(SIZE, roi).gaps(np.array([x.xy_px for x in entries])) == pytest.approx(0, abs=1.5)


def write_round_view(folder, circle, count):
    """Write masks of background outside a circle, and images that are black there."""
    roi = Roi(110, 5, 261, 261, circle)
    is_inside = np.zeros(SIZE, np.uint8)
    roi.view(is_inside)[roi.outside() == 0] = 1
    for name, image in (
        ('segmentation', crossing_tools() * is_inside),
        ('rgb', np.repeat((150 * is_inside)[..., None], 3, axis=2)),
    ):
        (folder / 'video_1' / name).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(folder / 'video_1' / name / f'{number:09d}.png'), image)


def test_images_beside_given_masks_show_where_instruments_enter(tmp_path):
    circle = Circle(240, 135, 130)
    write_round_view(tmp_path / 'masks', circle, 11)
    words = '--instruments', '--param', 'roi_mode:=auto'
    assert from_masks(tmp_path / 'masks', tmp_path / 'out', *words) == 0
    frame = read_video(tmp_path / 'out', 'video_1')[-1]  # the borders are confirmed by then
    assert (frame.instances[circle.distances(*np.indices(SIZE)) > 133] == 255).all()
    points = [x for one in frame.listed for x in one.geometry.keypoints]
    entries = [x.xy_px for x in points if x.kind == KeypointKind.SHAFT_ENTRY and not x.is_hidden]
    assert len(entries) == 2
    away = circle.distances(*np.array(entries)[:, ::-1].T)
    assert away == pytest.approx(130, abs=3)


def test_rejects_masks_without_images_that_roi_mode_auto_needs(tmp_path, capsys):
    write_round_view(tmp_path / 'masks', Circle(240, 135, 130), 2)
    (tmp_path / 'masks/video_1/rgb/000000001.png').unlink()
    words = '--instruments', '--param', 'roi_mode:=auto'
    assert from_masks(tmp_path / 'masks', tmp_path / 'out', *words) == 2
    assert 'roi_mode auto needs its image' in capsys.readouterr().err
    assert not list(tmp_path.glob('out/**/*.json')), 'before any work'


def test_masks_without_a_decision_around_a_circle_keep_it_in_larger_images(tmp_path):
    seen, decided = Circle(240, 135, 130), Circle(240, 135, 100)
    write_round_view(tmp_path / 'masks', seen, 11)
    for path in (tmp_path / 'masks').glob('video_1/segmentation/*.png'):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        mask[decided.distances(*np.indices(SIZE)) > 100] = 255
        cv2.imwrite(str(path), mask)
    words = '--instruments', '--param', 'roi_mode:=auto'
    assert from_masks(tmp_path / 'masks', tmp_path / 'out', *words) == 0
    frame = read_video(tmp_path / 'out', 'video_1')[-1]
    points = [x for one in frame.listed for x in one.geometry.keypoints]
    entries = [x.xy_px for x in points if x.kind == KeypointKind.SHAFT_ENTRY and not x.is_hidden]
    assert len(entries) == 2
    away = decided.distances(*np.array(entries)[:, ::-1].T)
    assert away == pytest.approx(100, abs=3)


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ((), '--masks requires --instruments'),
        (('--instruments', '--every', '2', '--model', 'x'), '--model, --every'),
        (('--instruments',), 'holds no video_*/segmentation/*.png'),
    ],
)
def test_rejects_unusable_masks(tmp_path, capsys, words, expected):
    assert from_masks(tmp_path, tmp_path / 'out', *words) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_error_without_images_or_masks_names_the_remedy(tmp_path, capsys):
    assert main(['--output', str(tmp_path / 'out')]) == 2
    assert 'give --input, or --masks' in capsys.readouterr().err


@pytest.fixture
def stereo(tmp_path):
    return draw(tmp_path / 'stereo', 9, '480x270', 3, '--stereo')


def evaluate(reference, predictions, file):
    names = {'reference': reference, 'predictions': predictions, 'json': file}
    words = [str(word) for key, name in names.items() for word in (f'--{key}', name)]
    return verb('evaluate')([*words, '--instruments'])


def test_tips_of_stereo_videos_are_located_and_scored_in_3d(stereo, tmp_path, capsys):
    assert from_masks(stereo, tmp_path / 'out', '--instruments') == 0
    assert evaluate(stereo, tmp_path / 'out', tmp_path / 'scores.json') == 0
    assert 'tips in 3-D' in capsys.readouterr().out
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['frames'] == 2  # the truth is that of the left camera
    found = scores['error_3d_mm']
    assert found['count'] > 0
    assert found['across'] < 3
    assert found['depth'] < 5
    assert 0 < found['sigma_coverage'] <= 1
    left, right = (
        [x for frame in read_video(tmp_path / 'out/video_01', camera) for x in frame.listed]
        for camera in ('left', 'right')
    )
    located = [x for x in left if x.tip_m]
    assert len(located) >= found['count']
    for one in located:
        assert np.linalg.norm(one.axis) == pytest.approx(1)
        assert min(one.tip_sigma_m) > 0
    assert all(x.tip_m is None and x.axis is None for x in right)


def test_a_model_on_stereo_images_writes_results_of_both_cameras(model, stereo, tmp_path):
    assert predict(model, stereo, tmp_path / 'out', '--instruments') == 0
    for camera in ('left', 'right'):
        for folder in ('segmentation', 'instances', 'instruments'):
            assert len(list((tmp_path / 'out/video_01' / camera / folder).iterdir())) == 2
    assert evaluate(stereo, tmp_path / 'out', tmp_path / 'scores.json') == 0
    (tmp_path / 'out/video_01/right/segmentation/000000009.png').unlink()
    (tmp_path / 'out/video_01/left/instruments/000000000.json').unlink()
    assert predict(model, stereo, tmp_path / 'out', '--instruments') == 0
    assert len(read_video(tmp_path / 'out/video_01', 'left')) == 2


def test_rejects_stereo_with_missing_or_wrong_calibrations(stereo, tmp_path, capsys):
    left, right = (
        stereo / 'video_01' / camera / 'camera_info.yaml' for camera in ('left', 'right')
    )
    texts = left.read_text(), right.read_text()
    left.write_text(texts[1].replace('right', 'left'))
    right.write_text(
        texts[0].replace('left', 'right')
    )  # as if the second camera were the left one
    assert from_masks(stereo, tmp_path / 'swapped', '--instruments') == 0
    assert 'the cameras seem to be swapped' in capsys.readouterr().err
    right.write_text('nothing')
    assert from_masks(stereo, tmp_path / 'wrong', '--instruments') == 2
    assert 'right/camera_info.yaml: is not a calibration' in capsys.readouterr().err
    right.unlink()
    assert from_masks(stereo, tmp_path / 'out', '--instruments') == 0
    assert evaluate(stereo, tmp_path / 'out', tmp_path / 'scores.json') == 0
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['error_3d_mm'] == {
        **dict.fromkeys(('across', 'depth', 'sigma_coverage')),
        'count': 0,
    }
    assert scores['classes']['robotic tool']['truth'] > 0

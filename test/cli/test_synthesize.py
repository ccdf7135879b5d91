# SPDX-License-Identifier: Apache-2.0
"""The verb `synthesize`: layout of the data set, reproducible files, bags, errors."""

import json

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from verbs import verb

from surgseg_ros.core.instrument_files import read_instruments
from surgseg_ros.messages.serialization import TYPES
from surgseg_ros.synthetic import Scene
from surgseg_ros.synthetic.scene import SCENES_PER_SEED, VideoSet, split_into_jobs
from surgseg_ros.training.dataset import find_samples

main = verb('synthesize')


def synthesize(folder, *more):
    """Write two small videos of three frames each."""
    small = ['--videos', '2', '--frames', '3', '--size', '128x72', '--stride', '4', '--seed', '5']
    return main(['--output', str(folder), *small, '--workers', '1', *more])


def files(folder):
    """Return the contents of every file by its path in the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_layout_is_that_of_the_data_set(tmp_path):
    assert synthesize(tmp_path / 'out') == 0
    names = {
        f'video_0{video}/{kind}/00000000{index}.png'
        for video in (1, 2)
        for kind in ('rgb', 'segmentation')
        for index in (0, 4, 8)
    }
    marks = {'video_01/synthetic.json': 500_000, 'video_02/synthetic.json': 500_001}
    found = files(tmp_path / 'out')
    assert set(found) == names | set(marks)
    assert {name: json.loads(found[name])['scene'] for name in marks} == marks


def test_the_truth_of_instruments_is_written_beside_the_masks_if_requested(tmp_path):
    assert synthesize(tmp_path, '--instruments') == 0
    video = tmp_path / 'video_02'
    assert {path.name for path in video.iterdir() if path.is_dir()} == {
        *('rgb', 'segmentation', 'instances', 'instruments')
    }
    scene = Scene(5 * SCENES_PER_SEED + 1, (72, 128))
    for index in (0, 4, 8):
        stored = cv2.imread(str(video / f'instances/{index:09d}.png'), cv2.IMREAD_UNCHANGED)
        frame = scene.frame(index)
        np.testing.assert_array_equal(stored, frame.instances)
        listed = read_instruments(video / f'instruments/{index:09d}.json')
        true = scene.truth(index, frame.instances)
        assert [(x.number, x.track_id, x.label) for x in listed] == [
            (x.number, x.number, x.label) for x in true
        ]
        for found, expected in zip(listed, true, strict=True):
            positions = [[p.x_px, p.y_px] for p in found.geometry.keypoints]
            assert positions == pytest.approx(
                np.array([p.xy_px for p in expected.geometry.keypoints]), abs=1e-3
            )


def test_readers_of_the_data_set_ignore_the_truth_of_instruments(tmp_path):
    synthesize(tmp_path / 'plain')
    synthesize(tmp_path / 'more', '--instruments', '--bag')
    assert len(find_samples(tmp_path / 'more')) == len(find_samples(tmp_path / 'plain')) == 6
    assert verb('inspect_data')(['--data', str(tmp_path / 'more')]) == 0
    plain, more = files(tmp_path / 'plain'), files(tmp_path / 'more')
    assert {name: more[name] for name in plain} == plain


def test_stereo_has_both_views_with_calibration_and_3d_positions(tmp_path):
    assert synthesize(tmp_path, '--stereo') == 0
    scene = Scene(5 * SCENES_PER_SEED + 1, (72, 128), stereo=True)
    for camera, name in enumerate(('left', 'right')):
        folder = tmp_path / 'video_02' / name
        frame = scene.frame(4, camera)
        for kind, expected in (('segmentation', frame.mask), ('instances', frame.instances)):
            stored = cv2.imread(str(folder / kind / '000000004.png'), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(stored, expected)
        stored = cv2.imread(str(folder / 'rgb/000000004.png'))[..., ::-1]
        np.testing.assert_array_equal(stored, frame.image)
        calibration = yaml.safe_load((folder / 'camera_info.yaml').read_text())
        assert (calibration['image_width'], calibration['image_height']) == (128, 72)
        assert calibration['projection_matrix']['data'] == pytest.approx(
            [100, 0, 63.5, -0.45 * camera, 0, 100, 35.5, 0, 0, 0, 1, 0]
        )
    listed = read_instruments(tmp_path / 'video_02/left/instruments/000000004.json')
    true = scene.truth(4, scene.frame(4).instances)
    assert [x.tip_m for x in listed] == [x.tip_m for x in true]
    assert [x.axis for x in listed] == [x.axis for x in true]
    assert any(x.tip_m for x in listed)


def test_a_stereo_bag_has_images_and_calibrations_of_both_cameras(tmp_path):
    assert synthesize(tmp_path, '--stereo', '--bag') == 0
    with AnyReader([tmp_path / 'bags' / 'video_01'], default_typestore=TYPES) as reader:
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
        infos = {
            connection.topic: reader.deserialize(raw, connection.msgtype)
            for connection, _, raw in reader.messages()
            if connection.topic.endswith('camera_info')
        }
    assert counts == {
        f'/camera/{camera}/{name}': 3
        for camera in ('left', 'right')
        for name in ('image_raw', 'ground_truth', 'camera_info')
    }
    right = infos['/camera/right/camera_info']
    assert (right.header.frame_id, right.width, right.p[3]) == (
        *('endoscope_right', 128),
        pytest.approx(-0.45),
    )


def test_touching_draws_other_scenes(tmp_path):
    synthesize(tmp_path / 'plain')
    synthesize(tmp_path / 'touching', '--touching')
    plain, touching = files(tmp_path / 'plain'), files(tmp_path / 'touching')
    assert set(plain) == set(touching)
    assert any(plain[name] != touching[name] for name in plain)


@pytest.mark.parametrize('more', [(), ('--bag',)])
def test_the_verb_reports_what_it_wrote_and_where(tmp_path, capsys, more):
    assert synthesize(tmp_path / 'out', *more) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{tmp_path / "out"}: 2 videos of 3 frames of 128x72')
    assert ('bags/' in line) == bool(more)


def test_files_contain_the_frames_of_the_scene(tmp_path):
    synthesize(tmp_path)
    samples = find_samples(tmp_path)
    image, mask = samples[4].read()
    frame = Scene(5 * SCENES_PER_SEED + 1, (72, 128)).frame(4)
    assert (samples[4].video, samples[4].index) == ('video_02', 4)
    np.testing.assert_array_equal(image, frame.image)
    np.testing.assert_array_equal(mask, frame.mask)
    stored = cv2.imread(str(samples[4].mask), cv2.IMREAD_UNCHANGED)
    assert stored.ndim == 2


def test_several_processes_write_the_same_files(tmp_path):
    synthesize(tmp_path / 'one')
    synthesize(tmp_path / 'two', '--workers', '2')
    assert files(tmp_path / 'one') == files(tmp_path / 'two')


@pytest.mark.parametrize(('videos', 'lengths'), [(7, {30, 10}), (8, {40})])
def test_a_process_draws_whole_videos_if_there_are_many(tmp_path, videos, lengths):
    video_set = VideoSet(videos, 40, 1, (64, 64), 15.0, 1, jpeg=True)
    jobs = split_into_jobs(video_set, tmp_path, workers=2)
    assert {len(job.indices) for job in jobs} == lengths
    assert len({(job.folder, index) for job in jobs for index in job.indices}) == videos * 40


def test_jpeg_images_keep_png_masks(tmp_path):
    synthesize(tmp_path, '--jpeg')
    assert (tmp_path / 'video_01/rgb/000000004.jpg').is_file()
    assert (tmp_path / 'video_01/segmentation/000000004.png').is_file()


def test_bag_has_images_and_truth_with_stamps_from_index_and_rate(tmp_path):
    more = ('--bag', '--rate', '8', '--frame-id', 'left', '--image-topic', '/left/image_raw')
    assert synthesize(tmp_path, *more) == 0
    images, masks, stamps = [], [], []
    with AnyReader([tmp_path / 'bags' / 'video_02'], default_typestore=TYPES) as reader:
        for connection, recorded_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == recorded_ns
            assert message.header.frame_id == 'left'
            rows = message.data.reshape(72, 128, -1)
            if connection.topic == '/left/image_raw':
                assert message.encoding == 'rgb8'
                images.append(rows)
                stamps.append(recorded_ns)
            else:
                assert (connection.topic, message.encoding) == ('/camera/ground_truth', 'mono8')
                masks.append(rows[..., 0])
    assert stamps == [10**18, 10**18 + 5 * 10**8, 10**18 + 10**9]
    frame = Scene(5 * SCENES_PER_SEED + 1, (72, 128), 8.0).frame(8)
    np.testing.assert_array_equal(images[2], frame.image)
    np.testing.assert_array_equal(masks[2], frame.mask)


def test_rejects_a_folder_that_is_not_empty_and_leaves_it_unchanged(tmp_path, capsys):
    kept = tmp_path / 'notes.txt'
    kept.write_text('mine')
    assert synthesize(tmp_path) != 0
    assert str(tmp_path) in capsys.readouterr().err
    assert files(tmp_path) == {'notes.txt': b'mine'}


def test_accepts_an_empty_folder(tmp_path):
    folder = tmp_path / 'empty'
    folder.mkdir()
    assert synthesize(folder) == 0


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--size', '100000x100000'], '--size 100000x100000'),
        (['--frames', '1000000001'], '--frames 1000000001'),
        (['--frames', '3', '--stride', '999999999'], 'ends with frame 1999999998'),
        (['--videos', str(SCENES_PER_SEED + 1)], 'with another --seed'),
    ],
)
def test_rejects_invalid_scenes_at_once(tmp_path, capsys, words, expected):
    assert main(['--output', str(tmp_path / 'out'), '--workers', '1', *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('--size', '128'),
        ('--size', '20x10'),
        ('--rate', '0'),
        ('--rate', 'nan'),
        ('--frames', '0'),
        ('--seed', '-1'),
    ],
)
def test_errors_name_invalid_arguments(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit):
        main(['--output', str(tmp_path / 'out'), option, value])
    assert repr(value) in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()

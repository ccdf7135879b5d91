# SPDX-License-Identifier: Apache-2.0
"""`predict`: masks of every kind of input, in the official layout, resumable and complete."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from predicting import predict, write_images

from surgseg_ros.cli.scores import run_evaluate
from surgseg_ros.core.model_folder import read_model, write_model
from surgseg_ros.core.postprocessing import drop_small_regions
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import read_image_file

pytestmark = pytest.mark.usefixtures('one_thread')


def masks(output):
    return sorted(str(path.relative_to(output)) for path in output.rglob('*.png'))


def test_a_video_gets_one_mask_per_second_at_its_size(model, tmp_path, write_video):
    write_video(tmp_path / 'clip.avi', 130)
    assert predict(model, tmp_path / 'clip.avi', tmp_path / 'out') == 0
    assert masks(tmp_path / 'out') == [
        f'video_clip/segmentation/{index:09d}.png' for index in (0, 60, 120)
    ]
    mask = cv2.imread(str(tmp_path / 'out' / masks(tmp_path / 'out')[1]), cv2.IMREAD_UNCHANGED)
    assert (mask.shape, mask.dtype) == ((48, 80), np.uint8)


def test_reports_the_number_of_masks_and_their_folder(model, tmp_path, capsys):
    write_images(tmp_path / 'case', '0.png', '1.png', '2.png')
    where = tmp_path / 'out/video_*/segmentation'
    predict(model, tmp_path / 'case', tmp_path / 'out')
    assert capsys.readouterr().out == f'3 masks of 70x50 in {where}\n'
    (tmp_path / 'out' / masks(tmp_path / 'out')[0]).unlink()
    predict(model, tmp_path / 'case', tmp_path / 'out')
    assert capsys.readouterr().out == f'1 mask of 70x50 (2 existed already) in {where}\n'
    predict(model, tmp_path / 'case', tmp_path / 'out')
    assert capsys.readouterr().out == f'no new masks (3 existed already) in {where}\n'


def test_option_every_selects_frames(model, tmp_path, write_video):
    write_video(tmp_path / 'video_41/video_left.avi', 9)
    assert (
        predict(model, tmp_path / 'video_41/video_left.avi', tmp_path / 'out', '--every', 4) == 0
    )
    assert masks(tmp_path / 'out') == [
        f'video_41/segmentation/{index:09d}.png' for index in (0, 4, 8)
    ]


@pytest.mark.parametrize('minimum', [(), ('--least-region',)])
def test_a_mask_is_the_result_of_the_segmenter(model, tmp_path, minimum):
    write_images(tmp_path / 'case', 'a_7.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out', *minimum) == 0
    segmenter = Segmenter.load(model, 'cpu', 'torch')
    expected = segmenter.segment(read_image_file(tmp_path / 'case/a_7.png')).mask
    filtered = drop_small_regions(expected, segmenter.spec.least_region)
    assert (filtered != expected).any()
    found = cv2.imread(str(tmp_path / 'out/video_case/segmentation/a_7.png'), -1)
    assert np.array_equal(found, filtered if minimum else expected)


@pytest.mark.parametrize(
    ('names', 'stems'),
    [
        (('_000000060.jpg', '_000000120.jpg'), ('000000060', '000000120')),
        (('b.png', 'a.png', 'c.jpeg'), ('a', 'b', 'c')),
        (('left_1.png', 'right_1.png'), ('left_1', 'right_1')),
        (('000000060.jpg', '_000000060.png'), ('000000060', '_000000060')),
    ],
)
def test_masks_of_a_folder_of_images_have_their_names(model, tmp_path, names, stems):
    write_images(tmp_path / 'video_5/frames', *names)
    for _ in range(2):  # a resumed run too
        assert predict(model, tmp_path / 'video_5/frames', tmp_path / 'out') == 0
        assert masks(tmp_path / 'out') == [f'video_5/segmentation/{stem}.png' for stem in stems]


def test_each_mask_belongs_to_the_image_of_its_name(model, tmp_path):
    write_images(tmp_path / 'case', 'b_2.png', 'a_10.png', 'c_1.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out', '--every', 2) == 0
    assert masks(tmp_path / 'out') == [f'video_case/segmentation/{x}.png' for x in ('a_10', 'b_2')]
    segmenter = Segmenter.load(model, 'cpu', 'torch')
    for name in ('a_10.png', 'b_2.png'):
        found = cv2.imread(str(tmp_path / 'out/video_case/segmentation' / name), -1)
        assert np.array_equal(
            found, segmenter.segment(read_image_file(tmp_path / 'case' / name)).mask
        )


@pytest.mark.parametrize('other', ['a.jpg', 'A.png'])
def test_rejects_images_whose_masks_would_have_the_same_name(model, tmp_path, capsys, other):
    write_images(tmp_path / 'case', 'a.png')
    write_images(tmp_path / 'more', other)
    (tmp_path / 'more' / other).rename(tmp_path / 'case' / other)
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 2
    text = capsys.readouterr().err
    assert 'remove one' in text or 'rename one' in text
    assert not (tmp_path / 'out').exists()


def test_a_data_set_gets_the_masks_that_evaluate_needs(model, tmp_path, write_video):
    data = tmp_path / 'data'
    write_video(data / 'video_41/video_left.avi', 70)
    write_images(data / 'video_42_1/rgb', '000000000.png', '000000006.png', '000000060.png')
    write_images(data / 'video_42_2/frames', '_000000060.jpg')
    for name in ('video_41/000000060', 'video_42_1/000000000', 'video_42_1/000000060',
                 'video_42_2/000000060'):  # fmt: skip
        video, frame = name.split('/')
        path = data / video / 'segmentation' / f'{frame}.png'
        path.parent.mkdir(exist_ok=True)
        size = (48, 80) if video == 'video_41' else (50, 70)
        cv2.imwrite(str(path), np.zeros(size, np.uint8))
    assert predict(model, data, tmp_path / 'out') == 0
    numbers = tmp_path / 'numbers.json'
    words = ['--reference', data, '--predictions', tmp_path / 'out', '--json', numbers]
    assert run_evaluate([str(word) for word in words]) == 0
    assert len(json.loads(numbers.read_text())['videos']) == 3

    assert predict(model, data / 'video_42_1', tmp_path / 'one') == 0
    assert len(masks(tmp_path / 'one')) == 2


def test_a_data_set_without_masks_gets_one_per_second(model, tmp_path, write_video):
    write_video(tmp_path / 'data/video_41/video_left.avi', 61)
    write_images(tmp_path / 'data/video_42/rgb', '000000000.png', '000000006.png', '000000060.png')
    assert predict(model, tmp_path / 'data', tmp_path / 'out') == 0
    assert masks(tmp_path / 'out') == [
        f'video_{video}/segmentation/{index:09d}.png' for video in (41, 42) for index in (0, 60)
    ]


def test_an_interrupted_run_is_resumed(model, tmp_path, monkeypatch):
    write_images(tmp_path / 'case', '0.png', '1.png', '2.png', '3.png')
    seen = []
    segment = Segmenter.segment

    def cut(self, image, **more):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, image, **more)

    monkeypatch.setattr(Segmenter, 'segment', cut)
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 130
    half = tmp_path / 'out/video_case/segmentation/2.png.part'
    half.write_bytes(b'half of a mask')
    assert len(masks(tmp_path / 'out')) == 2

    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 0
    assert len(seen) == 5
    assert len(masks(tmp_path / 'out')) == 4
    assert not half.exists()


@pytest.mark.parametrize(
    ('name', 'message'),
    [('0.png', 'is not named like an image'), ('000000000.png', 'is not named by the number')],
)
def test_error_names_a_stray_image_among_masks(model, tmp_path, capsys, name, message):
    write_images(tmp_path / 'case', name)
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 0
    (tmp_path / 'out/video_case/segmentation/foo.png').write_bytes(b'')
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 2
    assert f'segmentation/foo.png: {message}' in capsys.readouterr().err


@pytest.mark.parametrize('before', ['nothing', 'an empty folder', 'a run that was killed'])
@pytest.mark.parametrize('first', ['junk', 'nothing that is requested'])
def test_without_predictions_nothing_is_left(model, tmp_path, capsys, first, before):
    case, output = tmp_path / 'case', tmp_path / 'new/out'
    write_images(case, '1.png', '2.png')
    if before != 'nothing':
        output.mkdir(parents=True)
    if before == 'a run that was killed':
        (output / 'predict.json').write_text('{"model": "another"}')
        (output / 'video_case/segmentation').mkdir(parents=True)
    if first == 'junk':
        (case / '0.png').write_bytes(b'junk')
    assert predict(model, case, output, *(() if first == 'junk' else ('--every', 60))) == 2
    named = case / '0.png' if first == 'junk' else f"'{case}' has none of the requested frames"
    assert str(named) in capsys.readouterr().err
    assert list(tmp_path.glob('new/out/*')) == []
    assert output.exists() == (before != 'nothing')

    for path in case.glob('0.png'):
        path.unlink()
    assert predict(model, case, output) == 0
    assert len(masks(output)) == 2


def test_masks_of_two_models_are_not_mixed(model, tmp_path, capsys):
    write_images(tmp_path / 'case', '0.png', '1.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 0
    assert predict(model, tmp_path / 'case', tmp_path / 'out', '--least-region') == 2
    assert 'made with least_region None' in capsys.readouterr().err

    spec, weights = read_model(model)
    other = shutil.copytree(model, tmp_path / 'other')
    write_model(other, dataclasses.replace(spec, name='another'), weights)
    assert predict(other, tmp_path / 'case', tmp_path / 'out') == 2
    assert "made with model 'tiny'" in capsys.readouterr().err
    assert json.loads((tmp_path / 'out/predict.json').read_text())['model'] == 'tiny'


@pytest.mark.parametrize('name', ['', 'clip.avi', 'nowhere'])
def test_error_names_an_input_without_frames(model, tmp_path, name, capsys):
    source = tmp_path / 'in' / name
    (tmp_path / 'in').mkdir()
    if name == 'clip.avi':
        source.write_bytes(b'no video')
    assert predict(model, source, tmp_path / 'out') == 2
    text = capsys.readouterr().err
    assert str(source) in text
    assert ('does not exist' in text) == (name == 'nowhere')
    assert not (tmp_path / 'out').exists()


def test_error_names_a_mask_without_its_frame(model, tmp_path, write_video, capsys):
    write_images(tmp_path / 'data/video_1/segmentation', '000000060.png')
    write_images(tmp_path / 'data/video_1/rgb', '000000000.png')
    assert predict(model, tmp_path / 'data', tmp_path / 'out') == 2
    assert 'frame 000000060 has a mask' in capsys.readouterr().err
    write_video(tmp_path / 'data/video_1/video_left.avi', 60)
    assert predict(model, tmp_path / 'data', tmp_path / 'out') == 2
    assert 'ends before frame 60' in capsys.readouterr().err


def test_error_names_an_output_that_is_in_use(model, tmp_path, capsys):
    write_images(tmp_path / 'case', '0.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'case') == 2
    assert 'not an empty folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('more', 'message'), [(('--device', 'tpu'), "'tpu'"), (('--model', 'nowhere'), 'nowhere')]
)
def test_error_names_a_missing_model_or_device(model, tmp_path, more, message, capsys):
    write_images(tmp_path / 'case', '0.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out', *more) == 2
    assert message in capsys.readouterr().err


class Flickering:
    """Predicts class 3 with 0.7 in bright pixels."""

    device = torch.device('cpu')
    description, precision = 'flickering', 'f32'

    def __call__(self, inputs):
        logits = torch.zeros((1, 10, *inputs.shape[1:3]))
        logits[:, 3] = torch.where(inputs[..., 0] > 127, 3.05, -9.0)
        logits[:, 0] += torch.where(inputs[..., 0] > 127, 0.0, 9.0)
        return logits


@pytest.fixture
def blinking(tmp_path):
    """Write a folder of dark images, with a bright part in one of them."""
    rng = np.random.default_rng(0)
    for index in range(6):
        image = rng.integers(30, 60, (32, 64, 3), np.uint8)
        image[4:8, 4:12] = 200 if index in (2, 4, 5) else 40
        (tmp_path / 'case').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f'case/{index}.png'), image)
    return tmp_path / 'case'


def read(output):
    return [int(cv2.imread(str(output / m), cv2.IMREAD_UNCHANGED)[6, 8]) for m in masks(output)]


def test_masks_are_filtered_if_requested_and_raw_otherwise(model, blinking, tmp_path, monkeypatch):
    spec = read_model(model)[0]
    monkeypatch.setattr(Segmenter, 'load', lambda *_, **__: Segmenter(spec, Flickering()))
    predict(model, blinking, tmp_path / 'raw')
    predict(model, blinking, tmp_path / 'steady', '--steady-frames', 2)
    predict(model, blinking, tmp_path / 'sure', '--steady-frames', 2, '--steady-sure', 0.5)
    predict(model, blinking, tmp_path / 'unsure', '--min-confidence', 0.8)
    assert read(tmp_path / 'raw') == [0, 0, 3, 0, 3, 3]
    assert read(tmp_path / 'steady') == [0, 0, 0, 0, 0, 3]
    assert read(tmp_path / 'sure') == read(tmp_path / 'raw')
    assert read(tmp_path / 'unsure') == [0, 0, 255, 0, 255, 255]

    for name in masks(tmp_path / 'steady')[3:]:
        (tmp_path / 'steady' / name).unlink()
    predict(model, blinking, tmp_path / 'steady', '--steady-frames', 2)
    assert read(tmp_path / 'steady') == [0, 0, 0, 0, 0, 3], (
        'restarted from the beginning, not resumed'
    )


def test_raw_and_filtered_masks_are_not_mixed(model, tmp_path, capsys):
    write_images(tmp_path / 'case', '0.png')
    assert predict(model, tmp_path / 'case', tmp_path / 'out') == 0
    assert predict(model, tmp_path / 'case', tmp_path / 'out', '--steady-frames', 3) == 2
    assert 'made with steady None, these would be with [3, 0.95]' in capsys.readouterr().err
    assert predict(model, tmp_path / 'case', tmp_path / 'new', '--steady-frames', 1) == 2
    assert 'frames is 1' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()

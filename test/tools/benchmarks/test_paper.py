# SPDX-License-Identifier: Apache-2.0
"""Variants alternate on the same images, their masks are compared, and limits are checked."""

import importlib.util
import json

import cv2
import numpy as np
import pytest
import torch
from tiny_models import tiny_spec

from surgseg_ros.core.model_folder import read_spec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from tools.benchmarks import paper
from tools.benchmarks.variants import RefusedError, alternate, export_at

SPEC = tiny_spec(input_size=(64, 64), intended_use='demo')

needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec('openvino'), reason='openvino is not installed'
)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    write_model(tmp_path / 'model', SPEC, SegmentationNetwork(SPEC).state_dict())
    return tmp_path / 'model'


@pytest.fixture
def data(tmp_path):
    for video in ('video_01', 'video_02'):
        for kind, channels in (('rgb', (3,)), ('segmentation', ())):
            path = tmp_path / 'data' / video / kind / f'{0:09d}.png'
            path.parent.mkdir(parents=True)
            value = len(video) + int(video[-1])  # no two videos are copies
            cv2.imwrite(str(path), np.full((48, 80, *channels), value % 10, np.uint8))
    return tmp_path / 'data'


@needs_openvino
def test_all_variants_are_timed_in_all_rounds_and_compared(model, data, tmp_path):
    spec, exports, refused = export_at(model, (64, 96), ['f32'], tmp_path / 'at', 1, data)
    assert (spec.input_size, spec.fit, refused) == ((64, 96), 'stretch', {})
    assert read_spec(exports['f32']).exports['openvino']['precision'] == 'f32'
    images = [np.full((90, 120, 3), 30 * n, np.uint8) for n in range(2)]
    variants = alternate(tmp_path / 'at' / 'plain', exports, images, 3)
    assert list(variants) == ['plain', 'f32']
    for variant in variants.values():
        assert len(variant.whole_ms) == 3
        assert {name: len(times) for name, times in variant.stages_ms.items()} == {
            'fit': 3,
            'network': 3,
            'upsample': 3,
        }
    assert len(variants['f32'].with_confidence_ms) == 2
    assert variants['f32'].same_upsampled > 0.99
    assert variants['f32'].same_as_plain > 0.99, 'the same network on images of one colour'


def test_rejected_variants_are_reported(model, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise RefusedError('too far off')

    monkeypatch.setattr('tools.benchmarks.variants.export', refuse)
    _, exports, refused = export_at(model, (64, 96), ['int8'], tmp_path / 'at', 1)
    assert (exports, refused) == ({}, {'int8': 'too far off'})


def variant(ratio=3.5, share=0.2, same_upsampled=1.0):
    return {'ratio': ratio, 'share': share, 'same_upsampled': same_upsampled}


def row(**best):
    return {
        'input': '640x512',
        'variants': {'plain': variant(1.0), 'f32': variant(1.5, 9), 'bf16': variant(**best)},
    }


@pytest.mark.parametrize(
    ('best', 'text'),
    [
        ({'ratio': 2.9}, '2.90 times as fast, less than 3'),
        ({'share': 0.3}, 'takes 0.30 of the network'),
        ({'same_upsampled': 0.998}, '0.99800 of the plain classes'),
    ],
)
def test_the_fastest_variant_is_checked_against_the_limits(best, text):
    assert not paper.find_missed([row()])
    (missed,) = paper.find_missed([row(**best)])
    assert text in missed
    assert missed.startswith('640x512, bf16')


def test_the_final_stage_is_checked_only_at_the_largest_input():
    assert not paper.find_missed([row(share=0.9), row()])


@needs_openvino
def test_a_small_run_prints_its_tables_and_writes_its_numbers(
    model, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(paper, 'export_at', lambda *words: export_at(*words, data))
    monkeypatch.setattr(paper, 'draw', lambda size: [np.full((90, 120, 3), 99, np.uint8)])
    monkeypatch.setattr(paper.floors, '_SIDES', (64,))
    words = ['--model', f'{model}', '--sizes', '96x64', '--precisions', 'f32', '--rounds', '2']
    # Its speed does not matter here.
    assert paper.main([*words, '--frames', '1', '--json', f'{tmp_path / "paper.json"}']) in (0, 1)
    text = capsys.readouterr().out
    assert '| 96x64 | plain |' in text
    assert '| 96x64 | f32 |' in text
    (found,) = json.loads((tmp_path / 'paper.json').read_text())['inputs']
    assert found['variants']['plain']['ratio'] == 1.0
    assert found['variants']['f32']['export']['class_agreement'] > 0.99

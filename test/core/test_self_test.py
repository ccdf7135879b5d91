# SPDX-License-Identifier: Apache-2.0
"""The self-test of a model passes with its own network, and fails with another one."""

import dataclasses
import hashlib

import numpy as np
import pytest
from tiny_models import write_tiny_model

from surgseg_ros.core.model_folder import ModelError, read_model, write_model
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.self_test import add_self_test, check_self_test, draw

SIZE = (64, 96)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a model folder with random weights and a self-test."""
    folder = write_tiny_model(tmp_path_factory.mktemp('model'), input_size=SIZE)
    add_self_test(folder)
    return folder


def segment(folder, precision='f32'):
    segmenter = Segmenter.load(folder, 'cpu', 'torch', precision=precision)
    return lambda image: segmenter.segment(image).mask


def test_the_images_of_the_self_test_are_the_same_on_every_machine():
    digests = [hashlib.sha256(draw((96, 160), n).tobytes()).hexdigest()[:8] for n in range(2)]
    assert digests == ['46fd44aa', 'f9268e48']


@pytest.mark.parametrize('precision', ['f32', 'bf16', 'f16'])
def test_self_test_passes_in_every_precision(folder, precision):
    spec = read_model(folder)[0]
    assert check_self_test(spec, segment(folder, precision)) >= 0.99


def test_self_test_fails_with_a_wrong_runtime(folder):
    spec, found = read_model(folder)[0], segment(folder)
    with pytest.raises(ModelError, match=r"self-test of 'tiny' fails: .* runtime to 'torch'"):
        check_self_test(spec, lambda image: np.roll(found(image), 1))


def test_a_model_without_self_test_is_reported_differently_from_a_passed_one(folder):
    spec = dataclasses.replace(read_model(folder)[0], self_test={})
    assert check_self_test(spec, segment(folder)) is None


def test_self_test_is_removed_with_its_weights(folder, tmp_path):
    """A model that is trained further needs another self-test."""
    spec, weights = read_model(folder)
    assert write_model(tmp_path, spec, weights).self_test == {}


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'drawing': 99}, 'drawing 99 of'),
        ({'drawing': 'x'}, "drawing 'x' of"),
        ({'classes': 'eJw='}, 'self_test'),
        ({'classes': 7}, 'cannot be read'),
        ({'classes': 'eJztwQEBAAAAgJD+r+4ICgAAAAAAAAAAAAAAAAAAAAAAAAAAGAAAAAE='}, 'self_test'),
    ],
)
def test_rejects_invalid_contents(folder, changes, expected):
    spec = read_model(folder)[0]
    spoiled = dataclasses.replace(spec, self_test={**spec.self_test, **changes})
    with pytest.raises(ModelError, match=expected):
        check_self_test(spoiled, segment(folder))


def test_self_test_includes_color_preprocessing(folder, tmp_path):
    spec, weights = read_model(folder)
    colours = {'target': [60, 160, 160], 'power': 1.0}
    write_model(tmp_path, dataclasses.replace(spec, colour_normalization=colours), weights)
    with_it = add_self_test(tmp_path)
    assert check_self_test(with_it, segment(tmp_path)) >= 0.99
    with pytest.raises(ModelError, match='self-test'):
        check_self_test(with_it, segment(folder))

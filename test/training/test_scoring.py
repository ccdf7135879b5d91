# SPDX-License-Identifier: Apache-2.0
"""Tuning after training, and scores: compared with values computed by hand."""

import dataclasses
import json

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.training.scoring import (
    score,
    tune_and_score,
    tune_margins,
    tune_min_region,
    tune_temperature,
    with_margins,
)

SPEC = ModelSpec(
    name='by hand',
    encoder='tu-resnet18',
    options={'encoder_depth': 3, 'decoder_channels': [8, 8, 8]},
    input_size=(64, 64),
    fit='stretch',
)


class RedChannelNetwork:
    """Predicts the class given by the red channel, so that the test controls it."""

    device = torch.device('cpu')
    description = 'the red channel'
    max_batch_size = 1

    def __init__(self):
        self.calls = 0

    def __call__(self, inputs):
        self.calls += 1
        label = inputs[..., 0].long()  # (N, h, w)
        sure = 1 + inputs[..., 1].float() / 100
        return (torch.nn.functional.one_hot(label, 10) * sure[..., None]).permute(0, 3, 1, 2)


def frame(video, truth, predicted, green=200):
    image = np.stack([predicted, np.full_like(predicted, green), predicted], 2)
    return video, image, truth


def square(label, side, at=0):
    mask = np.zeros((64, 64), np.uint8)
    mask[at : at + side, at : at + side] = label
    return mask


@pytest.fixture
def frames():
    """Return three frames of two videos: right, with a stray region, and empty with one."""
    found = square(3, 32)
    stray = square(4, 4, 50)
    return lambda: [
        frame('a', found, found),
        frame('a', found, found + stray),
        frame('b', np.zeros_like(found), stray),
    ]


def test_scores_are_the_official_ones_of_raw_and_filtered_masks(frames):
    runtime = RedChannelNetwork()
    minimum = [0.0] * 4 + [0.01] + [0.0] * 5
    result = score(Segmenter(SPEC, runtime), frames, minimum)

    assert runtime.calls == 6  # twice for each frame: also without the temperature
    assert (result['videos'], result['frames']) == (2, 3)
    # Class 3 is in both frames of one video and in none of the other.
    assert result['class_floor'] == [1, 1, 0.5, 1, 1, 1, 1, 1, 1]
    assert result['floor']['mIoU'] == pytest.approx(8.5 / 9)
    # The stray class 4 lowers the first video by half and the second completely.
    assert result['raw']['class_mIoU'] == [1, 1, 1, 0.25, 1, 1, 1, 1, 1]
    assert result['raw']['mIoU'] == pytest.approx(8.25 / 9)
    assert result['raw']['class_mNSD'][3] == 0.25
    assert result['filtered']['mIoU'] == result['filtered']['score'] == 1
    assert result['raw']['present_class_IoU'] == [None, None, 1, *[None] * 6]
    calibration = result['calibration']
    assert calibration['bins'] == 15
    assert calibration['before'] == calibration['after']
    # exp(3) / (exp(3) + 9) = 0.69 everywhere, and 2 * 16 stray pixels of 3 * 64² are wrong.
    assert calibration['after']['ece'] == pytest.approx(1 - 32 / 12288 - 0.6906, abs=2e-3)
    assert calibration['after']['instrument_ece'] == pytest.approx(1 - 32 / 2080 - 0.69, abs=3e-3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_minimum_region_removes_stray_regions(frames):
    minimum = tune_min_region(Segmenter(SPEC, RedChannelNetwork()), frames)
    assert 16 / 64**2 < minimum[4] < 0.01
    assert sum(minimum) == minimum[4]


def test_a_margin_suppresses_uncertain_predictions():
    """Class 5 is wrongly predicted with a lead of 1.5."""
    shown = square(5, 10)
    frames = [frame('a', np.zeros_like(shown), shown, 50)]
    margins = tune_margins(RedChannelNetwork(), SPEC, lambda: frames)
    assert margins == (0.0,) * 5 + (1.75,) + (0.0,) * 4


def test_the_temperature_makes_the_confidence_match_the_accuracy(frames):
    """The network is right in all but 32 of 12288 pixels, with a confidence of 0.69."""
    temperature = tune_temperature(RedChannelNetwork(), SPEC, frames)
    assert 0.2 < temperature < 0.5
    spec = dataclasses.replace(SPEC, temperature=temperature)
    calibration = score(Segmenter(spec, RedChannelNetwork()), frames, [0.0] * 10)['calibration']
    assert calibration['before']['ece'] > 0.3
    assert calibration['after']['ece'] < 0.003


def test_tuning_uses_the_same_color_preprocessing_as_inference(frames):
    seen = []

    class Recording(RedChannelNetwork):
        def __call__(self, inputs):
            seen.append(inputs.clone().numpy())
            return super().__call__(inputs // 64)

    colours = {'target': [130, 70, 70], 'power': 1.0}
    spec = dataclasses.replace(SPEC, colour_normalization=colours)
    tune_temperature(Recording(), spec, frames)
    for _, image, _ in frames():
        Segmenter(spec, Recording()).segment(image)
    np.testing.assert_array_equal(seen[:3], seen[3:])
    assert (seen[0] != next(iter(frames()))[1]).any()


@pytest.mark.parametrize('architecture', sorted(smp.MODEL_ARCHITECTURES_MAPPING))
def test_margins_are_subtracted_from_the_logits_of_any_architecture(architecture):
    with torch.device('meta'):
        encoder = 'tu-vit_tiny_patch16_224' if architecture == 'dpt' else 'resnet18'
        layers = smp.create_model(architecture, encoder, None, classes=10)
    weights = {
        f'layers.{key}': torch.zeros(value.shape) for key, value in layers.state_dict().items()
    }
    changed = with_margins(SPEC, weights, range(10))
    (key,) = (key for key in weights if changed[key] is not weights[key])
    assert changed[key].tolist() == [-label for label in range(10)]
    assert not weights[key].any()


def test_a_layer_without_bias_gets_no_margin():
    with pytest.raises(ModelError, match='set margins to false'):
        with_margins(SPEC, {'layers.segmentation_head.0.weight': torch.zeros(10)}, [0.0] * 10)


def test_a_trained_network_is_prepared_for_inference():
    torch.manual_seed(0)
    network = SegmentationNetwork(SPEC).eval()
    before = network.state_dict()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 48, 80, 3), np.uint8)
    frames = [('a', image, np.zeros((48, 80), np.uint8)) for image in images]

    spec, after = tune_and_score(SPEC, before, lambda: frames, margins=True)
    bias = 'layers.segmentation_head.0.bias'
    margins = torch.tensor(spec.training['margins'])
    torch.testing.assert_close(after[bias], before[bias] - margins)
    assert margins.any()
    assert spec.temperature != 1.0
    assert spec.scores['validation']['frames'] == 2
    assert (
        spec.scores['validation']['filtered']['mIoU'] >= spec.scores['validation']['raw']['mIoU']
    )

    spec, after = tune_and_score(SPEC, before, lambda: frames, name='again')
    assert after == before
    assert 'margins' not in spec.training
    assert [*spec.scores] == ['again']

# SPDX-License-Identifier: Apache-2.0
"""The learning rate schedule, weight decay, and the running mean of weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from surgseg_ros.training.config import ConfigError, TrainConfig
from surgseg_ros.training.module import Training
from surgseg_ros.training.networks import (
    build_optimizer,
    freeze_encoder,
    rate,
    running_mean,
)


def _config(**settings):
    return TrainConfig(data='d', output='o', steps=100, **settings)


@pytest.mark.parametrize(
    ('schedule', 'half', 'end'), [('constant', 1, 1), ('poly', 0.5**0.9, 0), ('cosine', 0.5, 0)]
)
def test_the_learning_rate_warms_up_and_decays(schedule, half, end):
    config = _config(schedule=schedule, warm_up_steps=10)
    assert rate(config, 0, 0) == pytest.approx(0.1)
    assert rate(config, 9, 0) == pytest.approx(1)
    assert rate(config, 50, 0.5) == pytest.approx(half)
    assert rate(config, 100, 1) == pytest.approx(end)
    assert rate(config, 101, 1.01) == pytest.approx(end)


@pytest.mark.parametrize(('name', 'kind'), [('adam', 'Adam'), ('adamw', 'AdamW')])
def test_biases_have_no_weight_decay(name, kind):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = build_optimizer(_config(optimizer=name, weight_decay=0.1), network)
    assert type(optimizer).__name__ == kind
    decay = [(len(g['params']), g['weight_decay']) for g in optimizer.param_groups]
    assert decay == [(1, 0.1), (3, 0.0)]


def _unet():
    network = nn.Module()
    network.layers = nn.Module()
    network.layers.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network.layers.decoder = nn.Conv2d(4, 2, 1)
    return network


def test_the_encoder_may_have_a_lower_learning_rate():
    optimizer = build_optimizer(_config(learning_rate=0.5, encoder_rate=0.1), _unet())
    rates = [(len(g['params']), g['lr'], g['weight_decay']) for g in optimizer.param_groups]
    assert rates == [(1, 0.5, 0.01), (1, 0.5, 0.0), (1, 0.05, 0.01), (3, 0.05, 0.0)]


def test_a_frozen_encoder_keeps_weights_and_statistics():
    network = _unet().train()
    optimizer = build_optimizer(_config(encoder_rate=0), network)
    freeze_encoder(network)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    features = network.layers.encoder(torch.rand(2, 3, 8, 8))
    network.layers.decoder(features).sum().backward()
    optimizer.step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {'layers.decoder.weight', 'layers.decoder.bias'}


def test_the_running_mean_adapts_quickly_at_first_and_then_slowly():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    averaged = AveragedModel(layer, multi_avg_fn=running_mean(0.5))
    averaged.update_parameters(layer)  # the first update copies the weights
    nn.init.ones_(layer.weight)
    means = []
    for _ in range(30):
        averaged.update_parameters(layer)
        means.append(float(averaged.module.weight.detach()))
    assert means[0] == pytest.approx(1 - 2 / 11)
    assert means == sorted(means)
    before, after = means[10:12]
    assert (1 - after) == pytest.approx(0.5 * (1 - before), rel=0.02)
    assert torch.isfinite(averaged.module.weight).all()


def test_a_run_may_end_before_its_schedule():
    config = _config(schedule='poly', schedule_steps=100, warm_up_steps=0)
    training = SimpleNamespace(config=config, progress=0.9, data=SimpleNamespace(steps=60))
    assert Training._rate(training, 50) == rate(config, 50, 0.5)
    training.config = _config(schedule='poly', warm_up_steps=0)
    assert Training._rate(training, 50) == rate(config, 50, 0.9)


def test_a_schedule_must_not_end_before_the_run():
    with pytest.raises(ConfigError, match='schedule_steps is 99, less than the 100 of steps'):
        _config(schedule_steps=99)
    _config(schedule_steps=100)

# SPDX-License-Identifier: Apache-2.0
"""Floors follow from FLOPs, bytes and rates, and from nothing else."""

import pytest
import torch

from surgseg_ros.benchmarking import floors
from surgseg_ros.benchmarking.stages import STAGES
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_spec import ModelSpec

SPEC = ModelSpec(
    name='tiny',
    encoder='resnet18',
    options={'encoder_depth': 3, 'decoder_channels': [16, 8, 8]},
    input_size=(64, 96),
)
RATES = floors.Rates({'f32': 1e9, 'bf16': 2e9}, copy=1e6, link=0.0)
SIZE = (100, 200)
PIXELS, FITTED = 100 * 200, 64 * 96


def test_flops_are_those_of_the_convolutions() -> None:
    wide, narrow = (
        floors.count_flops(ModelSpec(name='tiny', encoder='resnet18', input_size=size))
        for size in ((64, 128), (64, 64))
    )
    assert wide == 2 * narrow, 'twice the pixels, twice the work'
    assert narrow > 2 * 64 * (32 * 32) * (3 * 7 * 7), 'the first layer alone takes that'


def test_every_stage_has_its_floor() -> None:
    found = floors.stage_floors(SPEC, SIZE, 'torch float32 on CPU', RATES)
    assert set(found) == {*STAGES, 'total'}
    assert found['total'] == pytest.approx(sum(found[stage] for stage in STAGES))
    assert found['network'] == pytest.approx(1e3 * floors.count_flops(SPEC) / 1e9)
    assert found['fit'] == pytest.approx(3 * PIXELS / 1e3 + 3 * FITTED / 1e3)
    assert found['upsample'] == pytest.approx(((4 * CLASS_COUNT + 1) * FITTED + PIXELS) / 1e3)
    assert found['wait'] == found['download'] == 0


def test_a_link_costs_what_crosses_it() -> None:
    linked = floors.stage_floors(SPEC, SIZE, 'torch', RATES._replace(link=1e6))
    local = floors.stage_floors(SPEC, SIZE, 'torch', RATES)
    assert linked['download'] == pytest.approx((PIXELS + FITTED) / 1e3)
    assert linked['fit'] - local['fit'] == pytest.approx(3 * PIXELS / 1e3)


@pytest.mark.parametrize(
    ('runtime', 'precision'),
    [
        ('torch float32 on CPU', 'f32'),
        ('torch bfloat16 on some GPU', 'bf16'),
        ('openvino bf16 on CPU (auto: no CUDA)', 'bf16'),
        ('openvino int8 and bf16 on CPU', 'int8'),
        ('of something new', 'f32'),
    ],
)
def test_the_narrowest_type_of_a_runtime_sets_the_floor(runtime: str, precision: str) -> None:
    assert floors.precision_of(runtime) == precision


def test_a_precision_that_the_machine_lacks_counts_as_float32() -> None:
    int8 = floors.stage_floors(SPEC, SIZE, 'openvino int8 and bf16', RATES)
    assert int8 == floors.stage_floors(SPEC, SIZE, 'torch float32', RATES)


def test_the_way_is_the_model_and_all_the_rest() -> None:
    stages = floors.stage_floors(SPEC, SIZE, 'torch', RATES)
    way = floors.way_floors(SPEC, SIZE, 'torch', RATES)
    in_and_out = 2 * 2 * 4 * PIXELS / 1e3
    assert way['model'] + way['rest'] == pytest.approx(stages['total'] + in_and_out)
    assert way['model'] == pytest.approx(stages['fit'] + stages['network'] + stages['upsample'])


def test_this_machine_has_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, '_SIDES', (64,))
    rates = floors.measure_rates(torch.device('cpu'))
    assert rates.matrix['f32'] > 0
    assert rates.copy > 0
    assert rates.link == 0
    assert floors.described(rates)['matrix_gflop_per_s'].keys() == rates.matrix.keys()

# SPDX-License-Identifier: Apache-2.0
"""Lower limits of times are computed only from FLOPs, bytes and rates."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_spec

from surgseg_ros.benchmarking import floors
from surgseg_ros.benchmarking.stages import STAGES
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.runtimes.base import has_instructions

SPEC = tiny_spec()
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


def test_the_cost_of_a_link_is_that_of_the_transferred_bytes() -> None:
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


def test_the_end_to_end_floor_is_the_sum_of_network_and_other_stages() -> None:
    stages = floors.stage_floors(SPEC, SIZE, 'torch', RATES)
    floor = floors.path_floors(SPEC, SIZE, 'torch', RATES)
    in_and_out = 2 * 2 * 4 * PIXELS / 1e3
    assert floor['model'] + floor['rest'] == pytest.approx(stages['total'] + in_and_out)
    assert floor['model'] == pytest.approx(stages['fit'] + stages['network'] + stages['upsample'])


def test_rates_of_this_machine_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, '_SIDES', (64,))
    reports: list[str] = []
    rates = floors.measure_rates(torch.device('cpu'), reports.append)
    assert rates.matrix['f32'] > 0
    assert rates.matrix.keys() | rates.not_measured.keys() == {'f32', 'bf16', 'f16', 'int8'}
    assert not rates.matrix.keys() & rates.not_measured.keys()
    assert len(reports) == 4
    assert rates.copy > 0
    assert rates.link == 0
    assert floors.described(rates)['matrix_gflop_per_s'].keys() == rates.matrix.keys()


class Clock:
    """Fake matrix products that take a given time on a fake clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rates: dict[torch.dtype, float]) -> None:
        self.now_s = 0.0
        self.longest_s = 0.0
        self.sides: list[tuple[torch.dtype, int]] = []
        self._rates = rates
        monkeypatch.setattr(floors, '_product', self._product)
        monkeypatch.setattr(floors.time, 'perf_counter', lambda: self.now_s)

    def _product(self, device: object, of_type: torch.dtype, side: int) -> Callable[[], None]:
        def act() -> None:
            took_s = 2 * side**3 / self._rates[of_type]
            self.now_s += took_s
            self.longest_s = max(self.longest_s, took_s)

        self.sides.append((of_type, side))
        return act


@pytest.mark.parametrize('slowdown', [10.0, 300.0, 1e6])
def test_a_trial_of_an_emulated_type_is_aborted(
    monkeypatch: pytest.MonkeyPatch, slowdown: float
) -> None:
    clock = Clock(monkeypatch, {torch.float32: 1e11, torch.int8: 1e11 / slowdown})
    assert floors._is_emulated(torch.int8)
    assert clock.now_s < 10, 'with products of 64 that take five seconds'
    assert clock.longest_s < max(floors._MAX_TRIAL_S, 2 * 64**3 / 1e11 * slowdown + 1e-9)


def test_a_narrow_type_of_equal_speed_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {torch.float32: 1e11, torch.int8: 1e11})
    assert not floors._is_emulated(torch.int8)
    assert (torch.int8, 512) in clock.sides


def test_a_slow_machine_is_measured_with_smaller_products(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {torch.float32: 1e9})
    assert floors._matrix_rate(torch.device('cpu'), torch.float32) == pytest.approx(1e9)
    assert clock.sides == [(torch.float32, 512)], 'a product of 1024 would take two seconds'
    assert clock.now_s < 3


def test_types_without_instructions_in_onednn_are_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(floors, 'has_instructions', lambda name: name in ('f32', 'int8'))
    monkeypatch.setattr(floors, '_is_emulated', lambda of_type: False)
    monkeypatch.setattr(floors, '_matrix_rate', lambda device, of_type: 1e9)
    rates = floors.measure_rates(torch.device('cpu'))
    assert set(rates.matrix) == {'f32', 'int8'}
    assert 'oneDNN has no instructions' in rates.not_measured['bf16']
    assert floors.described(rates)['not_measured'] == rates.not_measured


MEASURE = (
    'import torch; from surgseg_ros.benchmarking import floors; '
    'floors._SIDES = (64,); print(*floors.measure_rates(torch.device("cpu")).matrix)'
)


def measured(**variables: str) -> list[str]:
    """Measure in a new process: the libraries read the variables only once."""
    run = subprocess.run(
        [sys.executable, '-c', MEASURE],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_instructions_disabled_by_the_environment_are_not_measured() -> None:
    found = measured(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2')
    assert 'f32' in found
    assert not {'bf16', 'f16'} & set(found)


@pytest.mark.skipif(
    not has_instructions('bf16'), reason='oneDNN has no bfloat16 instructions here'
)
def test_types_supported_by_onednn_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial decides whether it is faster than float32: plain AVX-512 emulates it."""
    tried: list[torch.dtype] = []
    monkeypatch.setattr(floors, '_is_emulated', lambda of_type: tried.append(of_type) or True)
    monkeypatch.setattr(floors, '_matrix_rate', lambda device, of_type: 1e9)
    rates = floors.measure_rates(torch.device('cpu'))
    assert torch.bfloat16 in tried
    assert set(rates.matrix) == {'f32'}
    assert 'emulated' in rates.not_measured['bf16']

# SPDX-License-Identifier: Apache-2.0
"""What torch and oneDNN report about this CPU, and how the environment changes it."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from surgseg_ros.core.runtimes import base, exported

ASK = (
    'from surgseg_ros.core.runtimes import base as i; print(i.instruction_set()); '
    'print(i.has_instructions("bf16"), i.has_instructions("f32"), i.is_limited())'
)


def instructions(**variables: str) -> list[str]:
    """Query in a new process: the libraries read the variables only once."""
    run = subprocess.run(
        [sys.executable, '-c', ASK],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.skipif(
    'AVX' not in torch.backends.cpu.get_cpu_capability(), reason='no AVX2 instructions here'
)
def test_both_libraries_are_reported_with_the_limits_of_the_environment() -> None:
    name, support = instructions(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2')
    assert name == 'torch AVX2; oneDNN Intel AVX2'
    assert support == 'False True True'


def test_reports_a_library_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    base._onednn_isa.cache_clear()
    monkeypatch.setattr(base, '_ASK_ONEDNN', 'print("nothing of use")')
    assert base.instruction_set().endswith('oneDNN instruction set unknown')
    base._onednn_isa.cache_clear()
    monkeypatch.setattr(base, '_ASK_ONEDNN', 'import time; time.sleep(1000)')
    monkeypatch.setattr(base, '_ANSWER_S', 0.2)
    assert 'did not answer' in base.instruction_set()
    base._onednn_isa.cache_clear()


def test_a_torch_without_onednn_has_only_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'ops', SimpleNamespace(mkldnn=SimpleNamespace()))
    found = [name for name in ('f32', 'bf16', 'f16') if base.has_instructions(name)]
    assert found == ['f32']


@pytest.mark.parametrize(
    ('machine', 'expected'), [('x86_64', False), ('aarch64', True), ('AMD64', False)]
)
def test_bfloat16_that_onednn_emulates_with_avx512_does_not_count(
    monkeypatch: pytest.MonkeyPatch, machine: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: False)
    reports = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    monkeypatch.setattr(torch, 'ops', SimpleNamespace(mkldnn=reports))
    monkeypatch.setattr(platform, 'machine', lambda: machine)
    assert base.has_instructions('bf16') is expected
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    assert base.has_instructions('bf16')
    monkeypatch.delattr(torch.cpu, '_is_avx512_bf16_supported')
    assert base.has_instructions('bf16')


@pytest.mark.parametrize('precision', ['bf16', 'int8'])
@pytest.mark.parametrize(
    ('limit', 'bf16', 'hint'), [('AVX2', False, 'f32'), ('ALL', True, 'bf16'), ('', False, 'bf16')]
)
def test_openvino_is_not_given_a_precision_that_its_onednn_may_not_use(
    monkeypatch: pytest.MonkeyPatch, precision: str, limit: str, bf16: bool, hint: str
) -> None:
    """Without a limit OpenVINO decides: it uses float32 if the processor lacks bfloat16."""
    monkeypatch.delenv('DNNL_MAX_CPU_ISA', raising=False)
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', limit)
    monkeypatch.setattr(exported, 'has_instructions', lambda name: bf16)
    assert exported._precision_hint(precision) == hint
    assert exported._precision_hint('f32') == 'f32'

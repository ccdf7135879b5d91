# SPDX-License-Identifier: Apache-2.0
"""The process that converts: what it finds to be equal and quickest, and how it ends."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import tiny_spec

from surgseg_ros.core.model_folder import write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.exporting import conversion
from surgseg_ros.exporting.conversion import convert_model

pytest.importorskip('openvino', reason='pip install openvino')

SPEC = tiny_spec()


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    torch.manual_seed(0)
    write_model(folder, SPEC, SegmentationNetwork(SPEC).state_dict())
    return folder


@pytest.fixture
def steps():
    return []


@pytest.fixture
def convert(model, tmp_path, steps):
    return lambda: convert_model(model, tmp_path, ['f32'], steps.append)


def test_float32_agrees_and_its_files_are_written(convert, tmp_path, steps):
    verdict = convert()
    assert verdict['quickest'] == 'f32'
    assert verdict['agreement']['f32'] >= 0.999
    assert verdict['network_ms']['f32'] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ['openvino.bin', 'openvino.xml']
    assert steps == ['exporting the graph', 'comparing it with PyTorch']


TIMES_MS = {'f32': 10, 'bf16': 6, 'f16': 5}


@pytest.mark.parametrize(
    ('times_ms', 'shares', 'quickest', 'compared'),
    [
        (TIMES_MS, {'f32': 1, 'bf16': 1, 'f16': 1}, 'f16', {'f32', 'f16'}),
        (TIMES_MS, {'f32': 1, 'bf16': 0.999, 'f16': 0.9989}, 'bf16', {'f32', 'bf16', 'f16'}),
        (TIMES_MS, {'f32': 1, 'bf16': 0.99, 'f16': 0.99}, 'f32', {'f32', 'bf16', 'f16'}),
        (TIMES_MS, {'f32': 0.9995, 'f16': 1}, 'f16', {'f32', 'f16'}),
        ({'f32': 10, 'bf16': 9.5, 'f16': 30}, {'f32': 1}, 'f32', {'f32'}),
    ],
)
def test_selects_the_fastest_precision_that_agrees(
    monkeypatch, steps, times_ms, shares, quickest, compared
):
    verdict, lengths = compare(monkeypatch, steps, times_ms, shares)
    assert verdict['quickest'] == quickest
    assert verdict['agreement'] == {name: shares[name] for name in compared}
    reduced = len(compared) - 1
    assert lengths == ([1, 3] + [1, 3] * reduced if reduced else [1])
    assert len(steps) == (1 + reduced if reduced else 0)


def compare(monkeypatch, steps, times_ms, shares):
    """Compare on a drawing, in which all agree, and on three scenes; return the lengths too."""
    runtimes = {name: object() for name in times_ms}
    scenes = [np.full((90, 160, 3), grey, np.uint8) for grey in (0, 90, 200)]
    lengths = []

    def agreement(expected, other, images):
        assert expected == len(images)
        lengths.append(expected)
        name = next(name for name, runtime in runtimes.items() if runtime is other)
        return shares[name] if expected == 3 else 1

    monkeypatch.setattr(conversion, '_network_ms', lambda runtimes, inputs: times_ms)
    monkeypatch.setattr(conversion, '_draw_scenes', lambda: iter(scenes))
    monkeypatch.setattr(conversion, '_classes', lambda runtime, images: len(images))
    monkeypatch.setattr(conversion, '_agreement', agreement)
    return conversion._compare(SPEC, object(), runtimes, steps.append), lengths


def test_rejects_float32_that_differs_on_the_scenes(monkeypatch, steps):
    verdict, lengths = compare(monkeypatch, steps, TIMES_MS, {'f32': 0.998})
    assert verdict == {
        'refusal': 'OpenVINO finds the class of PyTorch in 99.80 % of the pixels of 20 drawn '
        'scenes; at least 99.9 % are required'
    }
    assert lengths == [1, 3]


def test_rejects_a_graph_that_differs_from_the_network(convert, monkeypatch):
    real = conversion.openvino_model

    def other(network, spec):
        torch.manual_seed(1)
        return real(SegmentationNetwork(spec).eval(), spec)

    monkeypatch.setattr(conversion, 'openvino_model', other)
    assert 'OpenVINO finds the class of PyTorch in ' in convert()['refusal']


def test_rejects_a_network_that_cannot_be_converted_with_the_reason(convert, monkeypatch):
    def fail(network, spec):
        raise error

    monkeypatch.setattr(conversion, 'openvino_model', fail)
    error = RuntimeError('No such operator.\n\nSee the documentation')
    assert convert() == {'refusal': 'OpenVINO cannot convert the network: No such operator'}
    for error in (MemoryError('all is used'), RuntimeError("can't allocate memory: 8 bytes")):
        with pytest.raises(type(error)):
            convert()


def test_the_scenes_differ(monkeypatch):
    monkeypatch.setattr(conversion, '_SCENES', 2)
    first, second = conversion._draw_scenes()
    assert first.shape == second.shape == (360, 640, 3)
    assert np.abs(first.astype(int) - second).mean() > 5


WAITS = """
import pathlib, sys, threading
from surgseg_ros.exporting import conversion
arguments = [pathlib.Path(sys.argv[1])]
threading.Thread(target=conversion._end_with_input, args=arguments, daemon=True).start()
print('ready', flush=True)
threading.Event().wait(60)
"""


def test_the_process_ends_with_its_parent_and_removes_its_output(tmp_path):
    (tmp_path / 'output/part').mkdir(parents=True)
    child = subprocess.Popen(
        [sys.executable, '-c', WAITS, str(tmp_path / 'output')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout.readline() == b'ready\n'
        child.stdin.close()
        assert child.wait(60) == 1
    assert not (tmp_path / 'output').exists()

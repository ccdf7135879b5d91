# SPDX-License-Identifier: Apache-2.0
"""`export`: models for other runtimes, compared with the original, and rejected if worse."""

import dataclasses
import hashlib
import importlib.util
import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tiny_models import tiny_spec
from verbs import verb

from surgseg_ros.core.model_folder import (
    EXPORT_FILES,
    ModelError,
    read_model,
    read_spec,
    write_model,
)
from surgseg_ros.core.preprocessing import fit
from surgseg_ros.core.runtimes import exported as exported_runtimes
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.exporting import export as exporting

pytestmark = pytest.mark.usefixtures('one_thread')

main = verb('export')

SPEC = tiny_spec(temperature=1.25)
IMAGE = np.random.default_rng(7).integers(0, 256, (100, 130, 3), np.uint8)

# Telemetry that `import_library` blocks may have been imported before by another test.
sys.modules.setdefault('openvino_telemetry', None)


def need(backend):
    for name in (*exporting.BACKENDS[backend].libraries, 'nncf'):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f'{name} is not installed here')


def make_model(folder, lead):
    torch.manual_seed(0)
    network = SegmentationNetwork(SPEC).eval()
    with torch.no_grad():
        network.layers.segmentation_head[0].bias[3] += lead
    write_model(folder, SPEC, network.state_dict())
    return folder


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Make a model whose classes are close, as in an untrained one."""
    return make_model(tmp_path_factory.mktemp('models') / 'tiny', 0)


@pytest.fixture(scope='module')
def sure(tmp_path_factory):
    """Make a model that predicts a single class in any precision."""
    return make_model(tmp_path_factory.mktemp('models') / 'sure', 4)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for video in ('video_01', 'video_02'):
        for index in range(0, 180, 60):
            rng = np.random.default_rng([index, video == 'video_02'])
            image = rng.integers(0, 90, (48, 80, 3), np.uint8)
            mask = np.zeros((48, 80), np.uint8)
            image[10:40, 20:60], mask[10:40, 20:60] = 220, 3
            for kind, array in (('rgb', image), ('segmentation', mask)):
                path = root / video / kind / f'{index:09d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)
    return root


def export(model, data, output, backend='openvino', precision='f32', *more):
    words = ['--model', model, '--calibration', data, '--output', output]
    words += ['--backend', backend, '--precision', precision, '--frames', 2, *more]
    return main([str(word) for word in words])


@pytest.mark.parametrize('backend', EXPORT_FILES)
@pytest.mark.parametrize('precision', ['f32', 'bf16', 'int8'])
def test_an_export_gives_the_results_of_the_original(
    model, sure, data, tmp_path, backend, precision, capsys
):
    need(backend)
    model = model if precision == 'f32' else sure
    output = tmp_path / 'exported'
    status = export(model, data, output, backend, precision)
    if (backend, precision) == ('onnx', 'bf16') and not torch.cuda.is_available():
        assert status == 2
        assert 'which TensorRT alone has' in capsys.readouterr().err
        assert not any(tmp_path.iterdir())
        return
    assert status == 0
    assert 'on 2 held-out frames of 1 video' in capsys.readouterr().out
    files = {'model.json', 'weights.safetensors', *EXPORT_FILES[backend]}
    assert {path.name for path in output.iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ['exported']

    spec, weights = read_model(output)
    assert spec.temperature == SPEC.temperature
    entry = spec.exports[backend]
    assert entry['precision'] == precision
    assert entry['agreement']['calibration_frames'] == (2 if precision == 'int8' else 0)
    assert entry['agreement']['exported']['mIoU'] <= 1
    assert weights.keys() == read_model(model)[1].keys()

    original = Segmenter.load(model, 'cpu', 'torch')
    exported = Segmenter.load(output, 'auto', exporting.BACKENDS[backend].runtime)
    assert np.mean(exported.segment(IMAGE).mask == original.segment(IMAGE).mask) > 0.999
    inputs = fit(torch.from_numpy(IMAGE)[None], SPEC.input_size, SPEC.fit)
    with torch.inference_mode():
        logits = [s.runtime(inputs.to(s.runtime.device)).cpu() for s in (original, exported)]
    error = (logits[0] - logits[1]).abs().mean() / logits[0].std()
    assert error < {'f32': 1e-4, 'bf16': 0.03, 'int8': 0.2}[precision]


@pytest.fixture(scope='module')
def exported(model, data, tmp_path_factory):
    need('openvino')
    output = tmp_path_factory.mktemp('exported') / 'openvino'
    assert export(model, data, output) == 0
    return output


def test_auto_selects_the_export(exported):
    description = Segmenter.load(exported, 'cpu', 'auto').runtime.description
    assert description.startswith('openvino f32 on CPU (auto: no CUDA, and the model has an Op')


def test_logits_are_not_copied_and_batches_are_run_at_once(exported):
    runtime = Segmenter.load(exported, 'cpu', 'openvino').runtime
    images = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    batch = runtime(images)
    first = runtime(images[:1])
    assert torch.equal(batch[:1], first)
    assert not torch.equal(batch[1:2], first)
    assert runtime(images[1:2]).data_ptr() == first.data_ptr()
    transposed = images[:1].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(runtime(transposed), batch[:1])


def test_openvino_uses_as_many_threads_as_torch(exported, monkeypatch):
    seen = {}
    real = exported_runtimes.openvino_core()

    class Core:
        read_model = real.read_model

        def compile_model(self, model, device, settings):
            seen.update(settings)
            return real.compile_model(model, device, settings)

    monkeypatch.setattr(exported_runtimes, 'openvino_core', Core)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    Segmenter.load(exported, 'cpu', 'openvino')
    assert seen['INFERENCE_NUM_THREADS'] == 3


def test_exports_for_other_backends_are_kept(exported, data, tmp_path):
    need('onnx')
    assert export(exported, data, tmp_path / 'both', 'onnx') == 0
    assert set(read_spec(tmp_path / 'both').exports) == {'openvino', 'onnx'}
    Segmenter.load(tmp_path / 'both', 'cpu', 'openvino')


def forge(exported, folder, name, content, **changes):
    """Copy an export with another file and a matching hash."""
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_bytes(content)
    values = {**json.loads((folder / 'model.json').read_text()), **changes}
    values['exports']['openvino']['files'][name] = hashlib.sha256(content).hexdigest()
    (folder / 'model.json').write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize('content', [b'', b'<net', b'\0' * 100])
def test_rejects_a_file_that_is_not_a_graph(exported, tmp_path, content):
    folder = forge(exported, tmp_path / 'forged', 'openvino.xml', content)
    with pytest.raises(ModelError, match='OpenVINO cannot read the export'):
        Segmenter.load(folder, 'cpu', 'openvino')


def test_rejects_a_graph_of_another_size(exported, tmp_path):
    graph = (exported / 'openvino.xml').read_bytes()
    folder = forge(exported, tmp_path / 'a', 'openvino.xml', graph, input_size=[32, 96])
    with pytest.raises(ModelError, match=r'\(1, 64, 96, 3\)\], expected .*\(32, 96\)'):
        Segmenter.load(folder, 'cpu', 'openvino')


@pytest.mark.parametrize(
    ('bound', 'value', 'precision', 'expected'),
    [
        ('MIN_CLASS_AGREEMENT', 1.1, 'f32', 'of 2 held-out frames have the class of'),
        ('LARGEST_MIOU_LOSS', -2, 'int8', 'use --precision bf16'),
    ],
)
def test_an_export_below_the_limit_leaves_nothing(
    model, data, tmp_path, monkeypatch, capsys, bound, value, precision, expected
):
    need('openvino')
    monkeypatch.setattr(exporting, bound, value)
    assert export(model, data, tmp_path / 'exported', 'openvino', precision) == 1
    err = capsys.readouterr().err
    assert 'export: refused: ' in err
    assert expected in err
    assert not any(tmp_path.iterdir())


def test_rejects_the_graph_of_another_network(model, data, tmp_path, monkeypatch, capsys):
    need('openvino')

    def other(network, spec, inputs, folder):
        torch.manual_seed(1)
        exporting.to_openvino(SegmentationNetwork(spec).eval(), spec, inputs, folder)

    backend = exporting.BACKENDS['openvino']._replace(convert=other)
    monkeypatch.setitem(exporting.BACKENDS, 'openvino', backend)
    assert export(model, data, tmp_path / 'exported') == 1
    assert 'less than 99 %' in capsys.readouterr().err


def test_error_names_a_missing_library_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert export(tmp_path / 'nothing', tmp_path, tmp_path / 'exported') == 2
    assert 'openvino cannot be imported' in capsys.readouterr().err


def test_rejects_an_output_folder_that_is_not_empty(model, data, tmp_path, capsys):
    (tmp_path / 'mine').write_text('mine')
    assert export(model, data, tmp_path) == 2
    assert 'is not an empty folder: name a new' in capsys.readouterr().err
    assert (tmp_path / 'mine').read_text() == 'mine'


@pytest.fixture
def libraries(monkeypatch):
    """Pretend that all libraries are installed; the tests that use this need none."""
    for name in ('openvino', 'nncf'):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())


@pytest.mark.usefixtures('libraries')
def test_a_research_model_needs_a_data_set(model, tmp_path, capsys):
    words = ['--model', model, '--backend', 'openvino', '--precision', 'int8']
    assert main([str(word) for word in (*words, '--output', tmp_path / 'x')]) == 2
    assert 'give one of its kind with --calibration' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures('libraries')
def test_rejects_a_damaged_model(model, data, tmp_path, capsys):
    spec = dataclasses.replace(read_spec(model), weights_sha256='0' * 64)
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged' / 'model.json').write_text(spec.to_json())
    (tmp_path / 'damaged' / 'weights.safetensors').write_bytes(b'0')
    assert export(tmp_path / 'damaged', data, tmp_path / 'x') == 2
    assert 'SHA-256' in capsys.readouterr().err

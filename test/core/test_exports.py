# SPDX-License-Identifier: Apache-2.0
"""Exports listed in model.json; only listed files are used."""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_spec, write_model
from surgseg_ros.core.runtimes.base import import_library, one_by_one, read_export

CONTENTS = {'openvino.xml': b'<net/>', 'openvino.bin': b'\1\2\3'}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
ENTRY: dict[str, Any] = {'precision': 'f32', 'files': DIGESTS, 'agreement': {'frames': 3}}
SPEC = ModelSpec(name='exported', exports={'openvino': ENTRY})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_json_round_trip_keeps_exports() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


def test_a_model_without_exports_is_valid() -> None:
    values = json.loads(SPEC.to_json())
    del values['exports']
    assert ModelSpec.from_json(json.dumps(values)).exports == {}


@pytest.mark.parametrize(
    ('exports', 'message'),
    [
        ({'tflite': ENTRY}, "unknown backend 'tflite', expected openvino, onnx"),
        ({'openvino': 3}, 'openvino is 3, expected precision, files and agreement'),
        ({'openvino': {**ENTRY, 'more': 1}}, 'expected precision, files and agreement'),
        ({'openvino': {**ENTRY, 'precision': 'f16'}}, "precision of openvino is 'f16'"),
        ({'openvino': {**ENTRY, 'files': {'../x': DIGESTS['openvino.xml']}}}, r"'\.\./x'"),
        ({'openvino': {**ENTRY, 'files': {'openvino.xml': 'a'}}}, 'expected openvino.xml, open'),
        ({'openvino': {**ENTRY, 'files': dict.fromkeys(DIGESTS, 'ab')}}, "has 'ab', expected a S"),
        ({'openvino': {**ENTRY, 'agreement': []}}, r'agreement of openvino is \[\]'),
        ({'onnx': ENTRY}, 'files of onnx are'),
    ],
)
def test_error_names_what_is_invalid(exports: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f'exports: .*{message}'):
        ModelSpec(name='exported', exports=exports)


def test_an_export_is_read_completely(folder: Path) -> None:
    assert read_export(folder, SPEC, 'openvino') == ('f32', [*CONTENTS.values()])


@pytest.mark.parametrize('name', CONTENTS)
def test_rejects_a_changed_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(CONTENTS[name] + b'!')
    with pytest.raises(ModelError, match=f'{name}: SHA-256 is .* copy the model folder again'):
        read_export(folder, SPEC, 'openvino')


def test_rejects_a_missing_file(folder: Path) -> None:
    (folder / 'openvino.bin').unlink()
    with pytest.raises(ModelError, match=r'openvino\.bin: cannot be read \(No such file'):
        read_export(folder, SPEC, 'openvino')


def test_error_for_a_missing_export_names_the_command_that_makes_it(folder: Path) -> None:
    with pytest.raises(ModelError, match=r'no export for onnx.* export --model .*onnx'):
        read_export(folder, SPEC, 'onnx')


def test_writing_new_weights_removes_old_exports(tmp_path: Path) -> None:
    assert write_model(tmp_path, SPEC, {'a': torch.zeros(1)}).exports == {}
    assert read_spec(tmp_path) == replace(read_spec(tmp_path), exports={})


def test_error_for_a_missing_library_names_it_and_a_remedy() -> None:
    with pytest.raises(ValueError, match=r'no_such_library cannot be imported .*: make it'):
        import_library('no_such_library', 'make it')


def test_a_batch_is_run_image_by_image_even_if_memory_is_reused() -> None:
    memory = torch.empty(1, 2)

    def run(inputs: torch.Tensor) -> torch.Tensor:
        assert inputs.shape == (1, 2)
        return torch.mul(inputs, 2, out=memory)

    batch = torch.arange(6.0).view(3, 2)
    assert torch.equal(one_by_one(run, batch), 2 * batch)
    assert one_by_one(run, batch[:1]) is memory


def test_telemetry_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, 'openvino_telemetry', raising=False)
    import_library('json', '')
    assert sys.modules['openvino_telemetry'] is None


def test_telemetry_of_onnxruntime_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ORT_DISABLE_TELEMETRY', '0')
    import_library('json', '')
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'

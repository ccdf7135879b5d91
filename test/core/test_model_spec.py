# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.model_folder import (
    ModelError,
    ModelSpec,
    read_model,
    read_spec,
    write_model,
    write_spec,
)

SPEC = ModelSpec(name='tëst → 1', training={'note': 'größe', 'steps': 3})
VALUES: dict[str, Any] = json.loads(SPEC.to_json())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_json_round_trip_keeps_every_value() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


@given(key=st.sampled_from([entry.name for entry in fields(ModelSpec)]), value=json_values)
def test_any_value_of_any_key_is_read_or_rejected(key: str, value: object) -> None:
    refusal, spec = '', SPEC
    try:
        spec = ModelSpec.from_json(json.dumps({**VALUES, key: value}))
    except ModelError as error:
        refusal = str(error)
    assert not refusal or key in refusal or 'JSON' in refusal
    assert ModelSpec.from_json(spec.to_json()) == spec


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_rejects_any_other_content(content: bytes) -> None:
    with pytest.raises(ModelError):
        ModelSpec.from_json(content)


@pytest.mark.parametrize('content', ['[' * 100_000, '9' * 10_000, '{"a": 1e999}', '\udcff'])
def test_rejects_hostile_json(content: str) -> None:
    with pytest.raises(ModelError):
        ModelSpec.from_json(content)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('surprise', 1, "unknown keys \\['surprise'\\]"),
        ('classes', list(CLASS_NAMES[:-1]), r"classes\[9\] is None, expected 'catheter'"),
        ('classes', [*CLASS_NAMES, 'more'], r"classes\[10\] is 'more', expected None"),
        ('classes', [*CLASS_NAMES[:4], 'thread', 'suturing needle'], r"classes\[4\] is 'thread'"),
        ('format_version', 2, 'this release reads 1'),
        ('format_version', True, 'format_version is True'),
        ('encoder', 'tu-hf-hub:someone/net', "encoder is 'tu-hf-hub:someone/net'"),
        ('input_size', [360, 640], 'multiples of 32'),
        ('input_size', [64.0, 64.0], 'multiples of 32'),
        ('std', [0, 0.2, 0.2], 'std is'),
        ('fit', 'crop', "fit is 'crop', expected one of letterbox, stretch"),
        ('weights_sha256', 'abc', "weights_sha256 is 'abc'"),
        ('temperature', 0, r'temperature is \(0,\)'),
        ('temperature', -1.5, r'temperature is \(-1.5,\)'),
        ('temperature', 10**400, 'temperature is'),
        ('temperature', True, r'temperature is \(True,\)'),
        ('temperature', '1', r"temperature is \('1',\)"),
        ('colour_normalization', [1], r'colour_normalization is \[1\], expected an object'),
        ('colour_normalization', {'power': 1}, "is {'power': 1}, expected a list target"),
        ('colour_normalization', {'target': 130, 'power': 1}, 'expected a list target'),
        (
            'colour_normalization',
            {'target': [130, 70], 'power': 1},
            r'target of colour_normalization is \(130, 70\), expected 3 numbers between 1.0',
        ),
        (
            'colour_normalization',
            {'target': [130, 70, 70], 'power': 1.5},
            r'power of colour_normalization is \(1.5,\), expected 1 numbers between 0.0 and 1.0',
        ),
    ],
)
def test_error_names_what_is_invalid(key: str, value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(json.dumps({**VALUES, key: value}))


def test_missing_keys_are_named() -> None:
    with pytest.raises(ModelError, match="missing keys \\['architecture', 'classes'"):
        ModelSpec.from_json('{"name": "x"}')


@pytest.mark.parametrize('key', ['mean', 'std', 'intended_use', 'colour_order', 'architecture'])
def test_keys_that_affect_the_mask_have_no_default(key: str) -> None:
    values = {name: value for name, value in VALUES.items() if name != key}
    with pytest.raises(ModelError, match=f"missing keys \\['{key}'\\]"):
        ModelSpec.from_json(json.dumps(values))


def test_an_older_model_leaves_colors_unchanged() -> None:
    values = {name: value for name, value in VALUES.items() if name != 'colour_normalization'}
    assert ModelSpec.from_json(json.dumps(values)).colour_normalization == {}


def test_an_older_model_has_no_temperature() -> None:
    values = {name: value for name, value in VALUES.items() if name != 'temperature'}
    assert ModelSpec.from_json(json.dumps(values)).temperature == 1.0


@pytest.mark.parametrize('temperature', [float('nan'), float('inf')])
def test_a_temperature_is_a_finite_number(temperature: float) -> None:
    with pytest.raises(ModelError, match='temperature is'):
        ModelSpec(name='x', temperature=temperature)


def test_rewriting_the_specification_changes_no_other_file(tmp_path: Path) -> None:
    spec = write_model(tmp_path, SPEC, {'a': torch.zeros(2)})
    write_spec(tmp_path, replace(spec, temperature=1.5))
    again, weights = read_model(tmp_path)
    assert again == replace(spec, temperature=1.5)
    assert not weights['a'].any()


def test_written_folder_is_read_back(tmp_path: Path) -> None:
    weights = {'a': torch.arange(6.0).view(2, 3).t(), 'b': torch.tensor(7)}
    written = write_model(tmp_path / 'deep' / 'model', SPEC, weights)
    spec, read = read_model(tmp_path / 'deep' / 'model')
    assert spec == written
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert sorted(path.name for path in (tmp_path / 'deep' / 'model').iterdir()) == [
        'model.json',
        'weights.safetensors',
    ]


def test_a_failed_write_keeps_the_old_model(tmp_path: Path) -> None:
    write_model(tmp_path, SPEC, {'a': torch.zeros(2)})
    broken = ModelSpec(name='broken', scores={'loss': float('nan')})
    with pytest.raises(ModelError, match='NaN'):
        write_model(tmp_path, broken, {'a': torch.ones(2)})
    spec, weights = read_model(tmp_path)
    assert spec.name == SPEC.name
    assert not weights['a'].any()


def linked(tmp_path: Path, leave_out: str = '') -> Path:
    """Link a model folder file by file, as colcon does."""
    write_model(tmp_path / 'store', SPEC, {'a': torch.zeros(2)})
    (tmp_path / 'linked').mkdir()
    for path in (tmp_path / 'store').iterdir():
        if path.name != leave_out:
            (tmp_path / 'linked' / path.name).symlink_to(path)
    return tmp_path / 'linked'


def test_reads_a_folder_of_symlinks(tmp_path: Path) -> None:
    assert read_model(linked(tmp_path))[0].name == SPEC.name


@pytest.mark.parametrize('name', ['model.json', 'weights.safetensors'])
def test_rejects_a_symlink_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = linked(tmp_path, leave_out=name)
    (tmp_path / 'secret').write_bytes((tmp_path / 'store' / name).read_bytes())
    (folder / name).symlink_to(tmp_path / 'secret')
    with pytest.raises(ModelError, match='secret, outside the model folder: copy the file itself'):
        read_model(folder)


def test_rejects_a_single_symlink_to_another_model(tmp_path: Path) -> None:
    write_model(tmp_path / 'store', SPEC, {'a': torch.zeros(2)})
    write_model(tmp_path / 'mine', SPEC, {'a': torch.zeros(2)})
    (tmp_path / 'mine' / 'weights.safetensors').unlink()
    (tmp_path / 'mine' / 'weights.safetensors').symlink_to(
        tmp_path / 'store' / 'weights.safetensors'
    )
    with pytest.raises(ModelError, match='outside the model folder'):
        read_model(tmp_path / 'mine')


@pytest.mark.parametrize('name', ['model.json', 'weights.safetensors'])
@pytest.mark.parametrize('target', ['/dev/zero', 'fifo', 'loop'])
def test_rejects_a_fifo_without_blocking(tmp_path: Path, name: str, target: str) -> None:
    write_model(tmp_path, SPEC, {'a': torch.zeros(2)})
    (tmp_path / name).unlink()
    if target == 'fifo':
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(name if target == 'loop' else target)
    with pytest.raises(ModelError, match=name):
        read_model(tmp_path)


def test_rejects_a_file_that_is_too_large(tmp_path: Path) -> None:
    write_model(tmp_path, SPEC, {'a': torch.zeros(2)})
    with (tmp_path / 'weights.safetensors').open('wb') as file:
        file.truncate(1 << 40)  # a sparse file, which takes no space
    with pytest.raises(ModelError, match=f'has {1 << 40} bytes, larger than'):
        read_model(tmp_path)


def truncate(folder: Path) -> None:
    path = folder / 'weights.safetensors'
    path.write_bytes(path.read_bytes()[:-1])


def change(folder: Path) -> None:
    path = folder / 'weights.safetensors'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def pickled(folder: Path) -> None:
    content = pickle.dumps({'a': 1})
    (folder / 'weights.safetensors').write_bytes(content)
    values = json.loads((folder / 'model.json').read_bytes())
    values['weights_sha256'] = hashlib.sha256(content).hexdigest()
    (folder / 'model.json').write_text(json.dumps(values))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (truncate, 'truncated or another one; copy the model folder again'),
        (change, 'SHA-256 is'),
        (pickled, 'is not a safetensors file'),
        (lambda folder: (folder / 'weights.safetensors').unlink(), 'No such file'),
        (lambda folder: (folder / 'model.json').unlink(), 'No such file'),
        (lambda folder: (folder / 'model.json').write_text(''), 'is not JSON'),
        (lambda folder: (folder / 'model.json').write_bytes(bytes(2 << 20)), 'larger than'),
    ],
)
def test_rejects_a_damaged_folder_and_names_it(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_model(tmp_path, SPEC, {'a': torch.zeros(2)})
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize('name', ['missing', 'x' * 5000, 'file', 'file/below'])
def test_rejects_a_missing_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(ModelError):
        read_spec(tmp_path / name)


def test_rejects_weights_of_an_unknown_dtype(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[0,2]}}'
    content = len(header).to_bytes(8, 'little') + header + b'\0\0'
    write_model(tmp_path, SPEC, {})
    (tmp_path / 'weights.safetensors').write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / 'model.json').write_text(json.dumps({**VALUES, 'weights_sha256': digest}))
    try:
        known = safetensors.torch.load(content)
    except KeyError:
        with pytest.raises(ModelError, match='not a safetensors file'):
            read_model(tmp_path)
    else:
        assert read_model(tmp_path)[1].keys() == known.keys()

# SPDX-License-Identifier: Apache-2.0
"""An export cannot make a runtime read another file, however it refers to it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes import RuntimeOptions, load_runtime
from surgseg_ros.core.runtimes.exported import check_graph

onnx = pytest.importorskip('onnx', reason='pip install onnx')


def tensor(external: bool = True) -> Any:
    made = onnx.TensorProto(name='w', data_type=1, dims=[1])
    if not external:
        made.float_data.append(1.0)
        return made
    made.data_location = onnx.TensorProto.EXTERNAL
    entry = made.external_data.add()
    entry.key, entry.value = 'location', 'beside.bin'
    return made


def graph(*nodes: Any, initializers: tuple[Any, ...] = ()) -> Any:
    return onnx.helper.make_graph(list(nodes), 'g', [], [], list(initializers))


def within(attribute: str, value: Any) -> Any:
    return onnx.helper.make_node('Any', [], ['y'], **{attribute: value})


def sparse() -> Any:
    return onnx.SparseTensorProto(values=tensor(), dims=[1])


def function() -> Any:
    made = onnx.FunctionProto(name='f', domain='d')
    made.node.append(within('value', tensor()))
    return made


LOCATIONS: dict[str, Callable[[], Any]] = {
    'initializer': lambda: graph(initializers=(tensor(),)),
    'constant': lambda: graph(within('value', tensor())),
    'constants': lambda: graph(within('values', [tensor()])),
    'body': lambda: graph(within('body', graph(initializers=(tensor(),)))),
    'bodies': lambda: graph(within('bodies', [graph(within('value', tensor()))])),
    'sparse': lambda: graph(within('value', sparse())),
    'engine': lambda: graph(onnx.helper.make_node('EPContext', [], [], domain='com.microsoft')),
}


def serialized(made: Any, functions: list[Any] = ()) -> bytes:
    return onnx.helper.make_model(made, functions=functions).SerializeToString()


@pytest.mark.parametrize('location', LOCATIONS)
def test_finds_a_reference_to_another_file_anywhere(location: str) -> None:
    with pytest.raises(ValueError, match=r'in another file|a compiled engine'):
        check_graph(serialized(LOCATIONS[location]()))


def test_finds_a_reference_in_a_function_and_in_sparse_weights() -> None:
    with pytest.raises(ValueError, match='in another file'):
        check_graph(serialized(graph(), [function()]))
    made = graph()
    made.sparse_initializer.append(sparse())
    with pytest.raises(ValueError, match='in another file'):
        check_graph(serialized(made))


def test_accepts_a_graph_that_contains_all_its_weights() -> None:
    held = tensor(external=False)
    assert check_graph(serialized(graph(within('value', held), initializers=(held,)))) is None


@given(st.binary(max_size=60))
def test_any_other_content_is_read_or_rejected(content: bytes) -> None:
    refusal = 'not an ONNX graph'
    try:
        check_graph(content)
    except ValueError as error:
        refusal = str(error)
    assert 'not an ONNX graph' in refusal or 'another file' in refusal


def test_nesting_depth_is_limited() -> None:
    content = b''
    for _ in range(400):  # a node with an attribute that is a graph of one node
        for key in (b'\x32', b'\x2a', b'\x0a'):
            content = key + _length(content) + content
    with pytest.raises(ValueError, match='deep'):
        check_graph(b'\x3a' + _length(content) + content)


def _length(content: bytes) -> bytes:
    number, made = len(content), b''
    while number >= 0x80:
        made += bytes([number & 0x7F | 0x80])
        number >>= 7
    return made + bytes([number])


def with_export(folder: Path, backend: str, files: dict[str, bytes]) -> ModelSpec:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    export = {'precision': 'f32', 'files': digests, 'agreement': {}}
    return replace(ModelSpec(name='any'), exports={backend: export})


def test_onnxruntime_cannot_be_made_to_read_another_file(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
    spec = with_export(tmp_path, 'onnx', {'model.onnx': serialized(LOCATIONS['initializer']())})
    with pytest.raises(ModelError, match='a tensor is in another file'):
        load_runtime(tmp_path, spec, 'onnxruntime', RuntimeOptions('cpu'))


@pytest.mark.parametrize(
    'content',
    [
        serialized(LOCATIONS['initializer']()),
        b'',
        b'<?xml version="1.0"?><!DOCTYPE n [<!ENTITY e SYSTEM "file:///etc/hostname">]><net>&e;</net>',
    ],
)
def test_openvino_accepts_only_its_own_xml(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip('openvino', reason='pip install openvino')
    spec = with_export(tmp_path, 'openvino', {'openvino.xml': content, 'openvino.bin': b''})
    with pytest.raises(ModelError, match=r'openvino\.xml is not XML of OpenVINO'):
        load_runtime(tmp_path, spec, 'openvino', RuntimeOptions('cpu'))


@pytest.mark.parametrize('offset', [0, 1 << 40, (1 << 64) - 4])
def test_openvino_does_not_read_beyond_the_weights(tmp_path: Path, offset: int) -> None:
    pytest.importorskip('openvino', reason='pip install openvino')
    data = f'<data element_type="f32" shape="1" offset="{offset}" size="4"/>'
    port = '<output><port id="0" precision="FP32"><dim>1</dim></port></output>'
    layer = f'<layer id="0" name="w" type="Const" version="opset1">{data}{port}</layer>'
    result = (
        '<layer id="1" name="r" type="Result" version="opset1"><input><port id="0" '
        'precision="FP32"><dim>1</dim></port></input></layer>'
    )
    edge = '<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges>'
    net = f'<net name="n" version="11"><layers>{layer}{result}</layers>{edge}</net>'
    files = {'openvino.xml': net.encode(), 'openvino.bin': b'\0'}
    spec = with_export(tmp_path, 'openvino', files)
    with pytest.raises(ModelError, match='OpenVINO cannot read the export'):
        load_runtime(tmp_path, spec, 'openvino', RuntimeOptions('cpu'))

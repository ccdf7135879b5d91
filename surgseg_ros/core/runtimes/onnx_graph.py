# SPDX-License-Identifier: Apache-2.0
"""What an ONNX graph must not hold: names of other files, which a runtime would open."""

from collections.abc import Iterator, Mapping
from typing import Final

_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    'model': {7: 'graph', 20: 'training', 25: 'function'},
    'training': {1: 'graph', 2: 'graph'},
    'function': {7: 'node', 11: 'attribute'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse'},
    'node': {5: 'attribute'},
    'attribute': {5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse'},
    'sparse': {1: 'tensor', 2: 'tensor'},
    'tensor': {},
}
"""By kind of message in onnx.proto, its fields that lead to tensors, and what they are."""

_EXTERNAL_DATA: Final = 13  # of a tensor
_OPERATOR: Final = 4  # of a node
_DEEPEST: Final = 50


def check_graph(graph: bytes) -> None:
    """
    Refuse a graph that takes weights or compiled engines from other files.

    Those are opened relative to the present folder, unseen by the hashes in model.json.

    :param graph: the serialized onnx.ModelProto.
    :raises ValueError: if it does, or cannot be read.
    """
    try:
        _check(memoryview(graph), 'model', 0)
    except IndexError as error:
        raise ValueError('it is no ONNX graph: it ends in the middle of a field') from error


def _check(content: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f'it is nested more than {_DEEPEST} deep')
    for number, value in _fields(content):
        if kind == 'tensor' and number == _EXTERNAL_DATA:
            raise ValueError('a tensor lies in another file; export the model again')
        if kind == 'node' and number == _OPERATOR and bytes(value) == b'EPContext':
            raise ValueError('it names a compiled engine; export the model again')
        if number in _INSIDE[kind]:
            _check(value, _INSIDE[kind][number], depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Take a protobuf message apart; of numbers the value is empty."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind, length = key & 7, 0
        if kind == 0:
            _, place = _varint(content, place)
        elif kind == 2:
            length, place = _varint(content, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f'it is no ONNX graph: field {key >> 3} is of type {kind}')
        if place + length > len(content):
            raise IndexError
        yield key >> 3, content[place : place + length]
        place += length


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; it and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError('it is no ONNX graph: a number has more than ten bytes')

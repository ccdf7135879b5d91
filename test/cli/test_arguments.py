# SPDX-License-Identifier: Apache-2.0
"""The types of the options of verbs: valid values, and errors for invalid ones."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgseg_ros.cli import arguments


@pytest.mark.parametrize(
    ('read', 'text', 'value'),
    [
        (arguments.positive_int, '1', 1),
        (arguments.non_negative_int, '0', 0),
        (arguments.jpeg_quality, '100', 100),
        (arguments.positive_float, '1e-3', 0.001),
        (arguments.non_negative_float, '0', 0.0),
        (arguments.fraction, '0', 0.0),
        (arguments.fraction, '1', 1.0),
        (arguments.image_size, '1920X1080', (1920, 1080)),
        (arguments.topic_name, '/left/image_raw', '/left/image_raw'),
        (arguments.stamp_ns, '1700000000.123456789', 1_700_000_000_123_456_789),
        (arguments.svg_file, 'plots/latency.svg', Path('plots/latency.svg')),
    ],
)
def test_values_are_read(read: Callable[[str], Any], text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value) or isinstance(found, Path)


@pytest.mark.parametrize(
    ('read', 'texts', 'remedy'),
    [
        (arguments.positive_int, ('0', '-1'), 'must be at least 1'),
        (arguments.non_negative_int, ('-1',), 'must be at least 0'),
        (arguments.positive_int, ('1.5', 'many', ''), 'is not a whole number'),
        (arguments.jpeg_quality, ('0', '101'), 'must be from 1 to 100'),
        (arguments.positive_float, ('0', '-1', 'nan', 'inf'), 'must be above 0, and finite'),
        (arguments.non_negative_float, ('-0.1', 'nan', 'inf'), 'must be 0 or more, and finite'),
        (arguments.fraction, ('-0.1', '1.1', 'nan', 'inf'), 'must be from 0 to 1'),
        (arguments.fraction, ('half', ''), 'is not a number'),
        (arguments.image_size, ('1920', '0x9', '-1x9', '1x2x3'), 'write it like 1920x1080'),
        (arguments.image_size_from(64), ('63x100', '100x63'), 'is too small: 64 pixels at least'),
        (arguments.topic_name, ('left', '/left eye', '/', '/1'), 'such as /left/image_raw'),
        (arguments.stamp_ns, ('0', '-1', 'nan', '2147483648'), 'is not within 1e-9 to 2147483647'),
        (arguments.stamp_ns, ('now',), 'is not a number of seconds'),
        (arguments.svg_file, ('way.png',), 'does not end in .svg'),
    ],
)
def test_errors_name_the_invalid_value_and_the_remedy(
    read: Callable[[str], Any], texts: tuple[str, ...], remedy: str
) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as refused:
            read(text)
        assert repr(text) in str(refused.value)
        assert remedy in str(refused.value)

# SPDX-License-Identifier: Apache-2.0
"""JSON files of instruments: written files can be read back, and errors name invalid ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgseg_ros.core.instrument_files import (
    MAX_FILE_BYTES,
    InstrumentFileError,
    ListedInstrument,
    instruments_to_json,
    read_instruments,
)
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind

POINTS = (
    Keypoint(KeypointKind.TIP, 3.25, -1.5, 0.5, 2.0, is_beyond=True),
    Keypoint(KeypointKind.SHAFT_AXIS, 10.0, 20.0, -3.0, 4.125, is_hidden=True),
)
TOOL = ListedInstrument(3, 10, Geometry(POINTS, 12.5, 30.0), 17, 0.75, (0.01, -0.02, 0.1))
THREAD = ListedInstrument(4, 5, Geometry(), 18)


@pytest.fixture
def path(tmp_path):
    return tmp_path / '000000000.json'


def test_written_list_is_read_back(path):
    path.write_bytes(instruments_to_json([TOOL, THREAD]))
    assert read_instruments(path) == (TOOL, THREAD)


def test_classes_are_written_as_names_and_flags_as_booleans(path):
    path.write_bytes(instruments_to_json([TOOL]))
    document = json.loads(path.read_text())
    assert document['is_decided'] is True
    (entry,) = document['instruments']
    assert (entry['number'], entry['id'], entry['name']) == (3, 17, 'robotic tool')
    assert [point['name'] for point in entry['points']] == ['tip', 'shaft_axis']
    assert [(p['hidden'], p['beyond_image']) for p in entry['points']] == [
        (False, True),
        (True, False),
    ]


def test_no_decision_differs_from_no_instruments():
    assert json.loads(instruments_to_json([], is_decided=False))['is_decided'] is False


def damaged(key, value):
    document = json.loads(instruments_to_json([TOOL]))
    entry = document['instruments'][0]
    (entry if key in entry else entry['points'][0])[key] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('', 'Expecting value'),
        ('[]', 'list'),
        ('{}', "without 'instruments'"),
        ('[' * 100_000, 'is not a list of instruments'),
        (damaged('label', 0), 'label 0'),
        (damaged('label', 255), 'label 255'),
        (damaged('number', 255), 'number 255'),
        (damaged('number', True), 'number True'),
        (damaged('id', 1.5), 'id 1.5'),
        (damaged('x_px', float('nan')), 'x_px nan'),
        (damaged('sigma_px', None), 'sigma_px None'),
        (damaged('kind', 99), '99'),
        (damaged('points', 7), 'int'),
        (damaged('tip_m', [1, 2]), 'unpack'),
        (instruments_to_json([TOOL, TOOL]).decode(), 'number 3 twice'),
        (instruments_to_json([TOOL, TOOL._replace(number=5)]).decode(), 'id 17 twice'),
        (' ' * (MAX_FILE_BYTES + 1), f'more than {MAX_FILE_BYTES} bytes'),
    ],
)
def test_error_names_a_file_that_is_not_a_list_of_instruments(path, content, expected):
    path.write_text(content)
    with pytest.raises(InstrumentFileError, match=r'000000000\.json: is not a list') as caught:
        read_instruments(path)
    assert expected in str(caught.value)
    assert '\n' not in str(caught.value)


def test_error_names_a_missing_file(path):
    with pytest.raises(InstrumentFileError, match=r'000000000\.json: cannot be read'):
        read_instruments(path)


POSITIONS = st.floats(-5000, 5000)


@given(
    st.builds(
        Keypoint,
        st.sampled_from(KeypointKind),
        POSITIONS,
        POSITIONS,
        st.floats(-3, 3),
        st.floats(0, 100),
        st.booleans(),
        st.booleans(),
    )
)
def test_points_are_read_back_within_a_thousandth_of_a_pixel(tmp_path_factory, point):
    path = tmp_path_factory.getbasetemp() / 'point.json'
    path.write_bytes(instruments_to_json([ListedInstrument(1, 10, Geometry((point,)), 1)]))
    (found,) = read_instruments(path)[0].geometry.keypoints
    assert found[1:5] == pytest.approx(point[1:5], abs=1e-3)
    assert (found.kind, *found[5:]) == (point.kind, *point[5:])

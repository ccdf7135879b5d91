# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, and the pipeline's settings that are made of it."""

import dataclasses

import pytest

from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.parameters import (
    DEFAULTS,
    OFFLINE,
    TABLE,
    check_value,
    did_you_mean,
    pipeline_settings,
)
from surgseg_ros.core.pipeline import PipelineSettings

ROWS = {row.name: row for row in TABLE}


def test_every_default_passes_the_check():
    for row in TABLE:
        check_value(row, row.default)


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('min_confidence', 1, 'expected a number with a decimal point: write 1.0'),
        ('min_confidence', '0.6', "is '0.6', expected a number"),
        ('min_confidence', 1.5, 'is 1.5, expected 0 to 1'),
        ('min_confidence', float('nan'), 'is nan, expected 0 to 1'),
        ('steady_frames', 3.0, 'is 3.0, expected a whole number'),
        ('steady_frames', True, 'is True, expected a whole number'),
        ('steady_frames', 61, 'is 61, expected 0 to 60'),
        ('gates.smoke.limit', -0.1, 'gates.smoke.limit is -0.1, expected 0 to 1'),
        ('gates.smoke.action', 'stop', "is 'stop', expected one of"),
        ('gates.smoke.action', False, 'is False, expected one of'),
        ('model', 5, 'is 5, expected text'),
        ('overlay', 'yes', "is 'yes', expected true or false"),
        ('roi', 5, 'is 5, expected a list, each a whole number'),
        ('roi', [0, 0, 1.5, 2], 'expected a list, each a whole number'),
        ('roi', ['0'], 'expected a list, each a whole number'),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_does(name, value, expected):
    with pytest.raises(ValueError, match=f'^{name} is ') as raised:
        check_value(ROWS[name], value)
    assert expected in str(raised.value)


def test_the_defaults_are_the_pipelines_and_the_gates_warn():
    settings = pipeline_settings()
    assert {gate.action for gate in settings.gates.values()} == {'warn'}
    assert dataclasses.replace(settings, gates={}) == PipelineSettings()


def test_every_parameter_of_the_pipeline_reaches_it_and_applies_offline():
    changes = {
        'min_confidence': 0.6,
        'steady_frames': 3,
        'steady_sure': 0.8,
        'least_area': 0.01,
        'roi_mode': 'auto',
        'track_lost_ms': 200,
        'gates.smoke.action': 'no_decision',
        'gates.black.limit': 0.5,
    }
    settings = pipeline_settings(changes)
    assert settings.gates['smoke'] == GateSetting('no_decision', DEFAULTS['gates.smoke.limit'])
    assert settings.gates['black'] == GateSetting('warn', 0.5)
    names = {entry.name for entry in dataclasses.fields(settings)} - {'gates', 'least_region'}
    assert names == {name for name in changes if '.' not in name}
    assert all(getattr(settings, name) == changes[name] for name in names)
    assert changes.keys() <= OFFLINE


def test_what_only_a_running_node_needs_does_not_apply_offline():
    assert {row.name for row in TABLE} - OFFLINE == {
        *('autostart', 'image_transport', 'reliability', 'image_topics', 'camera_names'),
        *('overlay', 'stale_after_ms', 'max_frame_age_ms', 'age_source', 'fail_safe'),
        'no_image_warning_s',
    }


def test_the_name_that_was_meant_is_suggested():
    assert did_you_mean('min_confidance', DEFAULTS) == " (did you mean 'min_confidence'?)"
    assert did_you_mean('xyz', DEFAULTS) == ''

# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, and the settings of the pipeline made from it."""

import dataclasses

from surgseg_ros.core.errors import did_you_mean
from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.parameters import (
    DEFAULTS,
    OFFLINE,
    TABLE,
    pipeline_settings,
)
from surgseg_ros.core.pipeline import PipelineSettings


def test_the_defaults_are_those_of_the_pipeline_and_gates_warn():
    settings = pipeline_settings()
    assert {gate.action for gate in settings.gates.values()} == {'warn'}
    assert dataclasses.replace(settings, gates={}) == PipelineSettings()


def test_every_parameter_of_the_pipeline_is_passed_to_it_and_applies_offline():
    changes = {
        'min_confidence': 0.6,
        'min_detection_score': 0.7,
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


def test_parameters_of_only_the_running_node_do_not_apply_offline():
    assert {row.name for row in TABLE} - OFFLINE == {
        *('autostart', 'image_transport', 'reliability', 'image_topics', 'camera_names'),
        *('stereo_layout', 'pairing', 'pair_tolerance_ms', 'pair_wait_ms', 'rectified'),
        *('overlay', 'stale_after_ms', 'max_frame_age_ms', 'age_source', 'fail_safe'),
        *('no_image_warning_s', 'camera_info_topics', 'report_distances'),
    }


def test_suggests_the_intended_name():
    assert did_you_mean('min_confidance', DEFAULTS) == " (did you mean 'min_confidence'?)"
    assert did_you_mean('xyz', DEFAULTS) == ''

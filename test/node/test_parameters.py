# SPDX-License-Identifier: Apache-2.0
"""Invalid parameters are rejected by name; the shipped file has the defaults."""

from array import array

import pytest
import yaml
from bench import REPOSITORY

from surgseg_ros.core.parameters import LIVE, TABLE, pipeline_settings
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.node.freshness import ResultPolicy
from surgseg_ros.node.mailbox import Pairing
from surgseg_ros.node.parameters import Settings

FRESHNESS = ('stale_after_ms', 'max_frame_age_ms', 'age_source', 'fail_safe')
DEFAULTS = {row.name: row.default for row in TABLE}


def settings(**changes) -> Settings:
    return Settings.from_values({**DEFAULTS, **changes})


def test_the_defaults_are_valid():
    assert settings().image_topics == ('image',)
    assert settings().roi_of(0) is None


def test_every_parameter_is_described():
    assert all(row.description.endswith('.') or len(row.description) > 20 for row in TABLE)
    ours = {'least_area', 'min_confidence', 'min_detection_score', 'no_image_warning_s'}
    assert {*ours, *FRESHNESS} == LIVE


def test_settings_are_the_parameters_of_the_same_names():
    assert settings().policy == ResultPolicy()
    assert settings(max_frame_age_ms=70, age_source='header').policy == ResultPolicy(
        max_frame_age_ms=70, age_source='header'
    )


def test_the_settings_of_the_pipeline_are_the_same_as_offline():
    changes = {'min_confidence': 0.6, 'steady_frames': 3, 'gates.smoke.action': 'no_decision'}
    assert settings(**changes).pipeline == pipeline_settings(changes)


def test_the_shipped_file_has_the_defaults():
    text = (REPOSITORY / 'config' / 'segmenter.yaml').read_text()
    shipped = yaml.safe_load(text)['/**']['ros__parameters']
    for gate, values in shipped.pop('gates').items():
        shipped |= {f'gates.{gate}.{part}': value for part, value in values.items()}
    assert shipped == DEFAULTS


def test_accepts_arrays_of_ros():
    assert settings(roi=array('q', [1, 2, 3, 4])).roi == (1, 2, 3, 4)


def test_a_roi_is_for_all_cameras_or_for_each():
    two = {'image_topics': ['a', 'b'], 'camera_names': ['left', 'right']}
    assert settings(roi=[1, 2, 3, 4], **two).roi_of(1) == Roi(1, 2, 3, 4)
    each = settings(roi=[0, 0, 0, 0, 5, 6, 7, 8], **two)
    assert (each.roi_of(0), each.roi_of(1)) == (None, Roi(5, 6, 7, 8))


def test_only_two_cameras_are_paired():
    two = {'image_topics': ['a', 'b'], 'camera_names': ['left', 'right']}
    assert settings(**two).pairs == Pairing(5, 30)
    assert settings(**two, pair_tolerance_ms=0, pair_wait_ms=9).pairs == Pairing(0, 9)
    assert settings(**two, pairing='none').pairs is None
    assert settings().pairs is None
    three = {'image_topics': ['a', 'b', 'c'], 'camera_names': ['x', 'y', 'z']}
    assert settings(**three).pairs is None


def test_the_cameras_of_a_stereo_layout_are_named_or_left_and_right():
    split = settings(stereo_layout='side_by_side', roi=[1, 2, 3, 4, 5, 6, 7, 8])
    assert split.cameras == ('left', 'right')
    assert split.roi_of(1) == Roi(5, 6, 7, 8)
    assert split.pairs is None, 'they are always a pair'
    named = settings(stereo_layout='top_bottom', camera_names=['upper', 'lower'])
    assert named.cameras == ('upper', 'lower')
    assert settings(camera_names=['ecm']).cameras == ('ecm',)


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'stereo_layout': 'both'}, "stereo_layout is 'both', expected one of"),
        ({'stereo_layout': 'side_by_side', 'camera_names': ['ecm']}, 'two names'),
        (
            {
                'stereo_layout': 'side_by_side',
                'image_topics': ['a', 'b'],
                'camera_names': ['l', 'r'],
            },
            'give the one topic',
        ),
        ({'pairing': 'some'}, "pairing is 'some', expected one of"),
        ({'image_transport': 'h264'}, "image_transport is 'h264', expected one of"),
        ({'reliability': 'best'}, "reliability is 'best'"),
        ({'age_source': 'guess'}, "age_source is 'guess'"),
        ({'fail_safe': 'hope'}, "fail_safe is 'hope'"),
        ({'runtime': 'abacus'}, "runtime is 'abacus'"),
        ({'image_topics': []}, r'image_topics is \[\]'),
        ({'image_topics': ['']}, r"image_topics is \[''\]"),
        ({'image_topics': ['a', 'b']}, 'give one name per topic'),
        ({'image_topics': ['a', 'b'], 'camera_names': ['l', 'l']}, 'a different name'),
        ({'image_topics': ['not a name']}, "'not a name'"),
        ({'camera_names': ['not a name']}, "'not a name'"),
        ({'roi': [0, 0, 10]}, r'roi is \[0, 0, 10\], expected'),
        ({'roi': [0, 0, -1, 10]}, r'roi is \[0, 0, -1, 10\], expected'),
        ({'roi': [0, 0, 10, 0]}, 'width and height must be above 0'),
        ({'roi': [0, 0, 9, 9], 'roi_mode': 'auto'}, 'leave roi out, or set roi_mode to fixed'),
        ({'roi_mode': 'guess'}, "roi_mode is 'guess', expected one of"),
    ],
)
def test_error_names_what_is_invalid(changes, expected):
    with pytest.raises(ValueError, match=expected):
        settings(**changes)


def test_camera_info_topics_are_given_for_all_cameras_or_for_none():
    two = {'image_topics': ['a', 'b'], 'camera_names': ['left', 'right']}
    assert settings(**two).camera_info_topics == ('',)
    assert settings(camera_info_topics=['x', 'y'], **two).camera_info_topics == ('x', 'y')
    for wrong in (['x'], ['x', ''], ['x', 'y', 'z']):
        with pytest.raises(ValueError, match=r'camera_info_topics is .* one topic per camera'):
            settings(camera_info_topics=wrong, **two)
    with pytest.raises(ValueError, match='cannot have'):
        settings(camera_info_topics=['x', '1 2'], **two)

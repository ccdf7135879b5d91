# SPDX-License-Identifier: Apache-2.0
"""The limits beyond which an export is rejected."""

import pytest

from surgseg_ros.exporting import export


@pytest.mark.parametrize(
    ('precision', 'after', 'error'),
    [
        ('int8', 0.6951, ''),
        ('int8', 0.694, 'falls from 0.7000 to 0.6940'),
        ('bf16', 0.1, ''),
    ],
)
def test_limit_of_int8_is_on_the_official_score(precision, after, error):
    found = {
        'frames': 1,
        'class_agreement': 0.9995,
        'class_agreement_at_input_size': 0.999,
        'original': {'mIoU': 0.7},
        'exported': {'mIoU': after},
    }
    text = export.find_error(precision, found)
    assert error in text
    assert bool(error) == bool(text)


@pytest.mark.parametrize('key', ['class_agreement', 'class_agreement_at_input_size'])
def test_limits_of_bf16_are_on_the_classes_at_both_sizes(key):
    found = {'frames': 1, 'class_agreement': 1.0, 'class_agreement_at_input_size': 1.0}
    assert 'use --precision f32' in export.find_error('bf16', {**found, key: 0.9989})

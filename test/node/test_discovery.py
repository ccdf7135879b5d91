# SPDX-License-Identifier: Apache-2.0
"""Discovery is restricted to this machine by the variables that each distribution reads."""

import os
import shutil
import subprocess

import pytest
from bench import REPOSITORY

from surgseg_ros.node.middleware import local_discovery

LATER = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
HUMBLE = LATER | {'ROS_LOCALHOST_ONLY': '1'}
DISTRIBUTIONS = [
    ({'ROS_DISTRO': 'humble'}, HUMBLE),
    ({'ROS_DISTRO': 'iron'}, LATER),
    ({'ROS_DISTRO': 'jazzy'}, LATER),
    ({'ROS_DISTRO': 'kilted'}, LATER),
    ({}, LATER),
]


@pytest.mark.parametrize(('environment', 'variables'), DISTRIBUTIONS)
def test_only_humble_gets_the_variable_that_others_deprecate(environment, variables):
    assert local_discovery(environment) == variables


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
@pytest.mark.parametrize(('environment', 'variables'), DISTRIBUTIONS)
@pytest.mark.parametrize('target', ['test', 'demo', 'soak'])
def test_make_sets_the_same_variables(target, environment, variables):
    """Read from `make -n`, which runs nothing."""
    bare = {name: value for name, value in os.environ.items() if name != 'ROS_DISTRO'}
    reported = subprocess.run(
        ['make', '--dry-run', '--no-print-directory', target],
        cwd=REPOSITORY,
        env=bare | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    given = [
        dict(w.split('=', 1) for w in line.split() if w.startswith('ROS_'))
        for line in reported.splitlines()
        if 'ROS_DOMAIN_ID' in line
    ]
    assert given
    for each in given:
        assert each.pop('ROS_DOMAIN_ID')
        assert each == variables

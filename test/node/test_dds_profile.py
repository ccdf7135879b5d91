# SPDX-License-Identifier: Apache-2.0
"""The DDS profile is set with the right variable, and only where it can be used."""

import logging
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from surgseg_ros.node import middleware
from surgseg_ros.node.middleware import (
    NEW_VARIABLE,
    OLD_VARIABLE,
    advice_to_sender,
    choose_profile,
)

SHIPPED = Path(__file__).parents[2] / 'config' / 'fastdds.xml'


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / 'profile.xml'
    path.write_text('<dds><a xmlns="x"><segment_size>1024</segment_size></a></dds>')
    return str(path)


@pytest.mark.parametrize(
    ('distribution', 'variable'),
    [
        ('humble', OLD_VARIABLE),
        ('jazzy', OLD_VARIABLE),
        ('kilted', NEW_VARIABLE),
        ('lyrical', NEW_VARIABLE),
        ('rolling', NEW_VARIABLE),
    ],
)
def test_sets_the_variable_that_the_distribution_reads(profile, distribution, variable):
    choice = choose_profile(profile, {'ROS_DISTRO': distribution})
    assert choice.variables == {variable: profile}
    assert choice.severity == logging.INFO


def test_the_default_distribution_is_jazzy(profile):
    assert choose_profile(profile, {}).variables == {OLD_VARIABLE: profile}


def test_a_profile_that_is_already_set_is_kept(profile):
    choice = choose_profile(profile, {'ROS_DISTRO': 'jazzy', OLD_VARIABLE: '/mine.xml'})
    assert not choice.variables
    assert '/mine.xml' in choice.message


def test_the_variable_that_the_distribution_does_not_read_is_ignored(profile):
    environment = {'ROS_DISTRO': 'kilted', OLD_VARIABLE: '/mine.xml'}
    assert choose_profile(profile, environment).variables == {NEW_VARIABLE: profile}


def test_none_sets_no_profile():
    assert not choose_profile('none', {}).variables


def test_error_names_a_missing_file():
    choice = choose_profile('/no/such.xml', {})
    assert not choice.variables
    assert choice.severity == logging.ERROR
    assert "'/no/such.xml'" in choice.message


def test_error_names_a_malformed_file(tmp_path):
    broken = tmp_path / 'broken.xml'
    broken.write_text('<dds>')
    choice = choose_profile(str(broken), {})
    assert not choice.variables
    assert choice.severity == logging.ERROR
    assert str(broken) in choice.message


def test_reports_the_remedy_if_shared_memory_is_too_small(monkeypatch):
    monkeypatch.setattr(middleware, 'free_bytes', lambda folder: 64 << 20)
    choice = choose_profile(str(SHIPPED), {})
    assert not choice.variables
    assert choice.severity == logging.WARNING
    assert '64 MiB free' in choice.message
    assert '192 MiB' in choice.message
    assert '--shm-size=384m' in choice.message


def test_free_space_is_measured_where_shared_memory_is_mounted(tmp_path):
    status = os.statvfs(tmp_path)
    assert 0 < middleware.free_bytes(tmp_path) <= status.f_blocks * status.f_frsize
    assert middleware.free_bytes(tmp_path / 'absent') == 0


def test_the_shipped_profile_has_shared_memory_and_udp_and_names_no_address():
    root = ElementTree.parse(SHIPPED).getroot()
    texts = {}
    for element in root.iter():
        texts.setdefault(element.tag.rpartition('}')[2], []).append((element.text or '').strip())
    assert texts['type'] == ['SHM', 'UDPv4']
    assert texts['transport_id'][:2] == texts['transport_id'][2:]
    assert texts['useBuiltinTransports'] == ['false']
    frame_bytes = 1920 * 1080 * 3
    assert frame_bytes < int(texts['maxMessageSize'][0]) < int(texts['segment_size'][0])
    assert not {'interfaceWhiteList', 'interfaces', 'address', 'locator'} & texts.keys()


def test_for_another_middleware_the_documentation_is_named():
    assert 'rmw_cyclonedds_cpp' in advice_to_sender('rmw_cyclonedds_cpp', {})
    assert 'export FASTDDS_' in advice_to_sender('rmw_fastrtps_cpp', {'ROS_DISTRO': 'kilted'})

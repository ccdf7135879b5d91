# SPDX-License-Identifier: Apache-2.0
"""Keeps tests, demos and benchmarks on this machine; neither node nor launch file uses it."""

from collections.abc import Mapping


def local_discovery(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Name the environment variables that restrict discovery to this machine.

    :param environment: holds ROS_DISTRO.
    :return: what to set. Humble reads ROS_LOCALHOST_ONLY alone; later distributions call it
        deprecated and let it override ROS_AUTOMATIC_DISCOVERY_RANGE, so it is for Humble only.
    """
    variables = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    if environment.get('ROS_DISTRO') == 'humble':
        variables['ROS_LOCALHOST_ONLY'] = '1'
    return variables

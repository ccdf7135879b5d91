# SPDX-License-Identifier: Apache-2.0
"""Whether Fast DDS can use the profile for large images, and which variable selects it."""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

NO_PROFILE: Final = 'none'
"""Instead of a file: use Fast DDS with its own settings."""

OLD_VARIABLE: Final = 'FASTRTPS_DEFAULT_PROFILES_FILE'
NEW_VARIABLE: Final = 'FASTDDS_DEFAULT_PROFILES_FILE'
READ_OLD_VARIABLE: Final = ('humble', 'iron', 'jazzy')
"""Distributions with Fast DDS 2; Kilted and later have Fast DDS 3, which reads the new name."""

PARTICIPANTS: Final = 3
"""Processes whose shared memory must fit: the camera driver, the node and one viewer."""


@dataclass(frozen=True)
class ProfileChoice:
    """
    The decision about a profile, for a launch file to apply and to log.

    :param message: the decision and its reason, with the remedy if something is wrong.
    :param severity: log level of the message, as in `logging`.
    :param variables: the environment variables to set; empty if the profile is not used.
    """

    message: str
    severity: int = logging.INFO
    variables: dict[str, str] = field(default_factory=dict)


def choose_profile(
    profile: str, environment: Mapping[str, str], shared_memory: Path = Path('/dev/shm')
) -> ProfileChoice:
    """
    Decide whether Fast DDS gets a profile, and through which variable.

    :param profile: path of the XML file, or NO_PROFILE.
    :param environment: the environment that the nodes will inherit.
    :param shared_memory: where the system keeps shared memory.
    :return: what to set and what to log.
    """
    variable = profile_variable(environment)
    if profile == NO_PROFILE:
        return ProfileChoice('Fast DDS gets no profile, as requested; large images may be lost')
    if environment.get(variable):
        return ProfileChoice(f'Fast DDS keeps the profile of {variable}={environment[variable]}')
    try:
        needed = PARTICIPANTS * segment_bytes(Path(profile))
    except (OSError, ElementTree.ParseError) as error:
        return ProfileChoice(
            f'Fast DDS gets no profile: {profile!r} cannot be read ({error}); '
            f'give an XML file of profiles, or {NO_PROFILE!r}',
            logging.ERROR,
        )
    free = free_bytes(shared_memory)
    if free < needed:
        return ProfileChoice(_no_room(shared_memory, free, needed), logging.WARNING)
    return ProfileChoice(f'Fast DDS gets the profile {profile}', variables={variable: profile})


def shipped_profile() -> Path:
    """Find the profile that comes with the package, in the checkout or where it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / 'package.xml').is_file():
        return checkout / 'config' / 'fastdds.xml'
    share = Path(sys.prefix, 'share', 'surgseg_ros')
    with contextlib.suppress(PackageNotFoundError, OSError):  # without ROS's environment
        share = Path(get_package_share_directory('surgseg_ros'))
    return share / 'config' / 'fastdds.xml'


def advice_to_sender(middleware: str, environment: Mapping[str, str]) -> str:
    """
    Advise how to start the sender of large images so that fewer are lost.

    :param middleware: the identifier of the RMW implementation.
    :param environment: holds ROS_DISTRO.
    :return: a sentence without a full stop.
    """
    if 'fastrtps' not in middleware:
        return f'docs/transport.md lists the settings for {middleware}'
    return (
        'the sender needs more shared memory: before the camera driver is started, '
        f'"export {profile_variable(environment)}={shipped_profile()}" in its shell, or launch it '
        'with that variable; from another machine, see docs/transport.md'
    )


def profile_variable(environment: Mapping[str, str]) -> str:
    """
    Return the variable that selects the profile of the distribution's Fast DDS.

    :param environment: holds ROS_DISTRO; without it, Jazzy is assumed.
    :return: the variable's name.
    """
    old = environment.get('ROS_DISTRO', 'jazzy') in READ_OLD_VARIABLE
    return OLD_VARIABLE if old else NEW_VARIABLE


def segment_bytes(profile: Path) -> int:
    """
    Read how much shared memory a profile needs in each process.

    :param profile: the XML file.
    :return: the sum of its segments; 0 if it has none.
    :raises ElementTree.ParseError: if it is not XML.
    """
    elements = ElementTree.parse(profile).getroot().iter()
    return sum(int(e.text or 0) for e in elements if e.tag.rpartition('}')[2] == 'segment_size')


def free_bytes(folder: Path) -> int:
    """
    Measure the free space of a file system.

    :param folder: a folder in it.
    :return: the free bytes; 0 if the folder does not exist.
    """
    if not folder.is_dir():
        return 0
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _no_room(shared_memory: Path, free: int, needed: int) -> str:
    free_mib, needed_mib = free >> 20, needed >> 20
    return (
        f'Fast DDS gets no profile: {shared_memory} has {free_mib} MiB free and the profile needs '
        f'{needed_mib} MiB, so large images may be lost. In a container, start it with '
        f'--shm-size={2 * needed_mib}m or --ipc=host; elsewhere, '
        f'"mount -o remount,size={2 * needed_mib}m {shared_memory}". '
        '"fastdds shm clean" removes what killed processes left there'
    )

# SPDX-License-Identifier: Apache-2.0
"""The processes of a run over DDS, and their environment."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from surgseg_ros.benchmarking.conversation import Child
from surgseg_ros.node.compatibility import local_discovery
from surgseg_ros.node.dds_profile import NEW_VARIABLE, NO_PROFILE, OLD_VARIABLE, choose_profile

TOPIC: Final = '/benchmark/image'
_ROOM: Final = 'surgseg_ros.benchmarking'

_KEEP: Final = {
    'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
    'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
}
"""For the listener of any node: else each mask's pages are cleared again, which takes 3 ms."""


_PATIENCE_S: Final = 20.0
_HURRY_S: Final = 0.25
"""Seconds for each process to exit: after a run, and after an interruption."""


class Variant(NamedTuple):
    """
    What is run.

    :param plain: the plain node instead of this package's.
    :param camera_profile: whether the camera has the profile for large images.
    :param node_profile: whether node and listener have it.
    """

    plain: bool
    camera_profile: bool
    node_profile: bool


VARIANTS: Final = {
    'end_to_end': Variant(plain=False, camera_profile=True, node_profile=True),
    'plain': Variant(plain=True, camera_profile=False, node_profile=False),
    'no_profile': Variant(plain=False, camera_profile=False, node_profile=True),
}


class Settings(NamedTuple):
    """
    Settings of all runs.

    :param model: the model folder.
    :param pictures: .npy file of (N, H, W, 3) uint8 RGB.
    :param rate_hz: frame rate of the camera.
    :param frames: number of frames per run.
    :param folder: folder for logs.
    :param profile: the Fast DDS profile, or NO_PROFILE.
    :param device: `auto`, `cpu` …
    :param threads: CPU threads of torch; 0: torch's default.
    :param parameters: further parameters of the node, such as `runtime`.
    :param outputs: outputs of the node that the listener subscribes to besides the mask.
    :param patience_s: timeout for the first masks in seconds.
    """

    model: str
    pictures: Path
    rate_hz: float
    frames: int
    folder: Path
    profile: str = NO_PROFILE
    device: str = 'auto'
    threads: int = 0
    parameters: Mapping[str, str] = {}
    outputs: tuple[str, ...] = ()
    patience_s: float = 300.0


def environment(with_profile: bool, profile: str) -> dict[str, str]:
    """
    Make the environment of a process: DDS on this machine only, with or without the profile.

    :param with_profile: whether the process gets it.
    :param profile: the XML file, or NO_PROFILE.
    :return: all variables.
    :raises RuntimeError: if the profile cannot be used on this machine.
    """
    bare = {k: v for k, v in os.environ.items() if k not in (OLD_VARIABLE, NEW_VARIABLE)}
    bare |= local_discovery(os.environ)
    bare.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
    if not with_profile or profile == NO_PROFILE:
        return bare
    choice = choose_profile(profile, bare)
    if not choice.variables:
        raise RuntimeError(choice.message)
    return bare | choice.variables


def _end(children: Sequence[Child], patience_s: float) -> None:
    for child in children:
        child.stop()
    for child in children:
        child.end(patience_s)


@contextlib.contextmanager
def processes(variant: Variant, settings: Settings) -> Iterator[tuple[Child, Child, Child]]:
    """
    Run node, camera and listener; they are always stopped at the end.

    :param variant: what to run.
    :param settings: how to run it.
    :return: context manager that yields the three processes.
    """
    children: list[Child] = []

    def start(
        name: str,
        module: str,
        arguments: Sequence[str],
        profile: bool,
        more: Mapping[str, str] = {},
    ) -> Child:
        log = settings.folder / f'{name}.log'
        variables = {**environment(profile, settings.profile), **more}
        children.append(Child(module, arguments, variables, log))
        return children[-1]

    module = f'{_ROOM}.plain_node' if variant.plain else 'surgseg_ros'
    arguments = (_plain_arguments if variant.plain else _node_arguments)(settings)
    camera = ['--pictures', str(settings.pictures), '--topic', TOPIC]
    others = [] if variant.plain else settings.outputs
    listener = ['--topic', 'mask', '--others', *others]
    patience_s = _PATIENCE_S
    try:
        yield (
            start('node', module, arguments, variant.node_profile),
            start('camera', f'{_ROOM}.camera', camera, variant.camera_profile),
            start('listener', f'{_ROOM}.listener', listener, variant.node_profile, _KEEP),
        )
    except KeyboardInterrupt:
        patience_s = _HURRY_S
        raise
    finally:
        _end(children, patience_s)


def _node_arguments(settings: Settings) -> list[str]:
    parameters = {
        'model': settings.model,
        'device': settings.device,
        'cpu_threads': str(settings.threads),
        'stale_after_ms': '600000',  # all masks count, even late ones
        **settings.parameters,
    }
    given = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    return ['segmenter', '--ros-args', '-r', f'image:={TOPIC}', *given]


def _plain_arguments(settings: Settings) -> list[str]:
    return [
        *('--model', settings.model, '--topic', TOPIC, '--device', settings.device),
        *('--threads', str(settings.threads), '--times', str(times_file(settings))),
    ]


def times_file(settings: Settings) -> Path:
    """
    Return the path of the file with the plain node's times.

    :param settings: settings of the run.
    :return: its path.
    """
    return settings.folder / 'plain_times.json'

# SPDX-License-Identifier: Apache-2.0
"""
The processes of a run over DDS: their start, requests to them, and their end.

A request is one line, and the response is one line of JSON.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.core.processes import register
from surgseg_ros.core.segmentation import SIDE_BY_SIDE
from surgseg_ros.node.middleware import (
    NEW_VARIABLE,
    NO_PROFILE,
    OLD_VARIABLE,
    choose_profile,
    local_discovery,
)

ROOT: Final = Path(__file__).resolve().parents[2]
"""Folder from which the processes import this checkout, independent of the working directory."""

TOPIC: Final = '/benchmark/image'
_ENDPOINTS: Final = 'tools.end_to_end.endpoints'

_KEEP: Final = {
    'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
    'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
}
"""For every listener: otherwise, each mask's pages are cleared again, which takes 3 ms."""

_TIMEOUT_S: Final = 20.0
_SHORT_TIMEOUT_S: Final = 0.25
"""Time that each process may take to end: after a run, and after an interruption of this one."""

_ANSWER_S: Final = 90.0
_END_S: Final = 20.0

_START: Final = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: end when the parent is killed
if os.getppid() == int(sys.argv[1]):
    sys.path.insert(0, sys.argv[2])
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


class Child:
    """
    A process of the benchmark, which runs a module with this Python.

    :param module: name of the module.
    :param arguments: its arguments.
    :param environment: the complete environment.
    :param log: file for its stderr, whose name is used in errors.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._name = log.stem
        self._log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-c', _START, str(os.getpid()), str(ROOT), module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                text=True,
            )
        register(self._process)

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    def check(self) -> None:
        """
        Check that the process is running.

        :raises RuntimeError: if it has ended, with the end of its log.
        """
        if self._process.poll() is not None:
            text = self._log.read_text(errors='replace')[-2000:]
            raise RuntimeError(f'{self._name} ended with {self._process.returncode}:\n{text}')

    def ask(
        self,
        question: str,
        meanwhile: Callable[[], None] = lambda: None,
        lasting_s: float = 0.0,
    ) -> Any:
        """
        Send a request, and wait for the response.

        :param question: the request, a line.
        :param meanwhile: called about once a second.
        :param lasting_s: duration of the request.
        :return: content of the JSON response.
        :raises RuntimeError: if the process has ended, or does not respond.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError(f'{self._name} has no pipes')
        self.check()
        stdin.write(question + '\n')
        stdin.flush()
        end_s = time.monotonic() + _ANSWER_S + lasting_s
        while not select.select([stdout], [], [], 1.0)[0]:
            meanwhile()
            if time.monotonic() > end_s:
                raise RuntimeError(f'{self._name} does not answer {question!r}: see {self._log}')
        line = stdout.readline()
        if not line:
            self._process.wait(_END_S)
            self.check()
        return json.loads(line)

    def stop(self) -> None:
        """Interrupt the process as by Ctrl-C, so that it leaves no shared memory behind."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self, patience_s: float = _END_S) -> None:
        """
        End the process, and wait for it.

        :param patience_s: time after which it is killed.
        """
        try:
            self.stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=patience_s)
        finally:  # an interrupt during the wait must not leave it running
            self._process.kill()
            self._process.communicate()


def questions() -> Iterator[list[str]]:
    """Read requests in a child process, split into words, until the end of input."""
    for line in sys.stdin:
        yield line.split()


def answer(value: Any) -> None:
    """
    Respond to the last request, in a child process.

    :param value: a value that can be written as JSON.
    """
    print(json.dumps(value), flush=True)


class Variant(NamedTuple):
    """
    A variant of the run.

    :param plain: whether the plain node runs instead of this package's.
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
    The common settings of all runs.

    :param model: the model folder.
    :param images: .npy file of (N, H, W, 3) uint8 RGB.
    :param rate_hz: rate of the camera.
    :param frames: number of frames of a run.
    :param folder: folder for logs.
    :param profile: the Fast DDS profile, or NO_PROFILE.
    :param device: `auto`, `cpu` …
    :param threads: number of torch's threads on the CPU; 0: torch's default.
    :param cameras: 1, or 2 whose views are side by side in each image; then the outputs are those
        of the second one, whose mask comes later.
    :param parameters: further parameters of the node, `runtime` for example.
    :param outputs: further outputs of the node to which the listener subscribes.
    :param patience_s: maximum time until the first masks.
    """

    model: str
    images: Path
    rate_hz: float
    frames: int
    folder: Path
    profile: str = NO_PROFILE
    device: str = 'auto'
    threads: int = 0
    cameras: int = 1
    parameters: Mapping[str, str] = {}
    outputs: tuple[str, ...] = ()
    patience_s: float = 300.0


def environment(with_profile: bool, profile: str) -> dict[str, str]:
    """
    Return the environment of a process: DDS on this machine only, with or without the profile.

    :param with_profile: whether the process gets it.
    :param profile: the XML file, or NO_PROFILE.
    :return: all variables.
    :raises RuntimeError: if the profile cannot be used here.
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
    Run node, camera and listener; all that was started is ended in any case.

    :param variant: the variant.
    :param settings: settings of the run.
    :return: context with the three processes.
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

    module = 'tools.end_to_end.plain_node' if variant.plain else 'surgseg_ros'
    arguments = (_plain_arguments if variant.plain else _node_arguments)(settings)
    camera = ['camera', '--images', str(settings.images), '--topic', TOPIC]
    others = [] if variant.plain else settings.outputs
    listener = ['listener', '--topic', 'mask', '--others', *others]
    patience_s = _TIMEOUT_S
    try:
        yield (
            start('node', module, arguments, variant.node_profile),
            start('camera', _ENDPOINTS, camera, variant.camera_profile),
            start('listener', _ENDPOINTS, listener, variant.node_profile, _KEEP),
        )
    except KeyboardInterrupt:
        patience_s = _SHORT_TIMEOUT_S
        raise
    finally:
        _end(children, patience_s)


def _node_arguments(settings: Settings) -> list[str]:
    parameters = {
        'model': settings.model,
        'device': settings.device,
        'cpu_threads': str(settings.threads),
        'stale_after_ms': '600000',  # no mask is too late
        **settings.parameters,
    }
    topics = {'image': TOPIC}
    if settings.cameras == 2:
        parameters['stereo_layout'] = SIDE_BY_SIDE
        topics |= {f'right/{name}': name for name in ('mask', *settings.outputs)}
    given = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    remapped = [word for name, topic in topics.items() for word in ('-r', f'{name}:={topic}')]
    return ['segmenter', '--ros-args', *remapped, *given]


def _plain_arguments(settings: Settings) -> list[str]:
    return [
        *('--model', settings.model, '--topic', TOPIC, '--device', settings.device),
        *('--threads', str(settings.threads)),
    ]

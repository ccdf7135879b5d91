# SPDX-License-Identifier: Apache-2.0
"""Every verb after Ctrl-C: one line, exit status 130, no partial output, no process left."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from tiny_models import write_tiny_model

from surgseg_ros.__main__ import VERBS
from surgseg_ros.bags.writing import write_image_bag

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 100
FRAMES = 1000
"""More images than the network can process between its first output and the signal."""


class Interruption(NamedTuple):
    """
    When a verb is interrupted.

    :param words: its arguments; some of the files to read are FIFOs, which block the verb.
    :param begun: the output to wait for; if None, wait until a FIFO is opened.
    """

    words: tuple[str, ...]
    begun: str | None = None


INTERRUPTIONS = {
    'train': Interruption(
        (
            *('--config', str(ROOT / 'config/train_default.yaml'), 'data={data}', 'output={out}'),
            *('input_size=[64, 96]', 'crop_size=[64, 64]', 'batch_size=2', 'device=cpu'),
            'encoder_weights=none',
        )
    ),
    'evaluate': Interruption(
        (
            *('--reference', '{masks}', '--predictions', '{masks}', '--workers', '2'),
            *('--json', '{out}/a.json'),
        )
    ),
    'predict': Interruption(('--model', '{model}', '--input', '{data}', '--output', '{out}')),
    'evaluate_bag': Interruption(
        (
            *('--model', '{model}', '--bag', '{bag}', '--image-topic', '/camera/image_raw'),
            *('--json', '{out}/a.json', '--output', '{out}/b.mcap'),
        ),
        'frame/s',
    ),
    'inspect_data': Interruption(('--data', '{data}', '--json', '{out}/a.json')),
    'export': Interruption(
        (
            *('--model', '{model}', '--calibration', '{data}', '--output', '{out}'),
            *('--backend', 'openvino', '--precision', 'int8'),
        )
    ),
    'compare': Interruption(('{json}', '{json}', '--json', '{out}/a.json')),
    'calibrate': Interruption(('--model', '{model}', '--calibration', '{data}')),
    'benchmark': Interruption(
        (*('--model', '{model}', '--end-to-end', '--size', '96x64', '--json', '{out}/a.json'),),
        'end_to_end\n',
    ),
    'make_bag': Interruption(('--input', '{data}', '--output', '{out}')),
    'synthesize': Interruption(
        ('--output', '{out}', '--size', '640x480', '--frames', '100000', '--workers', '2'),
        'frame/s',
    ),
}
"""For each verb, when it is interrupted."""

INTERRUPTED = [name for name, described in VERBS.items() if not described.is_node]


@pytest.mark.parametrize('name', INTERRUPTED)
def test_every_verb_is_in_the_table_of_interruptions(name: str) -> None:
    assert name in INTERRUPTIONS, 'add when the new verb is interrupted'


class Run:
    """A command in its own process group, as started by a shell, and its output."""

    def __init__(self, command: list[str], **more: object) -> None:
        self.output = {'stdout': '', 'stderr': ''}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **more,  # type: ignore[call-overload]
        )
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in self.output]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        stream = getattr(self.process, name)
        while part := os.read(stream.fileno(), 1 << 16):
            self.output[name] += part.decode()

    def wait_for(self, met: Callable[[], bool]) -> None:
        """Wait for a condition while the command runs."""
        end_s = time.monotonic() + TIMEOUT_S
        while not met():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end_s, self.output
            time.sleep(0.02)

    def others(self) -> list[str]:
        """Return the command lines of running processes of the group."""
        found = []
        for stat in Path('/proc').glob('[0-9]*/stat'):
            with contextlib.suppress(OSError):
                state, _, group = stat.read_text().rpartition(')')[2].split()[:3]
                if int(group) == self.process.pid and state != 'Z':
                    found.append(stat.with_name('cmdline').read_text().replace('\0', ' '))
        return found

    def end(self, number: int = signal.SIGINT, *, group: bool = True) -> int:
        """Send a signal, by default to the whole group like a terminal, and wait for its end."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        status = self.process.wait(TIMEOUT_S)
        end_s = time.monotonic() + TIMEOUT_S
        while self.others():
            assert time.monotonic() < end_s, self.others()
            time.sleep(0.02)
        for reader in self._readers:
            reader.join()
        return status

    def close(self) -> None:
        """Close the pipes."""
        for reader in self._readers:
            reader.join()
        for name in self.output:
            getattr(self.process, name).close()

    def lines(self) -> list[str]:
        """Return the lines of stderr without progress bars."""
        text = re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', self.output['stderr'])
        lines = [line.strip() for line in re.split(r'[\r\n]+', text)]
        return [
            line for line in lines if line and not re.search(r'\d%\||\d+(frame|step)? \[', line)
        ]


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Yield a function that starts a command; afterwards its whole group is ended."""
    runs = []

    def begin(command: list[str], **more: object) -> Run:
        runs.append(Run(command, **more))
        return runs[-1]

    yield begin
    for run in runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        run.close()


def is_read(fifo: Path) -> bool:
    """Return whether a process has opened a FIFO for reading, and so is blocked."""
    try:
        writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    KEPT.append(writing)
    return True


KEPT: list[int] = []
"""Write ends of FIFOs; while they are open, a reader waits."""


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a bag, which is only read."""
    image = np.zeros((64, 96, 3), np.uint8)
    path = tmp_path_factory.mktemp('bags') / 'bag'
    write_image_bag(path, ((10**9 + n, image, None) for n in range(FRAMES)))
    return path


@pytest.fixture
def paths(tmp_path: Path, bag: Path) -> Iterator[dict[str, Path]]:
    """Make the inputs of the verbs; of each kind, one file is a FIFO."""
    mask = np.zeros((64, 96), np.uint8)
    for video in ('video_01', 'video_02'):
        segmentation = tmp_path / 'data' / video / 'segmentation'
        segmentation.mkdir(parents=True)
        (segmentation.with_name('rgb')).mkdir()
        assert cv2.imwrite(str(segmentation / '000000000.png'), mask)
        os.mkfifo(segmentation.with_name('rgb') / '000000000.png')
    (tmp_path / 'masks/video_01/segmentation').mkdir(parents=True)
    os.mkfifo(tmp_path / 'masks/video_01/segmentation/000000000.png')
    os.mkfifo(tmp_path / 'json')
    write_tiny_model(tmp_path / 'model')
    names = ('data', 'masks', 'json', 'model', 'out')
    yield {'bag': bag, **{name: tmp_path / name for name in names}}
    while KEPT:
        os.close(KEPT.pop())


@pytest.mark.parametrize('name', INTERRUPTED)
def test_an_interruption_prints_one_line_and_leaves_nothing(
    name: str, paths: dict[str, Path], start: Callable[..., Run], tmp_path: Path
) -> None:
    if name == 'export':
        pytest.importorskip('nncf')
    if name == 'benchmark':
        pytest.importorskip('rclpy')
    words = [word.format(**paths) for word in INTERRUPTIONS[name].words]
    fifos = [path for path in tmp_path.rglob('*') if path.is_fifo()]
    run = start([sys.executable, '-m', 'surgseg_ros', name, *words])
    if begun := INTERRUPTIONS[name].begun:
        run.wait_for(lambda: begun in ''.join(run.output.values()))
    else:
        run.wait_for(lambda: any(map(is_read, fifos)))
    status = run.end()
    *before, line = run.lines()
    expected = f'{name}: interrupted; {VERBS[name].leftovers}'
    assert (status, line) == (130, expected), run.output
    assert not before or name in ('benchmark', 'evaluate_bag'), 'only these print progress'
    if name == 'train':
        assert '--resume' in run.lines()[0]
        assert not list(paths['out'].rglob('*partial*'))
    else:
        assert not paths['out'].exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {'data', 'masks', 'json', 'model', 'out'}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_in_several_processes_leaves_nothing(
    number: int, paths: dict[str, Path], start: Callable[..., Run]
) -> None:
    words = [word.format(**paths) for word in INTERRUPTIONS['evaluate_bag'].words]
    many = ('--threads', '8', '--runtime', 'torch')
    run = start([sys.executable, '-m', 'surgseg_ros', 'evaluate_bag', *words, *many])
    run.wait_for(lambda: 'frame/s' in run.output['stderr'] and len(run.others()) > 5)
    assert run.end(number, group=number == signal.SIGINT) == 128 + number
    assert run.lines()[-1].endswith(VERBS['evaluate_bag'].leftovers)
    assert not paths['out'].exists()


SCRIPT = """
import os, signal, sys, time
from surgseg_ros import __main__ as commands

def obey(arguments):
    print('begun', flush=True)
    time.sleep(1000)

def ignore(arguments):
    while True:
        try:
            obey(arguments)
        except KeyboardInterrupt:
            pass

def misreport(arguments):
    try:
        obey(arguments)
    except KeyboardInterrupt:
        raise ImportError('a part of it could not be initialized')

def lead(arguments):
    import multiprocessing
    multiprocessing.get_context('fork').Process(target=time.sleep, args=(1000,)).start()
    ignore(arguments)

if sys.argv[1] == 'ignored':
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.argv[1] == 'importing':
    commands.VERBS['verb'] = commands.Verb('slow_module:main', '', 'go on')
else:
    kind = 'obey' if sys.argv[1] == 'ignored' else sys.argv[1]
    commands.VERBS['verb'] = commands.Verb(f'__main__:{kind}', '', 'go on')
sys.argv[:] = ['verb']
commands.script()
"""


def start_script(start: Callable[..., Run], kind: str, tmp_path: Path) -> Run:
    module = "import time\nprint('begun', flush=True)\ntime.sleep(1000)\n"
    (tmp_path / 'slow_module.py').write_text(module)
    paths = os.pathsep.join((str(ROOT), str(tmp_path)))
    run = start([sys.executable, '-c', SCRIPT, kind], env={**os.environ, 'PYTHONPATH': paths})
    run.wait_for(lambda: 'begun' in run.output['stdout'])
    return run


@pytest.mark.parametrize('kind', ['obey', 'ignore', 'misreport', 'lead', 'importing'])
def test_no_verb_ignores_an_interruption(
    kind: str, start: Callable[..., Run], tmp_path: Path
) -> None:
    """Not even one that swallows or converts KeyboardInterrupt, or is still being imported."""
    run = start_script(start, kind, tmp_path)
    assert run.end(group=False) == 130
    assert run.lines() == ['verb: interrupted; go on']


@pytest.mark.parametrize(
    ('number', 'text'),
    [(signal.SIGTERM, 'terminated'), (signal.SIGHUP, 'the terminal was closed')],
)
def test_other_signals_have_the_same_effect(
    number: int, text: str, start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start_script(start, 'obey', tmp_path)
    assert run.end(number) == 128 + number
    assert run.lines() == [f'verb: {text}; go on']


def test_a_signal_that_is_ignored_stays_ignored(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start_script(start, 'ignored', tmp_path)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.end(signal.SIGTERM) == 143
    assert run.lines() == ['verb: terminated; go on']


def test_workers_end_with_a_parent_that_is_killed(
    paths: dict[str, Path], start: Callable[..., Run]
) -> None:
    words = [word.format(**paths) for word in INTERRUPTIONS['synthesize'].words]
    run = start([sys.executable, '-m', 'surgseg_ros', 'synthesize', *words])
    run.wait_for(lambda: any(paths['out'].parent.glob('.out.*/made/video_01/rgb/*.png')))
    assert run.end(signal.SIGKILL, group=False) == -signal.SIGKILL

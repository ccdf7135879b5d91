# SPDX-License-Identifier: Apache-2.0
"""A node started by launch is killed while a camera runs: it is respawned and publishes masks."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from bench import TIMEOUT_S, Bench, image_cdr, make_image, stamp_ns, until
from nodes import CHOSEN
from sensor_msgs.msg import Image
from tiny_models import write_tiny_model

from tools.soak.shared_memory import clear_shared_memory

SIZES = ((64, 96), (48, 80))
PARAMETERS = {**CHOSEN, 'cpu_threads': 1, 'stale_after_ms': 5000}


class Launch:
    """`ros2 launch` in its own session, so that all its processes can be found."""

    def __init__(self, command, log):
        self._log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self):
        return self._log.read_text()

    def nodes(self):
        """Return the process ids of the node in the order of its starts."""
        lines = re.findall(r'\[segmenter-\d+\]: process started with pid \[(\d+)\]', self.log())
        return [int(pid) for pid in lines]

    def wait(self, holds, what):
        """Wait for a condition while launch must keep running."""
        until(lambda: holds() or self.process.poll() is not None, what)
        assert self.process.poll() is None, self.log()

    def running_processes(self):
        """Return the running processes of the session."""
        pids = []
        for stat in Path('/proc').glob('[0-9]*/stat'):
            with contextlib.suppress(OSError):  # it has just ended
                state, _, _, session = stat.read_text().rpartition(')')[2].split()[:4]
                if int(session) == self.process.pid and state != 'Z':
                    pids.append(int(stat.parent.name))
        return pids

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        print(self.log())  # shown if the test fails


class Camera:
    """Publishes images of alternating sizes, and records what it has sent."""

    def __init__(self, bench):
        self.sent = {}
        self.last_ns = 0
        self._bench = bench
        self._publisher = bench.camera()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        for number, (height, width) in enumerate(itertools.cycle(SIZES)):
            stamp, frame_id = self._bench.new_stamp_ns(), f'image {number}'
            self.sent[stamp] = (frame_id, height, width)
            self.last_ns = stamp
            self._publisher.publish(image_cdr(make_image(number, height, width), stamp, frame_id))
            if self._ended.wait(0.1):
                return

    def has_sent(self, mask):
        """Return whether a mask has the header and size of an image that was sent."""
        return self.sent.get(stamp_ns(mask)) == (mask.header.frame_id, mask.height, mask.width)

    def end(self):
        self._ended.set()
        self._thread.join()


@pytest.fixture
def run(install, launching, tmp_path):
    install('segmenter')
    model = write_tiny_model(tmp_path / 'model')
    params_file = tmp_path / 'parameters.yaml'
    params_file.write_text(yaml.safe_dump({'/**': {'ros__parameters': PARAMETERS}}))
    arguments = ('namespace:=respawn', f'model:={model}', f'params_file:={params_file}')
    run = Launch(launching('segment', *arguments, 'respawn:=true'), tmp_path / 'output')
    yield run
    run.end()
    clear_shared_memory()  # left by the killed node


@pytest.fixture
def bench(run):
    bench = Bench('/respawn')
    yield bench
    bench.close()


@pytest.fixture
def camera(bench):
    camera = Camera(bench)
    yield camera
    camera.end()


def wait_for_results(run, mask, status, since_ns):
    """Wait for a mask of each size, and for a valid status, of images since a stamp."""

    def have_arrived():
        sizes = {(m.height, m.width) for m in mask.messages if stamp_ns(m) > since_ns}
        return sizes >= set(SIZES) and any(
            m.message == 'valid' and last_stamp_ns(m) > since_ns for m in status.messages
        )

    run.wait(have_arrived, f'masks and a valid status of what was sent after {since_ns}')


def last_stamp_ns(status):
    values = {value.key: value.value for value in status.values}
    return int(values['last_stamp'].replace('.', '') or 0)


@pytest.mark.timeout(6 * TIMEOUT_S)
def test_a_killed_node_is_respawned_and_its_masks_match_their_images(run, bench, camera):
    mask, status = bench.listen(Image, 'mask'), bench.status()
    wait_for_results(run, mask, status, since_ns=0)
    (killed,) = run.nodes()

    os.kill(killed, signal.SIGKILL)
    run.wait(lambda: f'process has died [pid {killed}, exit code -9' in run.log(), 'its death')
    wait_for_results(run, mask, status, since_ns=camera.last_ns)
    assert all(map(camera.has_sent, mask.messages))
    first, second = run.nodes()
    assert first == killed != second
    assert second in run.running_processes()
    assert killed not in run.running_processes()

    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(TIMEOUT_S) == 0
    until(lambda: not run.running_processes(), 'the end of all that launch has started')
    assert 'Traceback' not in run.log()

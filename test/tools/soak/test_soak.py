# SPDX-License-Identifier: Apache-2.0
"""Parts of the soak test: images of its camera, counts of processes, shared memory."""

import os
import subprocess
import sys
import threading

import pytest
from started import running

from tools.soak import shared_memory
from tools.soak.processes import usage

HOLDER = """
import pathlib, sys
file = open(sys.argv[1])
print('holds', flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(('encoding', 'step'), [('rgb8', 210), ('mono8', 70), ('rgba8', 280)])
def test_the_frame_id_of_an_image_identifies_it(encoding, step):
    pytest.importorskip('rclpy', reason='needs rclpy')
    from tools.soak.camera import image_msg

    image = image_msg('70x3', encoding, 5 * 10**9 + 7)
    assert (image.width, image.height, image.step, len(image.data)) == (70, 3, step, 3 * step)
    assert image.header.frame_id == '5000000007 70x3'
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (5, 7)


def test_threads_and_files_are_counted(tmp_path):
    before, stop = usage(os.getpid()), threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with (tmp_path / 'file').open('w'):
        during = usage(os.getpid())
    stop.set()
    thread.join()
    assert (during.threads, during.files) == (before.threads + 1, before.files + 1)
    assert during.resident_kib > 1000


def test_only_shared_memory_without_a_process_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'FOLDER', tmp_path)
    monkeypatch.setattr(shared_memory.shutil, 'which', lambda *names, **more: None)
    names = ('fastrtps_held', 'fastrtps_held_el', 'fastrtps_dead', 'fastrtps_dead_el', 'other')
    for name in names:
        (tmp_path / name).touch()
    with running(
        [sys.executable, '-c', HOLDER, str(tmp_path / 'fastrtps_held_el')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == 'holds\n'
        assert shared_memory.clear_shared_memory().startswith('removal')
        left = {path.name for path in tmp_path.iterdir()}
        holder.stdin.close()
    assert left == {'fastrtps_held', 'fastrtps_held_el', 'other'}

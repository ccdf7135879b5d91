# SPDX-License-Identifier: Apache-2.0
"""The node on a GPU: it runs there, leaks no memory, and survives failures of the GPU."""

import os
import subprocess
import sys

import pytest
import torch
from bench import REPOSITORY, TIMEOUT_S
from sensor_msgs.msg import Image
from started import running
from std_srvs.srv import Trigger

from tools.soak.processes import CameraProcess, usage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')

MIB = 2**20

# The node runs in a process whose CUDA context is corrupted: then all calls of CUDA fail,
# as they do when the GPU is lost.
SPOIL = """
import sys
import torch
from nodes import NodeInProcess
from sensor_msgs.msg import Image
from tools.soak.processes import CameraProcess

own_node = NodeInProcess(model=sys.argv[1], device='cuda', stale_after_ms=60000)
mask, status = own_node.bench.listen(Image, 'mask'), own_node.bench.status()
camera = CameraProcess(f'{own_node.bench.namespace}/image', '--size', '96x64')
try:
    status.wait_for_state('valid')
    try:
        torch.zeros(1, device='cuda')[torch.tensor([5], device='cuda')]
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(type(error).__name__)
    degraded = status.wait(lambda m: 'on the CPU instead' in m.values[0].value)
    print(degraded.message, degraded.values[0].value)
    heard = len(mask.messages)
    print(mask.wait(lambda m: any(value != 255 for value in m.data), since=heard) is not None)
finally:
    camera.kill()
    own_node.close()
print('closed')
"""


@pytest.fixture(scope='module')
def node(run_node, model):
    return run_node(model=model, device='cuda', stale_after_ms=60_000)


@pytest.fixture(scope='module')
def camera(bench, node):
    camera = CameraProcess(f'{bench.namespace}/image', '--size', '96x64')
    yield camera
    camera.kill()


@pytest.fixture(scope='module')
def mask(bench, node, camera):
    return bench.listen(Image, 'mask')


def wait_for_decisions(mask, width):
    heard = len(mask.messages)
    decided = mask.wait(lambda m: m.width == width and min(m.data) != 255, since=heard)
    assert decided, f'no decision {width} wide'


def test_life_cycles_leak_no_gpu_memory(bench, node, mask):
    wait_for_decisions(mask, 96)
    held = []
    for _ in range(8):
        for step in ('deactivate', 'cleanup', 'configure', 'activate'):
            assert bench.change(step)
        wait_for_decisions(mask, 96)
        held.append(usage(node.process.pid))
    assert held[-1].threads <= held[1].threads
    assert held[-1].files <= held[1].files
    assert held[-1].gpu_kib - held[1].gpu_kib < 20_000


def test_the_cpu_takes_over_when_gpu_memory_is_full(bench, camera, node, mask):
    status = bench.status()
    status.wait_for_state('valid')
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - 100 * MIB, dtype=torch.uint8, device='cuda')
    try:
        camera.report('size 3840x2160')
        fallen = status.wait(lambda m: 'on the CPU instead' in m.values[0].value)
        assert fallen, [m.values[0].value for m in status.messages]
        assert fallen.message == 'degraded'
        assert 'memory' in fallen.values[0].value
        wait_for_decisions(mask, 3840)
    finally:
        del taken
        torch.cuda.empty_cache()
    camera.report('size 96x64')
    wait_for_decisions(mask, 96)


def test_the_node_returns_to_the_gpu_on_request(bench, node, mask):
    answer = bench.call(Trigger, 'segmenter/reload_model', Trigger.Request())
    assert answer.success
    assert 'as a CUDA graph' in answer.message
    wait_for_decisions(mask, 96)


def test_the_cpu_takes_over_when_the_gpu_is_lost(model):
    folders = (REPOSITORY, REPOSITORY / 'test', REPOSITORY / 'test/node')
    with running(
        [sys.executable, '-c', SPOIL, str(model)],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, folders))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        output, errors = process.communicate(timeout=TIMEOUT_S * 2)
    assert process.returncode == 0, errors + output
    lines = output.splitlines()
    assert 'Error' in lines[0]
    assert lines[1].startswith('degraded')
    assert lines[2:] == ['True', 'closed']


def test_the_node_exits_with_0(node):
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log()

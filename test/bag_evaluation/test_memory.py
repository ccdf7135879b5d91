# SPDX-License-Identifier: Apache-2.0
"""A bag larger than the memory limit of the process is evaluated completely."""

import json
import subprocess
import sys

import numpy as np

from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag

FRAMES, SIDE_PX = 72, 800
ALLOWED_BYTES = 40 * 2**20
BAG_BYTES = FRAMES * SIDE_PX**2 * 3

# The short bag first, so that libraries and model are loaded before the limit is set.
EVALUATE = f"""
import json, resource, sys
from surgseg_ros.__main__ import main
for command in json.loads(sys.argv[1]):
    if main(command):
        sys.exit(1)
    (line,) = [x for x in open('/proc/self/status') if x.startswith('VmData')]
    limit = int(line.split()[1]) * 1024 + {ALLOWED_BYTES}
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
{{after}}
"""


def frames(count):
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (8, 8, 3), np.uint8), np.ones((100, 100, 1), np.uint8))
    truth = np.kron(random.integers(0, 10, (8, 8), np.uint8), np.ones((100, 100), np.uint8))
    for number in range(count):
        yield START_TIME_NS + number * 10**8, image, None if number % 4 else truth


def commands(tmp_path, model):
    for name, count in (('short', 4), ('long', FRAMES)):
        write_image_bag(tmp_path / name, frames(count))
        yield [
            *('evaluate_bag', '--bag', f'{tmp_path / name}', '--model', f'{model}'),
            *('--runtime', 'torch', '--threads', '2', '--image-topic', '/camera/image_raw'),
            *('--ground-truth-topic', '/camera/ground_truth'),
            *('--output', f'{tmp_path / name}.mcap', '--json', f'{tmp_path / name}.json'),
        ]


def run(given, after=''):
    script = EVALUATE.format(after=after)
    call = [sys.executable, '-c', script, json.dumps(given)]
    return subprocess.run(call, capture_output=True, text=True)


def test_memory_use_is_constant(tmp_path, model):
    given = [*commands(tmp_path, model)]
    assert BAG_BYTES > 3 * ALLOWED_BYTES
    done = run(given, f'bytes({2 * ALLOWED_BYTES})  # so the limit holds')
    assert 'MemoryError' in done.stderr.splitlines()[-1]
    result = json.loads((tmp_path / 'long.json').read_text())
    assert (result['frames'], result['with_ground_truth']) == (FRAMES, FRAMES // 4)

# SPDX-License-Identifier: Apache-2.0
"""A bag larger than the memory limit of the process is written and read completely."""

import subprocess
import sys

import pytest
from mcap.writer import CompressionType, IndexType, Writer
from unusual_bags import HEADER, cdr, definition

FRAMES, SIDE_PX = 90, 800
ALLOWED_BYTES = 48 * 2**20
BAG_BYTES = FRAMES * SIDE_PX**2 * 3

LIMIT = f"""
import resource
import cv2, numpy as np
from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import write_image_bag
cv2.setNumThreads(1)
(line,) = [x for x in open('/proc/self/status') if x.startswith('VmData')]
now = int(line.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (now + {ALLOWED_BYTES},) * 2)
"""

WRITE = f"""
image = np.random.default_rng(0).integers(0, 256, ({SIDE_PX}, {SIDE_PX}, 3), np.uint8)
frames = ((10**18 + n, image, image[..., 0]) for n in range({FRAMES}))
print(write_image_bag(PATH, frames, storage=STORAGE).images)
"""

READ = """
with Bag(PATH) as bag:
    print(sum(1 for _ in bag.messages(['/camera/image_raw'])))
"""

HOARD = """
with Bag(PATH) as bag:
    list(bag.messages())
"""


def run(script, path, storage='mcap'):
    script = f'{LIMIT}\nPATH, STORAGE = {str(path)!r}, {storage!r}\n{script}'
    return subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_memory_use_is_constant(tmp_path, storage):
    written = run(WRITE, tmp_path / 'bag', storage)
    assert (written.stdout, written.stderr) == (f'{FRAMES}\n', '')
    size = sum(path.stat().st_size for path in (tmp_path / 'bag').iterdir())
    assert size > BAG_BYTES > 3 * ALLOWED_BYTES
    read = run(READ, tmp_path / 'bag')
    assert (read.stdout, read.stderr) == (f'{FRAMES}\n', '')
    assert 'MemoryError' in run(HOARD, tmp_path / 'bag').stderr  # so the limit is effective
    (file,) = (path for path in (tmp_path / 'bag').iterdir() if path.suffix != '.yaml')
    with file.open('r+b') as stream:
        stream.truncate(size - 2 * SIDE_PX**2)
    cut = run(READ, file)
    assert 'Everything else was read' in cut.stderr
    assert 'MemoryError' not in cut.stderr


@pytest.mark.parametrize('index', [IndexType.ALL, IndexType.NONE])
@pytest.mark.parametrize('has_counts', [True, False])
def test_an_uncompressed_chunk_may_be_larger_than_memory(tmp_path, index, has_counts):
    path, content = tmp_path / 'x.mcap', cdr(0, SIDE_PX**2 * 3)
    writer = Writer(
        str(path), 2**40, CompressionType.NONE, index_types=index, use_statistics=has_counts
    )
    writer.start(profile='ros2')
    schema = writer.register_schema(HEADER, 'ros2msg', definition(HEADER).encode())
    channel = writer.register_channel('/camera/image_raw', 'cdr', schema)
    for number in range(FRAMES):
        writer.add_message(channel, number, content, number)
    writer.finish()
    assert path.stat().st_size > BAG_BYTES > 3 * ALLOWED_BYTES
    result = run(READ, path)
    assert (result.stdout, result.stderr) == (f'{FRAMES}\n', '')

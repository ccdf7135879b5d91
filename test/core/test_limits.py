# SPDX-License-Identifier: Apache-2.0
"""An image that is too large is rejected before it is decoded, and the error says so."""

import struct
import subprocess
import sys
import zlib

SIDE_PX = 12_000

CODE = """
import resource, sys
from pathlib import Path
from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.pairs import MaskError, read_mask

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read, kind in ((read_image_file, FrameError), (read_mask, MaskError)):
    try:
        read(Path(sys.argv[1]))
    except kind as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def test_rejects_an_image_with_too_many_pixels(tmp_path):
    packer = zlib.compressobj(1)
    rows = b''.join(packer.compress(bytes(SIDE_PX + 1)) for _ in range(SIDE_PX)) + packer.flush()
    head = struct.pack('>IIBBBBB', SIDE_PX, SIDE_PX, 8, 0, 0, 0, 0)
    path = tmp_path / 'large.png'
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    )
    ran = subprocess.run([sys.executable, '-c', CODE, path], capture_output=True, text=True)
    *lines, growth_kib = ran.stdout.splitlines()
    assert len(lines) == 2, ran.stderr
    assert all('large.png: declares more than 100000000 pixels' in line for line in lines)
    assert int(growth_kib) < SIDE_PX**2 / 1024 / 4

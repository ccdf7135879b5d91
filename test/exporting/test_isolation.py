# SPDX-License-Identifier: Apache-2.0
"""Loading and segmenting use no network and write no file, including native libraries."""

import hashlib
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_models import tiny_spec

from surgseg_ros.core.model_folder import EXPORT_FILES, write_model
from surgseg_ros.core.runtimes import RUNTIMES
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.exporting.export import BACKENDS, convert

# The kernel kills the process if it creates a socket of IPv4 or IPv6: a filter of six instructions
# on x86-64, where 41 is socket() and its first argument is at offset 16 of `seccomp_data`.
NO_NETWORK = """
import ctypes, struct
program = [
    (0x20, 0, 0, 0), (0x15, 0, 4, 41), (0x20, 0, 0, 16), (0x15, 1, 0, 2), (0x15, 0, 1, 10),
    (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000),
]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in program))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
call = ctypes.CDLL(None, use_errno=True).prctl
call.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
filter = Program(len(program), ctypes.addressof(code))
assert call(38, 1, 0, 0, 0) == 0, 'no new privileges'
if call(22, 2, ctypes.addressof(filter), 0, 0):
    print('no seccomp')
    raise SystemExit
"""

# The kernel kills the process if it extends a file.
NO_FILES = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""

SEGMENT = """
import sys, numpy as np
from surgseg_ros.core.segmenter import Segmenter
for runtime in sys.argv[2:]:
    segmenter = Segmenter.load(sys.argv[1], 'cpu', runtime)
    segmenter.warm_up((48, 64))
    assert segmenter.segment(np.zeros((48, 64, 3), np.uint8)).mask.shape == (48, 64)
    if runtime != 'torch':  # the last one
        assert 'segmentation_models_pytorch' not in sys.modules
print('segmented')
"""

CONTROLS = {
    NO_NETWORK: 'import socket; socket.socket(socket.AF_INET6)',
    NO_FILES: 'import sys; open(sys.argv[1], "w").write("x")',
}
SIGNALS = {NO_NETWORK: signal.SIGSYS, NO_FILES: signal.SIGXFSZ}


pytestmark = pytest.mark.skipif(platform.machine() != 'x86_64', reason='the filter is for x86-64')


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-W', 'ignore', '-B', '-c', script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if 'no seccomp' in done.stdout:
        pytest.skip('this kernel lets no filter be set')
    return done


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with every export."""
    for library in (name for backend in BACKENDS.values() for name in backend.libraries):
        if find_spec(library) is None:
            pytest.skip(f'{library} is not installed here')
    spec = tiny_spec()
    folder = tmp_path_factory.mktemp('exported')
    network = SegmentationNetwork(spec).eval()
    written = write_model(folder, spec, network.state_dict())
    exports = {}
    for backend, names in EXPORT_FILES.items():
        convert(backend, network, spec, [], folder)
        digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
        exports[backend] = {'precision': 'f32', 'files': digests, 'agreement': {}}
    (folder / 'model.json').write_text(replace(written, exports=exports).to_json())
    return folder


@pytest.mark.parametrize('fence', [NO_NETWORK, NO_FILES], ids=['network', 'files'])
def test_the_restrictions_are_effective(fence: str, tmp_path: Path) -> None:
    done = run(fence + CONTROLS[fence], tmp_path / 'file')
    assert done.returncode == -SIGNALS[fence], done.stderr


def test_every_runtime_loads_and_segments_without_network_and_files(exported: Path) -> None:
    done = run(NO_NETWORK + NO_FILES + SEGMENT, exported, *sorted(RUNTIMES))
    assert (done.returncode, done.stdout) == (0, 'segmented\n'), done.stderr

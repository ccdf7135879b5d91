# SPDX-License-Identifier: Apache-2.0
"""
Runs tests with NumPy and OpenCV as Ubuntu 24.04 has them; what `make test-reference` runs.

`.venv.reference` holds these two alone. All other packages are those of `.venv`, behind them on
the path, so that PyTorch is neither downloaded nor stored a second time. It is run by the Python
of `.venv`, which has found the libraries of ROS 2 and hands them on.
"""

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from machine import SetUpError
from set_up import ROOT, STAMP, Runner, digest, locked

PINNED = ('numpy==1.26.4', 'opencv-python-headless==4.6.0.66')
LATEST_PYTHON = (3, 12)
"""There are no wheels of that NumPy for later ones."""

FOLDER = ROOT / '.venv.reference'
KEY = FOLDER / 'made_from.txt'

TESTS = (
    *('test/messages', 'test/core', 'test/bags', 'test/reports', 'test/synthetic'),
    'test/training/test_train.py',  # a run from its start to a model that segments
    'test/cli/test_synthesize.py',
    'test/test_main.py',  # every verb's --help
)


def main() -> int:
    """
    Make the environment if need be, and become pytest in it.

    :return: the exit status where it does not come to that.
    """
    if sys.version_info[:2] > LATEST_PYTHON:
        last, this = ('.'.join(map(str, v)) for v in (LATEST_PYTHON, sys.version_info[:2]))
        print(
            f'make test-reference: skipped: {PINNED[0]} is there up to Python {last}, not {this}'
        )
        return 0
    try:
        with locked() as lock:
            make(Runner(lock))
    except SetUpError as error:
        print(f'make test-reference: {error}', file=sys.stderr)
        return 1
    python = str(FOLDER / 'bin' / 'python')
    print(f'make test-reference: {" and ".join(PINNED)}', flush=True)
    os.chdir(ROOT)
    os.execv(python, [python, '-m', 'pytest', *(sys.argv[1:] or TESTS)])


def make(run: Runner) -> None:
    """
    Make the environment, unless it is there and `.venv` is what it was then.

    :param run: runs a command, and raises where it fails.
    """
    key = digest([Path(__file__), STAMP])
    if KEY.is_file() and KEY.read_text() == key:
        return
    print(f'make test-reference: making {FOLDER.name} (half a minute)', flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    around = ['--system-site-packages'] if json.loads(STAMP.read_text())['ros'] else []
    run(sys.executable, '-m', 'venv', '--without-pip', *around, FOLDER)
    (packages,) = FOLDER.glob('lib/python*/site-packages')
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install')
    run(*pip, '--no-deps', '--only-binary', ':all:', '--target', packages, *PINNED)
    base = sysconfig.get_path('purelib')
    # A path alone would leave out what .pth files add, this package among it.
    (packages / 'base.pth').write_text(f'import site; site.addsitedir({base!r})\n')
    KEY.write_text(key)


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""
`make test-reference`: runs tests with the NumPy and OpenCV of Ubuntu 24.04.

`.venv.reference` contains only these two. All other packages are those of `.venv`, which comes
later in the path, so that PyTorch is neither downloaded nor stored twice. The Python of `.venv`
starts it, since it has found the libraries of ROS 2 and passes them on.
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
"""Last Python version for which that NumPy has wheels."""

FOLDER = ROOT / '.venv.reference'
KEY = FOLDER / 'made_from.txt'

TESTS = (
    *('test/messages', 'test/core', 'test/bags', 'test/reports', 'test/synthetic'),
    # a complete run, up to a model that segments
    'test/training/test_train.py::test_two_epochs_give_a_model_that_segments',
    'test/cli/test_synthesize.py',
    # imports every module
    'test/test_imports.py::test_importing_a_module_changes_nothing_in_the_process',
)

LEFT_OUT = {
    'test/core/test_cache.py': 'core/cache.py',
    'test/core/test_conversion.py': 'core/runtimes/conversion.py',
    'test/core/test_early_convolution.py': 'core/runtimes/pytorch.py',
    'test/core/test_errors.py': 'core/errors.py',
    'test/core/test_instructions.py': 'core/runtimes/base.py',
    'test/core/test_network.py': 'core/runtimes/pytorch.py',
}
"""Of these, tests whose modules call neither NumPy nor OpenCV; with the names of the modules."""


def main() -> int:
    """
    Create the environment if necessary, and replace this process by pytest in it.

    The command-line arguments are passed to pytest.

    :return: the exit status if this is not possible.
    """
    if sys.version_info[:2] > LATEST_PYTHON:
        last, this = ('.'.join(map(str, v)) for v in (LATEST_PYTHON, sys.version_info[:2]))
        print(f'make test-reference: skipped: {PINNED[0]} exists up to Python {last}, not {this}')
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
    left_out = [f'--ignore={path}' for path in LEFT_OUT]
    os.execv(python, [python, '-m', 'pytest', *sys.argv[1:], *left_out, *TESTS])


def make(run: Runner) -> None:
    """
    Create the environment, unless it exists and `.venv` has not changed since.

    :param run: runs a command, and raises if it fails.
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
    # A path alone would omit the effects of .pth files, such as this package.
    (packages / 'base.pth').write_text(f'import site; site.addsitedir({base!r})\n')
    KEY.write_text(key)


if __name__ == '__main__':
    sys.exit(main())

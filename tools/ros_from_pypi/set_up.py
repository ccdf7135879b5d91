# SPDX-License-Identifier: Apache-2.0
"""`make setup`: creates .venv, with ROS 2 from PyPI or for a sourced ROS 2."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import machine
import message_build
from machine import SetUpError

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
VENV = ROOT / '.venv'
STAMP = VENV / 'set_up.json'
LOG = VENV / 'set_up.log'
SILENCE_S = 8.0
"""Interval of progress lines during a long command, in seconds."""
MESSAGES = ROOT / 'surgseg_ros' / 'messages' / 'vision_msgs' / 'msg'


class Stage(NamedTuple):
    """
    A stage of set-up, repeated when its inputs change.

    :param name: its key in the stamp.
    :param notice: text printed when it starts.
    :param inputs: the files on which it depends.
    :param act: the function that performs it.
    """

    name: str
    notice: str
    inputs: list[Path]
    action: Callable[[], None]


class Runner:
    """Runs commands that write to the log and hold the lock, even if this process dies."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def __call__(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        """Run a command; if it fails, its last lines are part of the error."""
        with LOG.open('ab') as log:
            start = log.tell()
            process = subprocess.Popen(
                command, stdout=log, stderr=log, pass_fds=[self._lock], cwd=ROOT, env=env
            )
            try:
                status = wait(process, start)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if status:
            lines = LOG.read_bytes()[start:].decode(errors='replace').rstrip().splitlines()
            called = ' '.join(Path(part).name for part in map(str, command[:4]))
            raise SetUpError('\n'.join((f'{called} ... failed ({LOG}):', *lines[-15:])))


def wait(process: 'subprocess.Popen[bytes]', start: int) -> int:
    """
    Wait for a command, and show its progress from time to time.

    :param process: the process, which writes to the log.
    :param start: position in the log at which its output starts.
    :return: its exit status.
    """
    begun_s = time.monotonic()
    while True:
        try:
            return process.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            lines = LOG.read_bytes()[start:].decode(errors='replace').split('\n')
            last = next((line.strip() for line in reversed(lines) if line.strip()), '')
            print(f'  {time.monotonic() - begun_s:.0f} s  {last[:90]}', flush=True)


def main() -> int:
    """Set up, and report an error in one line."""
    try:
        with locked() as lock:
            set_up(Runner(lock))
    except SetUpError as error:
        print(f'make setup: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('make setup: interrupted; make setup continues', file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Lock this checkout; wait for another set-up of it."""
    with (ROOT / '.venv.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('make setup: waiting for another set-up of this checkout', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def set_up(run: Runner) -> None:
    """Update .venv, stage by stage; finished stages are recorded in the stamp."""
    ros = machine.sourced_ros()
    stamp = read_stamp()
    if stamp is None:
        stamp = make_venv(ros, run)
    else:
        check_fits(stamp, ros)
    for stage in stages(ros, run):
        key = digest(stage.inputs)
        if stamp.get(stage.name) == key:
            continue
        stamp.pop(stage.name, None)
        write_stamp(stamp)
        print(f'make setup: {stage.notice}', flush=True)
        stage.action()
        stamp[stage.name] = key
        write_stamp(stamp)


def stages(ros: str, run: Runner) -> list[Stage]:
    """List the stages; `ros` is the sourced distribution, or ''."""
    extras = 'docs,onnx,openvino,ray,training,test'
    extras = extras if ros else f'ros,{extras}'
    lock = lock_files(ros)
    packages = Stage(
        'packages',
        f'installing {"" if ros else "ROS 2 Jazzy, "}torch and the rest into .venv (minutes)',
        [ROOT / 'setup.py', Path(__file__), *lock],
        lambda: install(extras, run, lock),
    )
    messages = Stage(
        'vision_msgs',
        'building vision_msgs (half a minute)',
        [*sorted(MESSAGES.glob('*.msg')), *message_build.sources()],
        lambda: message_build.build(MESSAGES, VENV, run),
    )
    return [packages] if ros else [packages, messages]


def make_venv(ros: str, run: Runner) -> dict[str, str]:
    """Create an empty environment, and its stamp."""
    machine.check(ros)
    discard_unfinished()
    VENV.mkdir(exist_ok=True)
    stamp = {
        'root': str(ROOT),
        'ros': ros,
        'python': sysconfig.get_python_version(),
    }
    write_stamp(stamp)
    around = ['--system-site-packages'] if ros else []
    run(sys.executable, '-m', 'venv', *around, VENV)
    return stamp


def lock_files(ros: str) -> list[Path]:
    """Return the lock file that CI requests with LOCKED=1, if there is one for this Python."""
    lock = FOLDER / f'lock-{sysconfig.get_python_version()}.txt'
    return [lock] if os.environ.get('LOCKED') == '1' and not ros and lock.is_file() else []


def install(extras: str, run: Runner, lock: list[Path]) -> None:
    """Install this package in place, and with it everything from the list in setup.py."""
    constraints = VENV / 'constraints.txt'
    constraints.write_text(machine.constraints())
    pip = (VENV / 'bin' / 'python', '-m', 'pip', '--disable-pip-version-check', 'install')
    run(*pip, '--upgrade', 'pip')  # the pip that comes with Python can be years old, and slow
    # Python compiles the third of the modules that is used when it imports them; see the Makefile.
    package = ('--no-compile', '--editable', f'.[{extras}]')
    for path in lock:
        try:
            return run(*pip, '-c', constraints, '-c', path, *package)
        except SetUpError as error:  # a package index may remove versions
            print(f'make setup: without {path.name}, as that failed:\n{error}', flush=True)
    run(*pip, '-c', constraints, *package)


def read_stamp() -> dict[str, str] | None:
    """Read the stamp of the environment; None if it does not exist or is not usable."""
    if not STAMP.exists():
        return None
    stamp: dict[str, str] = json.loads(STAMP.read_text())
    # An incomplete environment is not repaired, but created again; likewise one whose checkout was
    # moved, or whose Python was removed.
    whole = 'packages' in stamp and stamp['root'] == str(ROOT)
    return stamp if whole and (VENV / 'bin' / 'python').exists() else None


def write_stamp(stamp: dict[str, str]) -> None:
    """Write the stamp atomically."""
    fresh = STAMP.with_suffix('.tmp')
    fresh.write_text(json.dumps(stamp, indent=1))
    fresh.replace(STAMP)


def discard_unfinished() -> None:
    """Remove an unfinished environment of an earlier set-up, but no other one."""
    discarded = ROOT / '.venv.discarded'
    shutil.rmtree(discarded, ignore_errors=True)
    if not VENV.exists():
        return
    if not STAMP.exists() and any(path.name != 'set_up.tmp' for path in VENV.iterdir()):
        raise SetUpError(f'{VENV} was not created by make setup: move it away')
    VENV.rename(discarded)
    shutil.rmtree(discarded)


def check_fits(stamp: dict[str, str], ros: str) -> None:
    """Refuse to mix two ROS 2 or two Python versions in one environment."""
    if stamp['ros'] != ros:
        had, now = stamp['ros'] or 'ROS 2 from PyPI', ros or 'no ROS 2 sourced'
        raise SetUpError(f'.venv was made for {had}, and there is {now} now: make clean first')
    python = sysconfig.get_python_version()
    if os.environ.get('PYTHON') and stamp['python'] != python:
        had = stamp['python']
        raise SetUpError(f'.venv has Python {had}, and PYTHON is {python}: make clean first')


def digest(paths: list[Path]) -> str:
    """Hash the names and contents of files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b'\0' + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


if __name__ == '__main__':
    sys.exit(main())

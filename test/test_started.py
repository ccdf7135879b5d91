# SPDX-License-Identifier: Apache-2.0
"""Processes started by tests end with the test, with pytest, and even if pytest is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import started
from started import end, left_over, marked, room_for, running

FOREVER = 'import time; print("runs", flush=True); time.sleep(1000)'
STUBBORN = (
    'import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); '
    f'child = subprocess.Popen([sys.executable, "-c", {FOREVER!r}]); '
    'print(child.pid, flush=True); child.wait()'
)
RUN = """
import os, signal, subprocess, sys
import started

started.start_watchdog(started.mark_this_run())
command = [sys.executable, '-c', 'import time; print("runs", flush=True); time.sleep(1000)']
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, os.environ[started.MARK], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

WORKERS_TEST = """
import os, subprocess, sys
from pathlib import Path
import conftest

def test(request):
    conftest.END_S = 0.0
    Path(__file__).with_suffix('.domain').write_text(os.environ['ROS_DOMAIN_ID'])
    command = [sys.executable, '-c', 'import time; print("runs", flush=True); time.sleep(1000)']
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b'runs\\n'  # a process that has just begun has no words yet
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return False
    return state != 'Z'


def wait_for_the_end_of(pid: int) -> None:
    end_s = time.monotonic() + 300.0
    while is_alive(pid):
        assert time.monotonic() < end_s, pid
        time.sleep(0.02)


def python(script: str) -> list[str]:
    return [sys.executable, '-c', script]


def test_a_process_and_its_children_end_if_a_test_fails() -> None:
    pids: list[int] = []

    def fail() -> None:
        with running(python(STUBBORN), stdout=subprocess.PIPE) as process:
            pids.extend([process.pid, int(process.stdout.readline())])
            assert all(map(is_alive, pids))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for pid in pids:
        wait_for_the_end_of(pid)


def test_a_process_that_does_not_exit_is_killed_and_that_is_an_error() -> None:
    process = subprocess.Popen(python(STUBBORN), stdout=subprocess.PIPE, start_new_session=True)
    child = int(process.stdout.readline())
    with pytest.raises(subprocess.TimeoutExpired):
        end(process, gently_s=0.1)
    assert process.returncode == -signal.SIGKILL
    wait_for_the_end_of(child)


def test_a_process_that_exits_is_not_killed() -> None:
    with running(python(FOREVER), 300.0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as it:
        assert it.stdout.readline() == b'runs\n'
    assert it.returncode == -signal.SIGINT


def test_all_processes_end_if_the_run_is_killed(tmp_path: Path) -> None:
    paths = {**os.environ, 'PYTHONPATH': str(Path(started.__file__).parent)}
    run = subprocess.run([sys.executable, '-c', RUN], env=paths, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL
    pid, mark = run.stdout.split()
    wait_for_the_end_of(int(pid))
    assert not marked(mark)


def test_remaining_processes_are_reported_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(started.MARK, 'a-run-of-its-own')
    with running(python(FOREVER), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'runs\n'
        found = left_over('a-run-of-its-own', 0.0)
        assert list(found) == [process.pid]
        assert 'time.sleep' in found[process.pid]
        wait_for_the_end_of(process.pid)
    assert not left_over('a-run-of-its-own', 0.0)


def words(folder: Path) -> list[bytes]:
    """Return the command line of a process; empty if it has just ended."""
    try:
        return (folder / 'cmdline').read_bytes().split(b'\0')
    except OSError:
        return []


def test_the_watchdog_of_this_run_does_not_kill_itself() -> None:
    wanted = [str(Path(started.__file__).resolve()), str(os.getpid())]
    found = [
        int(folder.name)
        for folder in Path('/proc').glob('[0-9]*')
        if words(folder)[2:4] == [word.encode() for word in wanted]
    ]
    assert len(found) == 1
    assert found[0] not in marked(os.environ[started.MARK])


def test_processes_of_tests_can_be_interrupted() -> None:
    """Also if pytest runs in the background of a shell, or with nohup, and ignores signals."""
    signals = '(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)'
    report = (
        f'import signal; print([x for x in {signals} if signal.getsignal(x) == signal.SIG_IGN])'
    )
    run = subprocess.run(python(report), capture_output=True, text=True, check=True)
    assert run.stdout == '[]\n'


def test_tests_run_by_nohup_survive_the_terminal_but_their_processes_do_not(
    tmp_path: Path,
) -> None:
    tests = Path(__file__).parent
    probe = tmp_path / 'test_probe.py'
    probe.write_text(
        'import os, signal, subprocess, sys\n'
        'def test_it():\n'
        '    os.kill(os.getpid(), signal.SIGHUP)\n'
        "    child = [sys.executable, '-c', 'import os; os.kill(os.getpid(), 1)']\n"
        '    assert subprocess.run(child).returncode == -signal.SIGHUP\n'
    )
    (tmp_path / 'conftest.py').write_text((tests / 'conftest.py').read_text())
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(probe)]
    paths = os.pathsep.join((str(tests.parent), str(tests), os.environ.get('PYTHONPATH', '')))
    run = subprocess.run(
        ['nohup', *command],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_room_is_for_at_least_one_process_and_at_most_one_per_core() -> None:
    assert room_for(1e9) == 1
    assert 1 <= room_for(0.001) <= len(os.sched_getaffinity(0))


def test_slow_files_and_folders_exist_and_are_recognized(pytestconfig: pytest.Config) -> None:
    tests = Path(__file__).parent
    conftest = pytestconfig.pluginmanager.get_plugin(str(tests / 'conftest.py'))
    assert [name for name in conftest.SLOW if not (tests / name).exists()] == []
    for name in ('tools/demo/test_demo.py', 'test_interrupts.py'):
        assert conftest.is_slow(tests / name)
    for name in ('test_started.py', 'core/training/test_started.py', '../tools/test_started.py'):
        assert not conftest.is_slow((tests / name).resolve())


def test_workers_have_their_own_domains_and_remaining_processes_are_reported(
    tmp_path: Path,
) -> None:
    for name in ('one', 'two'):
        (tmp_path / f'test_{name}.py').write_text(WORKERS_TEST)
    tests = Path(__file__).parent
    options = ('-p', 'conftest', '--numprocesses', '2', '--dist', 'loadfile', '-c', os.devnull)
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', *options, '--rootdir', tmp_path, tmp_path],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tests), str(tests.parent)])},
        capture_output=True,
        text=True,
    )
    assert '2 passed' in run.stdout, run.stdout + run.stderr
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert len({path.read_text() for path in tmp_path.glob('*.domain')}) == 2
    left = [line for line in run.stdout.splitlines() if 'time.sleep(1000)' in line]
    assert len(left) == 2, run.stdout
    for line in left:
        wait_for_the_end_of(int(line.split(':')[0]))

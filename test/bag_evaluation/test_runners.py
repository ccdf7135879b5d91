# SPDX-License-Identifier: Apache-2.0
"""The job of a worker that dies is restarted, and abandoned after the third time."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from surgseg_ros.bag_evaluation import runners

REPOSITORY = Path(__file__).parents[2]


def test_the_job_of_a_dead_worker_is_restarted(tmp_path, monkeypatch):
    """Shell commands replace bags, since a new process cannot import functions of a test."""
    monkeypatch.setattr(runners, 'do', subprocess.check_call)
    kill = 'kill -9 $PPID'
    jobs = [
        ['sh', '-c', f'test -e {tmp_path}/died || {{ touch {tmp_path}/died; {kill}; }}'],
        ['true'],
    ]
    assert sorted(runners.in_processes(1)(jobs)) == [(jobs[0], 0), (jobs[1], 0)]
    assert (tmp_path / 'died').exists()

    ((_, error),) = runners.in_processes(2)([['sh', '-c', kill]])
    assert isinstance(error, runners.WorkerError)
    assert 'died 3 times' in str(error)


RAY_CODE = """
import subprocess, sys
from surgseg_ros.bag_evaluation import runners
from surgseg_ros.bag_evaluation.frames import Options

class Command(list):
    options = Options(image_topic='', device='cpu', threads=1)

runners.do = subprocess.check_call
died = sys.argv[1]
once = Command(['sh', '-c', f'test -e {died} || {{ touch {died}; kill -9 $PPID; }}'])
never = Command(['sh', '-c', 'kill -9 $PPID'])
for job, done in runners.on_ray('local')([once, never]):
    print(job is once, type(done).__name__)
"""


@pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='ray is not installed')
def test_a_cluster_restarts_the_job_of_a_dead_worker(tmp_path):
    """A shell command replaces a bag."""
    command = [sys.executable, '-c', RAY_CODE, str(tmp_path / 'died')]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (tmp_path / 'died').exists(), process.stderr
    text = {'True int', 'False WorkerError'}
    assert text <= set(process.stdout.splitlines()), process.stderr

# SPDX-License-Identifier: Apache-2.0
"""The job of a worker that dies is restarted, and abandoned after the third time."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from surgseg_ros.bag_evaluation import runners

REPOSITORY = Path(__file__).parents[2]


def test_the_job_of_a_dead_worker_is_restarted(tmp_path, monkeypatch):
    """Shell commands replace bags, since a new process cannot import functions of a test."""
    monkeypatch.setattr(runners, 'run_job', subprocess.check_call)
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
import json, subprocess, sys
from pathlib import Path
from surgseg_ros.bag_evaluation import runners
from surgseg_ros.bag_evaluation.frames import Options

class Command(list):
    options = Options(image_topic='', device='cpu', threads=1)

runners.run_job = subprocess.check_call
died, outcomes = sys.argv[1:]
once = Command(['sh', '-c', f'test -e {died} || {{ touch {died}; kill -9 $PPID; }}'])
never = Command(['sh', '-c', 'kill -9 $PPID'])
results = runners.on_ray('local')([once, never])
Path(outcomes).write_text(json.dumps({type(done).__name__: job is once for job, done in results}))
"""


@pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='ray is not installed')
def test_a_cluster_restarts_the_job_of_a_dead_worker(tmp_path):
    """A shell command replaces a bag; Ray prints what it likes to both streams."""
    outcomes = tmp_path / 'outcomes'
    command = [sys.executable, '-c', RAY_CODE, str(tmp_path / 'died'), str(outcomes)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (tmp_path / 'died').exists(), process.stderr
    assert outcomes.exists(), process.stderr
    assert json.loads(outcomes.read_text()) == {'int': True, 'WorkerError': False}

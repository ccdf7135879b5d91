# SPDX-License-Identifier: Apache-2.0
"""The launch file in docs/lifecycle_managers.md works as documented, with the real node."""

import contextlib
import re
import subprocess

import pytest
from bench import REPOSITORY, TIMEOUT_S, Bench, until
from started import running
from tiny_models import write_tiny_model

PAGE = (REPOSITORY / 'docs' / 'lifecycle_managers.md').read_text()


@pytest.fixture
def bench():
    bench = Bench('/managed')
    yield bench
    bench.close()


@pytest.fixture
def launch(install, launching, tmp_path):
    """Return a function that launches the file of the page and returns the path of its log."""
    install('segmenter')
    *tool, _, _ = launching('none')  # but for the package and its file
    (snippet,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    with contextlib.ExitStack() as started:

        def start(model):
            path = tmp_path / 'segment_managed.launch.py'
            text = snippet.replace('/path/to/model', str(model)).replace(
                "namespace=''", "namespace='managed'"
            )
            assert text.count(str(model)) == text.count("'managed'") == 1
            path.write_text(text)
            with (tmp_path / 'launch_log').open('w') as file:
                streams = {'stdout': file, 'stderr': subprocess.STDOUT}
                launch = running(
                    [*tool, str(path)], TIMEOUT_S, stdin=subprocess.DEVNULL, **streams
                )
                return started.enter_context(launch), tmp_path / 'launch_log'

        yield start


def test_launch_configures_and_activates_the_node(launch, bench, tmp_path):
    process, log = launch(write_tiny_model(tmp_path / 'tiny'))
    status = bench.status()
    heard = until(
        lambda: [m.message for m in status.messages if m.message == 'stale'] or process.poll(),
        'the node to be active',
    )
    assert heard == ['stale'] * len(heard), log.read_text()
    # The node publishes its status at the end of the transition, shortly before its state changes.
    until(lambda: bench.state() == 'active', 'the state to be active')


def test_launch_ends_if_configure_fails(launch, tmp_path):
    process, log = launch(tmp_path / 'no_such_model')
    process.wait(TIMEOUT_S)
    assert 'does not exist' in log.read_text()

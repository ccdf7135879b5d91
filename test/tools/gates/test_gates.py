# SPDX-License-Identifier: Apache-2.0
"""The fit of the gates: the limits in use reject degraded scenes and pass good ones."""

import cv2
import numpy as np
import pytest

from surgseg_ros.core.gates import DEFAULTS, GATES
from tools.gates import __main__ as tool
from tools.gates.corruptions import CORRUPTIONS, SEVERITIES


@pytest.fixture(scope='module')
def counted():
    return tool.measure(tool.sources(860_000_000, 6, (360, 640)))


def is_alarm(name, value):
    limit = DEFAULTS[name].limit
    return value < limit if GATES[name].below else value >= limit


def test_each_gate_has_a_degradation_except_the_one_that_counts_frames():
    assert set(CORRUPTIONS) == {name for name, gate in GATES.items() if gate.measure}


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_good_scenes_pass_and_fully_degraded_ones_do_not(counted, name):
    assert len(counted[name].good) == 6
    assert not any(is_alarm(name, value) for value in counted[name].good)
    worst = [is_alarm(name, value) for value in counted[name].corrupted[1.0]]
    # A scene without motion has no combing.
    assert sum(worst) >= (3 if name == 'interlaced' else 6)


def test_the_limit_is_between_good_and_degraded_scenes():
    between = tool.fit('black', tool.Counted([0.1, 0.3], {SEVERITIES[-1]: [0.9, 0.7]}))
    assert between == pytest.approx(0.5)
    below = tool.fit('unfocused', tool.Counted([0.5, 0.4], {SEVERITIES[-1]: [0.2, 0.3]}))
    assert below == pytest.approx(0.35)


def test_the_table_counts_alarms():
    counts = tool.Counted([0.1, 0.9], {s: [1.0, 0.0, 0.0] for s in SEVERITIES})
    table = tool.table({'black': 0.5}, {'black': counts})
    assert table.splitlines()[2].startswith('| black | 0.500 | 0.700 | 1/2 | 1/3 |')


def test_counts_alarms_in_a_video_and_draws_them(tmp_path, monkeypatch, capsys):
    video = tmp_path / 'v.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 10, (160, 96))
    for _ in range(3):
        writer.write(np.zeros((96, 160, 3), np.uint8))
    writer.release()
    words = ['--scenes', '1', '--size', '90', '160', '--video', str(video)]
    words += ['--roi', '0', '0', '80', '60', '--sheets', str(tmp_path / 'sheets')]
    assert tool.main(words) == 0
    text = capsys.readouterr().out
    assert 'v.avi: 3 images, alarms: black 3' in text
    for name in CORRUPTIONS:
        assert f'\n| {name} |' in text
        assert (tmp_path / 'sheets' / f'{name}.png').stat().st_size > 1000

# SPDX-License-Identifier: Apache-2.0
"""What the verb `evaluate_bag` refuses, and how it says so."""

import pytest
from independent import IMAGES

from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.lockstep import evaluate_bag
from surgseg_ros.messages.images import IMAGE, image_to_msg
from surgseg_ros.messages.results import header


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--image-topic', '/left'), "'/left' is not in bag"),
        (('--image-topic', '/text'), 'of type std_msgs/msg/Header, not of images'),
        (('--output', 'there.mcap'), 'exists already'),
        (('--output', 'folder'), 'has to end with .mcap'),
        (('--output', 'masks.db3'), 'has to end with .mcap'),
        (('--json', '.'), "--json '.' is a folder"),
        (('--report', 'there.mcap'), "--report 'there.mcap' is a file"),
        (('--device', 'tpu'), "device is 'tpu'"),
        (('--model', 'nowhere'), 'nowhere'),
        (('--ray', '127.0.0.1:1'), "no Ray cluster answers at '127.0.0.1:1'"),
    ],
)
def test_what_can_not_be_done_is_said(
    tmp_path, frame, evaluate, capsys, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.mcap').touch()
    with BagWriter('bag') as bag:
        bag.write(IMAGES, IMAGE, image_to_msg(frame(1)[1], header(1)), 1)
        bag.write('/text', 'std_msgs/msg/Header', header(1), 1)
    given = ('--bag', 'bag', '--json', 'a.json', '--no-truth', *arguments)
    assert evaluate(*given) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'a.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--bag', 'x', '--mask-topic', '/mask'), '--mask-topic goes with --recorded'),
        (('--recorded', 'x'), '--recorded needs --mask-topic'),
        (('--recorded', 'x', '--mask-topic', '/m', '--output', 'o.mcap'), 'leave out'),
        (('--bag', 'x', '--ray', 'auto', '--workers', '2'), 'exclude one another'),
        (('--bag', 'x', '--tolerance-ms', '-1'), '0 or more'),
        (('--bag', 'x', '--image-topic', '/camera/ground_truth'), 'are on different topics'),
        (('--bag', 'x', '--roi', '0', '0', '-5', '9'), '--roi 0 0 -5 9 is no part of a picture'),
    ],
)
def test_what_does_not_go_together_is_said(evaluate, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments, '--json', 'a.json')
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_interruption_is_told_in_a_line(tmp_path, write_bag, evaluate, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_bag, 'run', interrupt)
    bag = write_bag(tmp_path / 'bag', range(1))
    assert evaluate('--bag', bag, '--json', tmp_path / 'a.json') == 130
    assert capsys.readouterr().err.startswith('evaluate_bag: interrupted; ')

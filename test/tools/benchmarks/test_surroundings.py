# SPDX-License-Identifier: Apache-2.0
"""The benchmark of steps around the network: both implementations give the same results."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tools.benchmarks import surroundings
from tools.benchmarks.surrounding_steps import Step, steps
from tools.benchmarks.surroundings import Row, line, main, measure

SIZE, INPUT = (108, 192), (48, 64)


@pytest.fixture(scope='module')
def by_name() -> dict[str, Step]:
    return {step.name: step for step in steps(SIZE, [INPUT])}


def test_both_implementations_give_the_same_mask(by_name: dict[str, Step]) -> None:
    step = by_name['mask from 64x48']
    (ours, *none), (plain, _) = step.ours(), step.plain()
    assert none == [None, None]
    assert (ours == plain).float().mean() > 0.999


@pytest.mark.parametrize('noise', ['', ', noise'])
def test_both_implementations_give_the_same_confidence(
    by_name: dict[str, Step], noise: str
) -> None:
    step = by_name[f'mask and confidence from 64x48{noise}']
    ours, plain = step.ours(), step.plain()
    assert (ours[0] == plain[0]).float().mean() > 0.999
    assert ((ours[1].int() - plain[1].int()).abs() <= 1).float().mean() > 0.999


@pytest.mark.parametrize('name', ['instruments', 'instruments, 1 % specks'])
def test_both_implementations_find_the_same_instruments(
    by_name: dict[str, Step], name: str
) -> None:
    ours = [(i.label, i.score, i.area_px) for i in by_name[name].ours()]
    plain = [found[:3] for found in by_name[name].plain()]
    assert len(ours) > 3
    # This package joins pieces, even too small ones, and separates tools that touch.
    for label in {label for label, _, _ in plain}:
        areas = [sum(area for kind, _, area in found if kind == label) for found in (ours, plain)]
        assert areas[1] <= areas[0] < 1.5 * areas[1]


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
def test_both_implementations_read_the_same_image(by_name: dict[str, Step], encoding: str) -> None:
    step = by_name[f'image from CDR, {encoding}']
    assert np.array_equal(step.ours(), step.plain())


def test_both_implementations_write_the_same_mask_and_fit_to_the_same_size(
    by_name: dict[str, Step],
) -> None:
    assert by_name['mask to CDR'].ours() == by_name['mask to CDR'].plain()
    fitted, plain = by_name['fit to 64x48'].ours(), by_name['fit to 64x48'].plain()
    assert isinstance(plain, Image.Image)
    assert fitted.shape == (1, *INPUT, 3)
    assert np.abs(fitted[0, : plain.height].numpy().astype(int) - np.asarray(plain)).mean() < 1


def test_the_first_round_is_ignored_and_medians_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times_ms = iter([99, 99, 2, 8, 1, 9, 3, 10])
    monkeypatch.setattr(surroundings, '_time_ms', lambda variant: next(times_ms))
    row = measure('4x3', Step('nothing', int, int, 5000), repeats=3, bytes_per_s=1e6)
    assert row == Row('4x3', 'nothing', 2, 9, 5.0)
    assert line(row) == '| 4x3 | nothing | 2.00 | 9.00 | 4.5 | 5.00 |'


def test_a_run_prints_a_table_and_writes_its_numbers(tmp_path, capsys) -> None:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    path = tmp_path / 'numbers.json'
    words = ['--images', '96x64', '--inputs', '96x64', '--repeats', '1', '--json', str(path)]
    assert main(words) == 0
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    rows = json.loads(path.read_text())['rows']
    lines = [text for text in capsys.readouterr().out.splitlines() if text.startswith('| 96x64')]
    assert len(rows) == len(lines) == 10
    assert all(row['ours_ms'] > 0 and row['ratio'] > 0 for row in rows)


def test_rejects_a_size_too_small_for_a_scene(capsys) -> None:
    with pytest.raises(SystemExit):
        main(['--images', '1920x10'])
    assert "'1920x10' is not a size" in capsys.readouterr().err

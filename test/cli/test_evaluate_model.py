# SPDX-License-Identifier: Apache-2.0
"""`evaluate --model --labelled`: scores of the masks of a model, records, and errors."""

import json
import shutil

import cv2
import numpy as np
import pytest
from verbs import verb

from surgseg_ros.core.model_folder import read_spec
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import read_image_file

main = verb('evaluate')
SIZES = {'a.png': (50, 70), 'b.bmp': (40, 40), 'c.jpg': (64, 96)}


@pytest.fixture(scope='module')
def made(model, tmp_path_factory):
    """Make a set whose truth is the mask of the model, except for unlabelled pixels."""
    folder = tmp_path_factory.mktemp('made')
    segmenter = Segmenter.load(model, 'cpu', 'torch')
    for kind in ('images', 'masks'):
        (folder / kind).mkdir()
    for index, (name, size) in enumerate(SIZES.items()):
        image = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        path = folder / 'images' / name
        assert cv2.imwrite(str(path), image)
        mask = segmenter.segment(read_image_file(path)).mask
        mask[:5] = 255
        assert cv2.imwrite(str(folder / f'masks/{path.stem}.png'), mask)
    return folder


@pytest.fixture
def labelled(made, tmp_path):
    return shutil.copytree(made, tmp_path / 'set')


def evaluate(model, *folders, more=()):
    words = ['--model', model, '--json', folders[0].parent / 'out/scores.json', '--device', 'cpu']
    return main([str(word) for word in (*words, '--labelled', *folders, *more)])


def scores(folder):
    return json.loads((folder.parent / 'out/scores.json').read_text())


def test_the_mask_of_the_network_is_scored(model, labelled, capsys):
    assert evaluate(model, labelled) == 0
    found = scores(labelled)
    values = found['sets']['set']
    assert values['frames'] == 3
    assert values['official_miou'] == values['tools_iou'] == 1
    of_class = [iou['pooled'] for iou in values['class_iou'].values()]
    assert set(of_class) <= {1, None}
    assert 1 in of_class
    assert found['model']['name'] == 'tiny'
    assert found['model']['weights_sha256'] == read_spec(model).weights_sha256
    assert found['model']['runtime'] == 'torch float32 on CPU'
    assert found['model']['precision'] == 'f32'
    assert found['left_out'] == []
    assert found['tolerance'] == {'px': 3, 'at_width_px': 640}
    text = capsys.readouterr().out
    for word in ('tiny', 'torch float32 on CPU', 'set: 3 images', 'official mIoU', 'tool shaft'):
        assert word in text


def test_the_precision_is_an_option(model, labelled, capsys):
    assert evaluate(model, labelled, more=['--precision', 'f32']) == 0
    assert scores(labelled)['model']['precision'] == 'f32'
    assert evaluate(model, labelled, more=['--precision', 'int8']) == 2
    assert "precision is 'int8', but the runtime torch" in capsys.readouterr().err


def test_errors_lower_the_score(model, labelled):
    mask = cv2.imread(str(labelled / 'masks/a.png'), cv2.IMREAD_UNCHANGED)
    other = np.where(mask == 255, 255, (mask + 1) % 10).astype(np.uint8)
    cv2.imwrite(str(labelled / 'masks/a.png'), other)
    assert evaluate(model, labelled) == 0
    assert scores(labelled)['sets']['set']['official_miou'] < 1


def test_classes_are_left_out_and_recorded(model, labelled, capsys):
    assert evaluate(model, labelled, more=['--leave-out', *map(str, range(1, 10))]) == 0
    found = scores(labelled)
    assert found['left_out'][3:5] == ['suturing needle', 'thread']
    values = found['sets']['set']
    assert values['official_miou'] == values['official_miou_floor'] == 1
    assert values['tools_iou'] is None
    assert 'left out: tool clasper, ' in capsys.readouterr().out


def test_several_sets_are_scored_separately(model, labelled, tmp_path):
    (tmp_path / 'other').mkdir()
    for kind, name in (('images', 'a.png'), ('masks', 'a.png')):
        (tmp_path / 'other' / kind).mkdir()
        content = (labelled / kind / name).read_bytes()
        (tmp_path / 'other' / kind / name).write_bytes(content)
    assert evaluate(model, labelled, tmp_path / 'other') == 0
    assert {k: v['frames'] for k, v in scores(labelled)['sets'].items()} == {'set': 3, 'other': 1}


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (np.zeros((50, 71), np.uint8), 'masks/a.png: is 71x50, '),
        (np.full((50, 70), 11, np.uint8), 'masks/a.png: holds the value 11, expected 0 to 9 or'),
        (np.full((50, 70), 255, np.uint8), 'masks/a.png: is 255 (not labelled) everywhere'),
        (np.zeros((50, 70, 3), np.uint8), 'masks/a.png: is an 8-bit colour PNG'),
    ],
)
def test_error_names_a_mask_that_cannot_be_scored(model, labelled, capsys, content, expected):
    assert cv2.imwrite(str(labelled / 'masks/a.png'), content)
    assert evaluate(model, labelled) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith('evaluate: ')
    assert expected in line
    assert not (labelled.parent / 'out').exists()


def test_error_names_a_damaged_image(model, labelled, capsys):
    (labelled / 'images/b.bmp').write_bytes(b'no image')
    assert evaluate(model, labelled) == 2
    assert 'images/b.bmp: is not an image' in capsys.readouterr().err


def test_incomplete_pairs_are_named_before_the_model_is_loaded(labelled, capsys):
    (labelled / 'masks/c.png').unlink()
    assert evaluate(labelled / 'no model', labelled) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'images without a mask (1): c.jpg' in line


def test_an_interruption_leaves_nothing(model, labelled, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, 'segment', interrupted)
    assert evaluate(model, labelled) == 130
    assert 'nothing half-written is left' in capsys.readouterr().err
    assert not (labelled.parent / 'out').exists()


def test_an_output_that_cannot_be_written_is_named_first(tmp_path, capsys):
    (tmp_path / 'out').write_text('mine')
    assert evaluate(tmp_path / 'nowhere', tmp_path / 'nowhere') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / 'out') in line


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ('--reference a --predictions b --model m', 'give only one kind'),
        (
            '--labelled a --model m --workers 2',
            '--workers score masks, --model, --labelled a model',
        ),
        ('--reference a --predictions b --leave-out 4', 'give only one kind'),
        ('--labelled a', "'a' has no folder images/"),
        ('--model m', '--model given, which is for scoring a model: add --labelled'),
        ('--reference a', 'give --reference and --predictions to score masks'),
        ('', 'give --reference and --predictions to score masks'),
    ],
)
def test_error_names_conflicting_options(tmp_path, capsys, words, expected):
    assert main(['--json', str(tmp_path / 'a.json'), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize('label', [0, 10])
def test_rejects_leaving_out_a_name_that_is_not_a_class(tmp_path, capsys, label):
    words = f'--model m --labelled a --leave-out {label} --json {tmp_path}/a.json'
    with pytest.raises(SystemExit, match='2'):
        main(words.split())
    assert f'invalid choice: {label}' in capsys.readouterr().err

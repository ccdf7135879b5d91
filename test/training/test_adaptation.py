# SPDX-License-Identifier: Apache-2.0
"""The verb `adapt`: batch normalization takes statistics of unlabelled images, and no more."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from verbs import verb

from surgseg_ros.core.fitting import prepare
from surgseg_ros.core.model_folder import ModelSpec, read_model, read_spec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, load_network
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.training.model_card import model_card

main = verb('adapt')

SPEC = ModelSpec(
    name='tiny',
    encoder='resnet18',
    options={'decoder_channels': [8] * 5},
    input_size=(64, 96),
    intended_use='synthetic',
    colour_normalization={'target': [90.0, 90.0, 90.0], 'power': 0.4},
    scores={'validation': {'mIoU': 0.5}},
)
FIRST = 'layers.encoder.bn1'


def write(path, spec=SPEC):
    torch.manual_seed(0)
    written = write_model(path, spec, SegmentationNetwork(spec).state_dict())
    (path / 'README.md').write_text(model_card(written))
    return path


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / 'model')


@pytest.fixture
def images(tmp_path):
    """Make a folder of five images, redder and brighter than noise is."""
    folder = tmp_path / 'mine'
    folder.mkdir()
    for seed in range(5):
        image = np.random.default_rng(seed).integers(0, 200, (48, 80, 3), np.uint8)
        image[..., 2] //= 2
        image[..., 2] += 150
        cv2.imwrite(str(folder / f'{seed}.png'), image)
    return folder


def adapt(model, output, *videos, more=()):
    given = ['--model', model, '--output', output, *more, '--video', *videos]
    return main([str(word) for word in given])


def of_first_layer(network, images, spec=SPEC):
    """Compute what the first normalization sees of images: means and variances of channels."""
    seen = []
    layers = network.layers.encoder
    layers.bn1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    read = [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(images.iterdir())]
    with torch.inference_mode():
        network(torch.cat([prepare(torch.from_numpy(image)[None], spec) for image in read]))
    return seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))


@pytest.mark.parametrize('weight', [0.25, 1.0])
def test_statistics_are_mixed_by_the_weight_and_nothing_else_changes(
    model, images, tmp_path, capsys, weight
):
    assert adapt(model, tmp_path / 'new', images, more=('--weight', weight)) == 0
    assert 'adapted to 5 images of 1 videos' in capsys.readouterr().out
    before, after = read_model(model)[1], read_model(tmp_path / 'new')[1]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.rpartition('.')[2] for key in changed} == {'running_mean', 'running_var'}
    assert all(key in changed for key in before if key.endswith('running_mean'))
    seen = of_first_layer(load_network(SPEC, before), images)
    for name, of_images in zip(('running_mean', 'running_var'), seen):
        old, new = before[f'{FIRST}.{name}'], after[f'{FIRST}.{name}']
        torch.testing.assert_close(new, old.lerp(of_images, weight))


def test_the_new_folder_says_what_it_was_made_of_and_runs(model, images, tmp_path):
    assert adapt(model, tmp_path / 'new', images) == 0
    old, spec = read_spec(model), read_spec(tmp_path / 'new')
    assert spec.intended_use == 'synthetic'
    assert spec.colour_normalization == SPEC.colour_normalization
    assert not spec.scores, "the old model's would be wrong"
    assert spec.training['adapted'] == {
        'model': old.weights_sha256, 'videos': ['video_mine'], 'images': 5, 'weight': 0.5,
    }  # fmt: skip
    readme = (tmp_path / 'new/README.md').read_text()
    assert readme == model_card(spec)
    assert 'video_mine' in readme
    assert old.weights_sha256 in readme
    mask = Segmenter.load(tmp_path / 'new', 'cpu').segment(np.zeros((48, 80, 3), np.uint8)).mask
    assert mask.shape == (48, 80)


def test_layers_that_are_not_used_stay_as_they_are(images, tmp_path):
    spec = replace(SPEC, options={'encoder_depth': 3, 'decoder_channels': [8] * 3})
    model = write(tmp_path / 'model', spec)
    weights = read_model(model)[1]
    unused = 'layers.encoder.layer4.0.bn1.running_mean'
    weights[unused] += 7
    write_model(model, spec, weights)
    assert adapt(model, tmp_path / 'new', images) == 0
    assert (read_model(tmp_path / 'new')[1][unused] == 7).all()


def test_images_are_spread_over_all_videos(model, images, tmp_path):
    assert adapt(model, tmp_path / 'new', images, images, more=('--images', '4')) == 0
    made_of = read_spec(tmp_path / 'new').training['adapted']
    assert (made_of['images'], made_of['videos']) == (4, ['video_mine'] * 2)


@pytest.mark.parametrize('option', ['--weight', '--images'])
def test_nothing_to_do_is_refused(model, images, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as ended:
        adapt(model, tmp_path / 'new', images, more=(option, '0'))
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_model_without_batch_normalization_is_refused(images, tmp_path, capsys):
    options = {'encoder_depth': 3, 'decoder_channels': [8, 8, 8], 'decoder_use_norm': False}
    spec = ModelSpec(name='plain', encoder='vgg11', options=options, input_size=(64, 96))
    assert adapt(write(tmp_path / 'model', spec), tmp_path / 'new', images) == 2
    assert 'has no batch normalization' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


def test_a_damaged_image_is_refused_by_name(model, images, tmp_path, capsys):
    (images / '3.png').write_bytes((images / '3.png').read_bytes()[:200])
    assert adapt(model, tmp_path / 'new', images) == 2
    assert '3.png' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


def test_a_folder_that_is_full_is_refused_before_any_work(model, images, capsys):
    assert adapt(model, model, images) == 2
    assert 'is there already' in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""`evaluate_bag` and `predict` accept parameters of the node, and record those that applied."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tiny_models import write_tiny_model
from verbs import verb

from surgseg_ros.bag_evaluation import results
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag
from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.model_folder import (
    DEFAULT_MODEL,
    ModelSpec,
    find_model,
    read_spec,
)
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.predict import PredictOptions

VERBS = ('evaluate_bag', 'predict')
SHIPPED = Path(__file__).resolve().parents[1] / 'config/segmenter.yaml'
SIZE = (48, 80)
DARK = 2
"""Index of the black image of the four."""


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp('models') / 'tiny')


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Return a folder of four images, and a bag of the same."""
    folder = tmp_path_factory.mktemp('inputs')
    (folder / 'case').mkdir()
    images = np.random.default_rng(0).integers(60, 200, (4, *SIZE, 3), np.uint8)
    images[DARK] = 0
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f'case/{number}.png'), image[..., ::-1])
    truth = np.zeros(SIZE, np.uint8)
    stamps = [START_TIME_NS + number * 10**8 for number in range(4)]
    write_image_bag(folder / 'bag', ((at, image, truth) for at, image in zip(stamps, images)))
    return folder


class Runs:
    """Runs either verb on the same images, and reads its records."""

    def __init__(self, model, inputs, folder):
        self.folder = folder
        self._model, self._inputs = model, inputs

    def run(self, name, *words, model=True):
        given = ['--model', self._model] if model else []
        if name == 'predict':
            given += ['--input', self._inputs / 'case', '--output', self.folder / 'masks']
        else:
            given += ['--bag', self._inputs / 'bag', '--image-topic', '/camera/image_raw']
            given += ['--json', self.folder / 'a.json']
        return verb(name)([str(word) for word in (*given, *words)])

    def record(self, name):
        """Return the parameters in the JSON file of the verb."""
        if name == 'predict':
            return json.loads((self.folder / 'masks/predict.json').read_text())
        return json.loads((self.folder / 'a.json').read_text())['options']

    def masks(self):
        """Return the masks that `predict` wrote."""
        found = sorted(self.folder.glob('masks/*/segmentation/*.png'))
        return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in found]


@pytest.fixture
def runs(model, inputs, tmp_path):
    return Runs(model, inputs, tmp_path)


def params_file(folder, parameters, name='/**'):
    path = folder / 'params.yaml'
    path.write_text(json.dumps({name: {'ros__parameters': parameters}}))
    return path


@pytest.mark.parametrize(
    ('name', 'option', 'parameter'),
    [
        ('evaluate_bag', '--least-area', 'least_area'),
        ('predict', '--min-confidence', 'min_confidence'),
    ],
)
@pytest.mark.parametrize('given', [1, 2, 3])
def test_an_option_overrides_param_which_overrides_the_file(runs, name, option, parameter, given):
    file = params_file(runs.folder, {parameter: 0.01})
    words = ('--params-file', file, '--param', f'{parameter}:=0.02', option, 0.03)
    assert runs.run(name, *words[: 2 * given]) == 0
    assert runs.record(name)[parameter] == given / 100


@pytest.mark.parametrize('name', VERBS)
def test_the_precision_may_be_an_option(runs, name):
    words = ('--runtime', 'torch', '--param', 'precision:=bf16', '--precision', 'f32')
    assert runs.run(name, *words) == 0
    assert runs.record(name)['precision'] == 'f32'


@pytest.mark.parametrize('section', ['/**', 'segmenter', '/segmenter', '/left/segmenter'])
@pytest.mark.parametrize('name', VERBS)
def test_a_file_may_have_the_full_or_short_node_name_or_a_wildcard(runs, name, section):
    file = params_file(runs.folder, {'min_confidence': 0.25}, section)
    assert runs.run(name, '--params-file', file) == 0
    assert runs.record(name)['min_confidence'] == 0.25


def test_all_parameters_that_apply_are_recorded(runs):
    parameters = {
        **{'device': 'cpu', 'runtime': 'torch', 'precision': 'f32', 'cpu_threads': 1},
        **{'roi': [8, 4, 60, 40], 'min_confidence': 0.2, 'steady_frames': 3, 'steady_sure': 0.9},
        'gates': {'black': {'action': 'no_decision', 'limit': 0.6}},
    }
    file = params_file(runs.folder, parameters)
    common = {'runtime': 'torch', 'precision': 'f32', 'min_confidence': 0.2}

    assert runs.run('evaluate_bag', '--params-file', file) == 0
    options = runs.record('evaluate_bag')
    assert options.items() >= (common | {'steady_frames': 3, 'steady_sure': 0.9}).items()
    assert (options['device'], options['roi']) == ('cpu', [8, 4, 60, 40])
    assert options['gates']['black'] == ['no_decision', 0.6]
    assert options['gates']['smoke'][0] == 'warn'
    assert json.loads((runs.folder / 'a.json').read_text())['model']['threads'] == 1

    assert runs.run('predict', '--params-file', file) == 0
    record = runs.record('predict')
    assert record.items() >= (common | {'steady': [3, 0.9], 'roi': [8, 4, 60, 40]}).items()
    assert record['gates'] == {'black': ['no_decision', 0.6]}


@pytest.mark.parametrize('name', VERBS)
def test_the_model_may_be_a_parameter(runs, model, name, capsys):
    with pytest.raises(SystemExit) as ended:
        runs.run(name, '--param', "model:=''", model=False)
    assert ended.value.code == 2
    assert 'the parameter model is empty' in capsys.readouterr().err
    assert runs.run(name, '--param', f'model:={model}', model=False) == 0


@pytest.mark.parametrize('name', VERBS)
def test_without_a_model_the_default_model_is_used(runs, name):
    assert runs.run(name, model=False) == 0
    report = runs.folder / ('a.json' if name == 'evaluate_bag' else 'masks/predict.json')
    assert read_spec(find_model(DEFAULT_MODEL)).weights_sha256 in report.read_text()


@pytest.mark.parametrize('name', VERBS)
def test_parameters_that_do_not_apply_are_named_in_one_line(runs, name, capsys):
    assert runs.run(name, '--params-file', SHIPPED, '--param', 'use_sim_time:=true') == 0
    text = [line for line in capsys.readouterr().err.splitlines() if 'ignored' in line]
    assert len(text) == 1
    assert text[0].startswith(f'{name}: parameters that have no effect here are ignored: ')
    ignored = text[0].rpartition(': ')[2].split(', ')
    assert {'image_topics', 'stale_after_ms', 'use_sim_time'} <= set(ignored)
    assert not {'min_confidence', 'roi', 'gates.smoke.action'} & set(ignored)
    assert ('least_area' in ignored) == (name == 'predict'), 'evaluate_bag has no detections'


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (('--param', 'min_confidance:=0.5'), "(did you mean 'min_confidence'?)"),
        (('--param', 'min_confidence:=1'), 'a decimal point: write 1.0'),
        (('--param', 'steady_frames:=61'), 'steady_frames is 61, expected 0 to 60'),
        (('--param', 'gates.smoke.action:=stop'), "is 'stop', expected one of"),
        (('--param', 'min_confidence'), 'expected NAME:=VALUE'),
        (('--param', 'roi:=[0, 0, 9, 9, 9, 0, 9, 9]'), 'for several cameras: choose'),
        (('--param', 'roi_mode:=auto', '--param', 'roi:=[0, 0, 9, 9]'), 'leave roi out, or set'),
        (('--params-file', '{file}'), "no parameter 'steady_frame' (did you mean 'steady_frames'"),
        (('--params-file', '{other}'), "has nothing for the node 'segmenter', only for /camera"),
        (('--params-file', '{other}', '--node-name', 'eye'), "for the node 'eye', only for"),
        (('--params-file', '{missing}'), 'missing.yaml: No such file or directory; check the'),
    ],
)
@pytest.mark.parametrize('name', VERBS)
def test_rejects_invalid_parameters_in_one_line(
    runs, tmp_path_factory, name, words, expected, capsys
):
    folder = tmp_path_factory.mktemp('files')
    paths = {
        'file': params_file(folder, {'steady_frame': 3}),
        'other': folder / 'other.yaml',
        'missing': folder / 'missing.yaml',
    }
    paths['other'].write_text('/camera: {ros__parameters: {min_confidence: 0.5}}')
    assert runs.run(name, *(word.format(**paths) for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{name}: ')
    assert expected in line
    assert not any(runs.folder.iterdir())


@pytest.mark.parametrize(
    ('name', 'words', 'expected'),
    [
        ('predict', ('--steady-frames', '3', '--steady-sure', '2'), 'steady_sure is 2.0, '),
        ('predict', ('--steady-frames', '61'), 'steady_frames is 61, expected 0 to 60'),
        ('evaluate_bag', ('--threads', '257'), 'cpu_threads is 257, expected 0 to 256'),
        ('benchmark', ('--threads', '257'), 'cpu_threads is 257, expected 0 to 256'),
        ('benchmark', ('--runtime', 'fast'), "runtime is 'fast', expected one of auto, torch"),
        ('benchmark', ('--precision', 'fp16'), "precision is 'fp16', expected one of auto, f32"),
    ],
)
def test_rejects_an_option_out_of_the_range_of_its_parameter(runs, name, words, expected, capsys):
    status = verb('benchmark')([*words]) if name == 'benchmark' else runs.run(name, *words)
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{name}: {expected}')
    assert not any(runs.folder.iterdir())


def test_masks_of_a_node_are_scored_without_parameters(runs, capsys):
    words = ('--recorded', 'x', '--image-topic', '/i', '--mask-topic', '/m', '--json', 'a.json')
    with pytest.raises(SystemExit):
        verb('evaluate_bag')([*words, '--param', 'min_confidence:=0.5'])
    assert 'leave out --params-file and --param' in capsys.readouterr().err


def test_a_gate_gives_no_decision_in_both_verbs(runs, capsys):
    words = ('--param', 'gates.black.action:=no_decision')
    assert runs.run('evaluate_bag', *words) == 0
    found = json.loads((runs.folder / 'a.json').read_text())
    outcomes = [frame['fate'] for frame in found['bags']['bag']['over_time']]
    assert outcomes == ['mask', 'mask', 'undecided', 'mask']

    capsys.readouterr()
    assert runs.run('predict', *words) == 0
    undecided = [bool((mask == 255).all()) for mask in runs.masks()]
    assert undecided == [outcome == 'undecided' for outcome in outcomes]
    assert 'predict: masks without a decision: 1 (gate_black)' in capsys.readouterr().err


def test_predict_counts_warnings_of_gates_and_keeps_those_masks(runs, capsys):
    assert runs.run('predict', '--param', 'gates.black.action:=warn') == 0
    assert 'predict: masks with warnings: 1 (gate_black)' in capsys.readouterr().err
    assert not any((mask == 255).any() for mask in runs.masks())


def test_predict_segments_only_the_roi(runs):
    assert runs.run('predict', '--param', 'roi:=[8, 4, 60, 40]') == 0
    for mask in runs.masks():
        inside = np.zeros(SIZE, bool)
        inside[4:44, 8:68] = True
        assert np.array_equal(mask != 255, inside)


@pytest.mark.parametrize('name', VERBS)
def test_error_names_a_roi_outside_all_images_and_nothing_is_written(runs, name, capsys):
    assert runs.run(name, '--param', 'roi:=[8, 4, 600, 40]') == 2
    assert '600' in capsys.readouterr().err
    assert list(runs.folder.rglob('*')) == []


def test_if_the_network_fails_both_verbs_give_no_decision_with_the_reason(
    runs, capsys, monkeypatch
):
    segment = Segmenter.segment

    def fail_on_dark(self, image, **more):
        if not image.any():
            raise ArithmeticError('logits that are not finite')
        return segment(self, image, **more)

    monkeypatch.setattr(Segmenter, 'segment', fail_on_dark)
    words = ('--param', 'gates.black.action:=none')
    assert runs.run('evaluate_bag', *words) == 0
    found = json.loads((runs.folder / 'a.json').read_text())
    outcomes = [frame['fate'] for frame in found['bags']['bag']['over_time']]
    assert outcomes == ['mask', 'mask', 'failed', 'mask']

    capsys.readouterr()
    assert runs.run('predict', *words) == 1
    failed = [bool((mask == 255).all()) for mask in runs.masks()]
    assert failed == [outcome == 'failed' for outcome in outcomes]
    text = 'could not be processed: 1, first video_case/2: ArithmeticError: logits that'
    assert text in capsys.readouterr().err


def test_a_run_stopped_by_an_error_of_the_machine_can_be_resumed(runs, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError('CUDA error: unspecified launch failure')

    with monkeypatch.context() as broken:
        broken.setattr(Segmenter, 'segment', fail)
        assert runs.run('predict') == 2
    assert 'check the device' in capsys.readouterr().err
    assert list(runs.folder.rglob('*.png')) == []
    assert runs.run('predict') == 0
    assert len(runs.masks()) == 4


def test_with_a_gate_that_counts_frames_an_interrupted_video_is_restarted(runs, tmp_path):
    still = tmp_path / 'still'
    still.mkdir()
    image = np.random.default_rng(1).integers(60, 200, (*SIZE, 3), np.uint8)
    for number in range(4):
        cv2.imwrite(str(still / f'{number}.png'), image)
    words = ('--input', still)  # the last option is used
    words += ('--param', 'gates.frozen.action:=no_decision', '--param', 'gates.frozen.limit:=3.0')
    undecided = [False, False, True, True]
    assert runs.run('predict', *words) == 0
    assert [bool((mask == 255).all()) for mask in runs.masks()] == undecided
    sorted(runs.folder.glob('masks/*/segmentation/*.png'))[-1].unlink()
    assert runs.run('predict', *words) == 0
    assert [bool((mask == 255).all()) for mask in runs.masks()] == undecided


def test_masks_of_an_older_release_without_parameters_can_be_resumed(runs):
    assert runs.run('predict') == 0
    file = runs.folder / 'masks/predict.json'
    record = json.loads(file.read_text())
    earlier = {key: record[key] for key in record if key not in ('precision', 'gates', 'roi')}
    assert len(earlier) == len(record) - 3
    file.write_text(json.dumps(earlier))
    assert runs.run('predict') == 0
    assert runs.run('predict', '--param', 'precision:=f32') == 2


OTHER_SETTINGS = {
    'gates': {'black': GateSetting('warn', 0.5)},
    'steady_frames': 4,
    'steady_sure': 0.5,
    'min_confidence': 0.5,
    'min_detection_score': 0.5,
    'least_region': (0.1,) * 10,
    'least_area': 0.5,
    'roi_mode': 'auto',
    'track_lost_ms': 200,
}
"""For each field of PipelineSettings, a value that is not the one of `record_of`."""

WITHOUT_EFFECT = {
    'evaluate_bag': {'least_region'},
    'predict': {'least_region', 'least_area', 'min_detection_score', 'track_lost_ms'},
}
"""No option sets `least_region`; `predict` uses that of the model, and finds no instruments."""


def record_of(name, **changes):
    """Return what a verb compares before it reuses results of an earlier run."""
    settings = dataclasses.replace(PipelineSettings(steady_frames=3), **changes)
    if name == 'evaluate_bag':
        return Options(image_topic='/image', pipeline=settings).described()
    return PredictOptions(settings).record(SimpleNamespace(spec=ModelSpec(name='a model')))


@pytest.mark.parametrize('setting', [field.name for field in dataclasses.fields(PipelineSettings)])
@pytest.mark.parametrize('name', VERBS)
def test_every_setting_of_the_pipeline_is_recorded(name, setting):
    is_recorded = record_of(name, **{setting: OTHER_SETTINGS[setting]}) != record_of(name)
    assert is_recorded == (setting not in WITHOUT_EFFECT[name])


def test_the_description_of_results_lists_every_recorded_option():
    """As `bags.md` promises."""
    text = str(results.__doc__).partition('- `options`')[2].partition('- `classes`')[0]
    recorded = Options(image_topic='/image').described()
    assert set(recorded) <= set(re.findall(r'`(\w+)`', text))

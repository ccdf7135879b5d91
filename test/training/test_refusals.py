# SPDX-License-Identifier: Apache-2.0
"""Errors of `train`: one line each, before any slow work, and without leftover files."""

import warnings
from pathlib import Path

import pytest
import torch
from verbs import verb

from surgseg_ros.core.errors import explain
from surgseg_ros.training.config import ConfigError, read_config
from surgseg_ros.training.data import LEFT_OUT_FILE, Data

main = verb('train')


@pytest.fixture
def given(tmp_path: Path, data: Path, recipe: str) -> list[str]:
    (tmp_path / 'train.yaml').write_text(recipe)
    return ['--config', f'{tmp_path}/train.yaml', f'data={data}', f'output={tmp_path}/model']


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the printed lines without progress bars."""
    text = capsys.readouterr().err.replace('\r', '\n').splitlines()
    return [line for line in text if line.startswith('train: ')]


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        (
            ['batch_size=1', 'architecture=DeepLabV3Plus', 'options={}'],
            'batch_size is 1, with which DeepLabV3Plus',
        ),
        (
            ['crop_size=[32, 32]', 'encoder=resnet18', 'architecture=DPT', 'options={}'],
            'cannot be built',
        ),
        (['learning_rate=.inf'], 'learning_rate is inf'),
        (['learning_rate=.nan'], 'learning_rate is nan'),
        (['seed=-1'], 'seed is -1'),
        (['split_seed=4294967296'], 'split_seed is 4294967296'),
        (['minutes=.inf'], 'minutes is inf'),
        (['data=/dev/null'], "'/dev/null' holds no video_"),
        (['start=/nowhere'], '/nowhere/model.json'),
        (['cache=/dev/null/x'], "cache '/dev/null/x'"),
        (['learning_rate=1e30'], 'the run diverged at step'),
    ],
)
def test_invalid_input_is_reported_in_one_line_and_the_output_folder_stays_usable(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    settings: list[str], expected: str,
) -> None:  # fmt: skip
    assert main([*given, *settings]) == 2
    (line,) = lines(capsys)
    assert expected in line
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        (['data=/dev/null'], "'/dev/null' holds no video_"),
        (['leave_out=[video_99]'], "cannot leave out 'video_99'"),
    ],
)
def test_missing_data_are_reported_before_weights_are_fetched(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    settings: list[str], expected: str,
) -> None:  # fmt: skip
    from surgseg_ros.training import train

    monkeypatch.setattr(train, 'Training', None)
    assert main([*given, *settings]) == 2
    (line,) = lines(capsys)
    assert expected in line


def test_a_diverging_run_is_reported_with_its_step_and_rate(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, 'learning_rate=1e30', 'ema_decay=0', 'steps=9', 'validate_every=9']) == 2
    (line,) = lines(capsys)
    assert 'at step 1, ' in line or 'at step 2, ' in line
    assert 'lower learning_rate, which is 1e+30' in line


def test_a_run_that_fails_after_a_checkpoint_can_be_resumed(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgseg_ros.training import train

    def fail(*arguments: object) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(train, '_finish', fail)
        assert main([*given, 'steps=2']) == 2
    assert (tmp_path / 'model/run/last.ckpt').is_file()
    assert main([*given, 'steps=2', '--resume']) == 0


def _whole_model(path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), path)


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), path)


def _cut(path: Path) -> None:
    torch.save({'a': torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1000])


def _text(text: str):  # type: ignore[no-untyped-def]
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ('make', 'expected'),
    [
        (_text('<html>404</html>'), 'an HTML page'),
        (_text('\n  <!DOCTYPE html>\n<title>Sign in</title>'), 'an HTML page'),
        (_text('version https://git-lfs.github.com/spec/v1\noid sha256:0'), 'git lfs pull'),
        (_text(''), 'cannot be read as a file of tensors'),
        (_text('{"error": "not found"}'), 'hold'),
        (_whole_model, 'never unpickled'),
        (_script, 'cannot be read as a file of tensors'),
        (_cut, 'cannot be read as a file of tensors'),
        (lambda path: torch.save({'epoch': 3}, path), 'no tensors by name'),
    ],
)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_invalid_weights_are_reported_without_the_advice_of_torch(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    make, expected: str, suffix: str,
) -> None:  # fmt: skip
    path = tmp_path / f'weights.{suffix}'
    make(path)
    assert main([*given, f'encoder_weights={path}']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    if suffix == 'pth' and expected != 'hold':
        assert expected in line
    assert 'weights_only' not in line
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize('damage', ['html', 'cut', 'pickle', 'empty', 'parts'])
def test_an_invalid_checkpoint_is_reported_in_one_line(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / 'model/run/last.ckpt'
    path.parent.mkdir(parents=True)
    if damage == 'html':
        path.write_text('<html>404</html>')
    elif damage == 'cut':
        _cut(path)
    elif damage == 'pickle':
        _whole_model(path)
    elif damage == 'empty':
        path.write_bytes(b'')
    else:
        torch.save({'settings': {}}, path)
    assert main([*given, '--resume']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{path}: cannot be read as a checkpoint' in line
    assert 'remove it to start from the beginning' in line
    assert path.exists(), 'files of another run must not be removed'


@pytest.mark.parametrize('text', ['', 'a: [1\nb: {', '- a', 'a', '\x00', 'steps: [1]'])
def test_an_invalid_file_of_settings_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / 'train.yaml').write_text(text)
    assert main(['--config', f'{tmp_path}/train.yaml']) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rejects_more_processes_than_validation_frames(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(read_config(Path(given[1]), given[2:]), tmp_path)
    (tmp_path / LEFT_OUT_FILE).write_text('[]')
    data.setup('fit')
    monkeypatch.setattr(Data, '_world', 9)
    with pytest.raises(ConfigError, match=r'make 9 processes, more than .* 2: use fewer devices'):
        data.setup('fit')


@pytest.mark.parametrize(
    'text',
    [
        'Caught RuntimeError in DataLoader worker process 0.\nTraceback ...\nRuntimeError: unable '
        'to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\n',
        'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that '
        "dataloader's workers are out of shared memory. Please try to raise your limit.",
    ],
)
def test_a_small_shared_memory_is_reported_with_both_remedies(text: str) -> None:
    output = explain(RuntimeError(text))
    assert output is not None
    assert '--shm-size' in output
    assert 'workers=0' in output
    assert '\n' not in output

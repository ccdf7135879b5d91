# SPDX-License-Identifier: Apache-2.0
"""Outputs of verbs that cannot be written: one line, reported at once, nothing left."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from verbs import verb

from surgseg_ros.__main__ import VERBS, main
from surgseg_ros.bags.writing import write_image_bag
from surgseg_ros.core.model_folder import ModelSpec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'config/train_default.yaml'
NOWHERE = '/nowhere'
"""Replaces every input: a verb that checks its output first does not notice that it is missing."""


class Target(NamedTuple):
    """An option that names an output; `kind` is file, folder, new (must not exist) or model."""

    kind: str
    option: str


def targets(kind: str, *options: str) -> list[Target]:
    return [Target(kind, option) for option in options]


BAG = ('--bag', NOWHERE, '--model', NOWHERE, '--image-topic', '/images')

OUTPUTS: dict[str, tuple[tuple[str, ...], list[Target]]] = {
    'train': (('--config', str(CONFIG), f'data={NOWHERE}'), targets('folder', 'output=')),
    'evaluate': (
        ('--reference', NOWHERE, '--predictions', NOWHERE),
        [*targets('file', '--json'), *targets('folder', '--report')],
    ),
    'predict': (('--model', NOWHERE, '--input', NOWHERE), targets('folder', '--output')),
    'evaluate_bag': (
        BAG,
        [
            *targets('file', '--json'),
            *targets('folder', '--report', '--work', '--instruments'),
            *targets('new', '--output'),
        ],
    ),
    'inspect_data': (
        ('--data', NOWHERE),
        [*targets('file', '--json'), *targets('folder', '--output')],
    ),
    'export': (
        ('--model', NOWHERE, '--backend', 'onnx', '--precision', 'f32'),
        targets('folder', '--output'),
    ),
    'compare': ((NOWHERE, NOWHERE), targets('file', '--json')),
    'calibrate': ((), targets('model', '--model')),
    'benchmark': (
        ('--model', NOWHERE),
        [*targets('file', '--json', '--plot'), *targets('folder', '--logs')],
    ),
    'make_bag': (('--input', NOWHERE), targets('new', '--output')),
    'synthesize': ((), targets('folder', '--output')),
}
"""For each verb that writes: its inputs, and each option that names an output."""

REQUIRED = {'evaluate': '--json', 'evaluate_bag': '--json'}
"""Outputs that must be given in addition to the tested one."""

WRITERS = [name for name, described in VERBS.items() if not described.is_node]
CASES = {
    'a folder at its path': ('file',),
    'a file at its path': ('folder',),
    'a file at the path of its folder': ('file', 'folder', 'new'),
    'a name too long': ('file', 'folder', 'new'),
    'no room': ('file', 'folder', 'new', 'model'),
    'a path that takes no files': ('file', 'folder', 'new'),
}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model folder with random weights."""
    spec = ModelSpec(
        name='small',
        encoder='mobilenet_v2',  # ROOM_BYTES depends on the size of its weights
        options={'decoder_channels': [64, 48, 32, 24, 16]},
        input_size=(64, 96),
    )
    folder = tmp_path_factory.mktemp('models') / 'tiny'
    torch.manual_seed(0)  # masks of other weights may fit into the remaining space
    write_model(folder, spec, SegmentationNetwork(spec).state_dict())
    return folder


@contextmanager
def room(size: int) -> Iterator[None]:
    """
    Limit the size of files, which has the effect of a full disk, with another error.

    Meanwhile, modules are imported without byte code: Python would install it cut off.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'dont_write_bytecode', True)
        patch.setenv('PYTHONDONTWRITEBYTECODE', '1')
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


@pytest.mark.parametrize('name', WRITERS)
def test_every_verb_that_writes_is_in_the_table(name: str) -> None:
    assert name in OUTPUTS, 'add the outputs of the new verb'
    assert OUTPUTS[name][1]


TRIED = [
    pytest.param(name, target, case, id=f'{name} {target.option} {case}')
    for name in WRITERS
    for target in OUTPUTS.get(name, ((), []))[1]
    for case, kinds in CASES.items()
    if target.kind in kinds
]


@pytest.mark.parametrize(('name', 'target', 'case'), TRIED)
def test_an_output_that_cannot_be_written_is_reported_before_any_work(
    name: str,
    target: Target,
    case: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ending = {'--plot': '.svg', '--output': '.mcap' if name == 'evaluate_bag' else ''}
    path = tmp_path / ('x' * 300 if case == 'a name too long' else 'out')
    if case == 'a file at the path of its folder':
        (tmp_path / 'file').write_text('mine')
        path = tmp_path / 'file/out'
    if case == 'a path that takes no files':  # not even of root
        path = Path('/sys/surgseg_out')
    path = path.with_name(path.name + ending.get(target.option, ''))
    if case == 'a folder at its path':
        path.mkdir()
    if case == 'a file at its path':
        path.write_text('mine')
    if target.kind == 'model':
        shutil.copytree(model, path)
    before = content(tmp_path)
    named = [f'output={path}'] if target.option == 'output=' else [target.option, str(path)]
    if (other := REQUIRED.get(name)) and other != target.option:
        named += [other, '/dev/null']
    with room(0 if case == 'no room' else resource.RLIM_INFINITY):
        assert main([name, *OUTPUTS[name][0], *named]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{name}: ')
    assert str(path) in line or (case.startswith('a file') and str(path.parent) in line)
    assert NOWHERE not in line
    assert content(tmp_path) == before


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of noise, whose files do not compress."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for video in ('video_01', 'video_02'):
        for kind, array in (
            ('rgb', rng.integers(0, 256, (480, 640, 3), np.uint8)),
            ('segmentation', rng.integers(0, 10, (480, 640), np.uint8)),
        ):
            path = root / video / kind / '000000000.png'
            path.parent.mkdir(parents=True)
            assert cv2.imwrite(str(path), array)
    image = rng.integers(0, 256, (480, 640, 3), np.uint8)
    write_image_bag(root / 'bag', [(10**9, image, None)])
    return root


LATE = {
    'synthesize': ('--size', '96x64', '--frames', '2', '--workers', '2', '--output', '{out}'),
    'make_bag': ('--input', '{data}', '--output', '{out}/bags'),
    'inspect_data': ('--data', '{data}', '--output', '{out}/pictures'),
    'evaluate': (
        *('--reference', '{data}', '--predictions', '{data}', '--json', '{out}/a.json'),
        *('--report', '{out}/report'),
    ),
    'predict': (
        *('--model', '{model}', '--runtime', 'torch', '--input', '{data}'),
        *('--output', '{out}/masks'),
    ),
    'evaluate_bag': (
        *('--model', '{model}', '--runtime', 'torch', '--bag', '{data}/bag'),
        *('--image-topic', '/camera/image_raw'),
        *('--json', '{out}/a.json', '--output', '{out}/masks.mcap'),
    ),
    'train': (
        *('--config', '{config}', 'data={data}', 'output={out}/model', 'steps=1', 'device=cpu'),
        *('input_size=[64, 96]', 'crop_size=[64, 64]', 'batch_size=2', 'validate_every=1'),
        *('picture_every=0', 'encoder_weights=none'),
    ),
    'export': (
        *('--model', '{model}', '--calibration', '{data}', '--frames', '1'),
        *('--backend', 'openvino', '--precision', 'f32', '--output', '{out}/model'),
    ),
}
SMALL = {'compare', 'benchmark', 'calibrate'}
"""Verbs that write less than the check at their start."""

TRIED_BYTES = 4096
"""The number of bytes that the check at the start writes."""

ROOM_BYTES = {'train': 1_000_000, 'export': 14_000_000}
"""Enough for cached frames, but not for a checkpoint; for weights, but not for an export."""


@pytest.mark.parametrize('name', WRITERS)
def test_every_verb_that_writes_is_tested_with_a_full_disk(name: str) -> None:
    assert name in {*LATE, *SMALL}, 'add the outputs of the new verb'


@pytest.mark.parametrize('name', LATE)
def test_a_full_disk_is_reported_and_no_partial_output_is_left(
    name: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == 'export':
        pytest.importorskip('openvino')
    paths = {'data': data, 'out': tmp_path / 'out', 'model': model, 'config': CONFIG}
    words = [word.format(**paths) for word in LATE[name]]
    with room(ROOM_BYTES.get(name, TRIED_BYTES)):
        assert verb(name)(words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{name}: ')
    assert str(tmp_path / 'out') in line
    assert 'File too large' in line
    left = {path.suffix for path in tmp_path.rglob('*') if path.is_file()}
    assert left <= ({'.json'} if name == 'evaluate' else set())
    assert not [path for path in tmp_path.rglob('*') if path.is_dir() and not any(path.iterdir())]


def test_a_full_disk_of_printed_output_is_reported(data: Path, tmp_path: Path) -> None:
    words = ['evaluate', '--reference', data, '--predictions', data, '--json', tmp_path / 'a.json']
    command = [sys.executable, '-m', 'surgseg_ros', *map(str, words)]
    with Path('/dev/full').open('wb') as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    *_, line = run.stderr.splitlines()
    assert line.startswith('evaluate: standard output: No space left on device; ')
    assert 'Traceback' not in run.stderr
    run = subprocess.run(
        ['bash', '-c', '"$@" | true; exit ${PIPESTATUS[0]}', 'bash', *command],
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 141), (
        'the reader may close before or after everything was printed'
    )
    assert 'Error' not in run.stderr

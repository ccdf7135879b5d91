# SPDX-License-Identifier: Apache-2.0
"""A run is resumed, reports scenes that failed, and leaves nothing incomplete."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.evaluation.layout import find_images, find_masks, find_videos
from tools.path_tracing import __main__ as tool
from tools.path_tracing import processes, worker
from tools.path_tracing.worker import SHOTS, Batch, is_complete, write_scene

ROOT = Path(__file__).resolve().parents[3]


def batch_of(output, *scenes, width=64):
    return Batch(output, scenes, width, 1, 1)


def fake_render(scene, batch, folder):
    for name in ('rgb', 'segmentation'):
        (folder / name).mkdir()
        for index in range(SHOTS):
            cv2.imwrite(str(folder / name / f'{index:09d}.png'), np.zeros((36, 64), np.uint8))
    (folder / 'synthetic.json').write_text(json.dumps({'scene': scene}))


@pytest.fixture
def rendered(monkeypatch):
    """Render in this process, without Blender; return the scenes of each batch."""
    batches = []

    class Pool:
        def submit(self, function, batch):
            result = Future()
            try:
                batches.append(batch.scenes)
                for scene in batch.scenes:
                    write_scene(scene, batch)
                result.set_result(None)
            except RuntimeError as error:
                result.set_exception(error)
            return result

    @contextmanager
    def pool(workers):
        assert workers == 1
        yield Pool()

    monkeypatch.setattr(processes, 'worker_pool', pool)
    monkeypatch.setattr(worker, 'render_scene', fake_render)
    monkeypatch.setattr(tool, 'find_spec', lambda name: name)
    return batches


def run(output, *words):
    return tool.main(['--output', str(output), *words])


def test_without_blender_it_names_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'find_spec', lambda name: None)
    assert run(tmp_path / 'd', '--scenes', '1') == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert "no module 'bpy': use Python 3.11 and run `pip install bpy==5.0.1" in error
    assert not (tmp_path / 'd').exists()


@pytest.mark.parametrize('blocked', ['bpy', 'cv2', 'numpy'])
def test_the_remedy_needs_none_of_its_packages(tmp_path, blocked):
    script = (
        'import importlib.util as util, sys\n'
        f'sys.modules[{blocked!r}] = None\n'
        'find_spec = util.find_spec\n'
        f'util.find_spec = lambda name: None if name == {blocked!r} else find_spec(name)\n'
        'from tools.path_tracing.__main__ import main\n'
        f"sys.exit(main(['--output', {str(tmp_path / 'd')!r}, '--scenes', '1']))\n"
    )
    run = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert run.stderr.endswith('in a virtual environment of its own\n')


def test_it_needs_no_other_packages_than_those_it_names():
    """Its environment has bpy and OpenCV, and none of what surgseg_ros needs."""
    script = (
        'import sys\n'
        "sys.modules |= dict.fromkeys(('yaml', 'torch', 'scipy', 'rosbags', 'simplejpeg'))\n"
        'import tools.path_tracing.processes, tools.path_tracing.worker\n'
    )
    run = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_finished_run_is_a_data_set(tmp_path, rendered, capsys):
    assert run(tmp_path / 'd', '--scenes', '12', '--first', '5') == 0
    assert rendered == [tuple(range(5, 15)), (15, 16)]  # a process for at most 10 scenes
    videos = find_videos(tmp_path / 'd')
    assert [video.name for video in videos] == [f'video_{n:02d}' for n in range(6, 18)]
    assert [*find_images(videos[0])] == [0, 1]
    assert len(find_masks(videos[0])) == SHOTS
    assert 'has scenes 5 to 16' in capsys.readouterr().out


@pytest.mark.parametrize('words', [(), ('--bare',)])
def test_scenes_without_instruments_are_chosen_by_an_option(
    tmp_path, rendered, monkeypatch, words
):
    found = []

    def note(scene, batch, folder):
        found.append(batch.bare)
        fake_render(scene, batch, folder)

    monkeypatch.setattr(worker, 'render_scene', note)
    assert run(tmp_path, '--scenes', '1', *words) == 0
    assert found == [bool(words)]


def test_complete_scenes_are_skipped(tmp_path, rendered):
    run(tmp_path, '--scenes', '2')
    assert run(tmp_path, '--scenes', '4') == 0
    assert run(tmp_path, '--scenes', '4') == 0
    assert rendered == [(0, 1), (2, 3)]


def test_scenes_that_fail_are_named_and_the_others_are_rendered(
    tmp_path, rendered, monkeypatch, capsys
):
    def fails_at_odd(scene, batch, folder):
        if scene % 2:
            raise RuntimeError('out of paint')
        fake_render(scene, batch, folder)

    monkeypatch.setattr(worker, 'render_scene', fails_at_odd)
    assert run(tmp_path, '--scenes', '5') == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        *('video_01', 'video_03', 'video_05')
    ]
    error = capsys.readouterr().err
    assert error == ''.join(f'path_tracing: scene {n} failed: out of paint\n' for n in (1, 3))


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interrupted_scene_leaves_nothing(tmp_path, monkeypatch, error):
    def interrupted(scene, batch, folder):
        fake_render(scene, batch, folder)
        raise error

    monkeypatch.setattr(worker, 'render_scene', interrupted)
    with pytest.raises(error):
        write_scene(3, batch_of(tmp_path / 'd', 3))
    assert not (tmp_path / 'd').exists()


def test_a_killed_process_leaves_nothing_that_is_taken_for_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, 'render_scene', fake_render)
    leftover = tmp_path / '.video_04.x1y2'
    leftover.mkdir()
    fake_render(3, None, leftover)
    other = tmp_path / '.video_05.x1y2'  # maybe another process is rendering it
    other.mkdir()
    assert find_videos(tmp_path) == []
    assert not is_complete(tmp_path, 3)
    write_scene(3, batch_of(tmp_path, 3))
    assert is_complete(tmp_path, 3)
    assert (leftover.exists(), other.exists()) == (False, True)


def test_a_folder_with_other_files_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, 'render_scene', fake_render)
    folder = tmp_path / 'video_04'
    folder.mkdir()
    write_scene(3, batch_of(tmp_path, 3))  # an empty one is replaced
    (folder / 'synthetic.json').unlink()
    with pytest.raises(OSError, match='video_04'):
        write_scene(3, batch_of(tmp_path, 3))
    assert len(find_masks(folder)) == SHOTS


def test_a_width_that_shows_nothing_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, '--scenes', '1', '--width', '63')
    assert "'63' must be a whole number from 64 on" in capsys.readouterr().err


@pytest.fixture
def blender():
    pytest.importorskip('bpy', reason='needs Blender as a module')


@pytest.mark.usefixtures('blender')
def test_a_scene_depends_on_its_number_alone(tmp_path):
    """Rendered alone and after another scene, its files are the same."""
    write_scene(1, batch_of(tmp_path / 'a', 1))
    for scene in (0, 1):
        write_scene(scene, batch_of(tmp_path / 'b', scene))
    files = sorted(path for path in (tmp_path / 'a').rglob('*') if path.is_file())
    assert len(files) == 2 * SHOTS + 1
    for path in files:
        other = tmp_path / 'b' / path.relative_to(tmp_path / 'a')
        assert path.read_bytes() == other.read_bytes(), path
    for path in find_masks(tmp_path / 'b' / 'video_01'):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert (mask.shape, mask.dtype) == ((36, 64), np.uint8)
        assert 0 < mask.max() < CLASS_COUNT
    image = cv2.imread(str(tmp_path / 'b' / 'video_01' / 'rgb' / '000000000.png'))
    assert image.shape == (36, 64, 3)
    assert image[..., 2].mean() > image[..., 0].mean()  # BGR: tissue is red


def started(output, *words):
    """Start the tool. Its parent must not have imported bpy, which changes `sys.path`."""
    command = [sys.executable, '-W', 'ignore', '-m', 'tools.path_tracing', '--output', str(output)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *words], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.usefixtures('blender')
def test_renders_in_a_process_of_its_own(tmp_path):
    process = started(tmp_path / 'd', '--scenes', '1', '--samples', '1', '--width', '64')
    out, error = process.communicate()
    assert process.returncode == 0, error
    first, last = out.splitlines()  # nothing of what Blender prints for each image
    assert first.startswith('0 scenes left, ')
    assert last == f'{tmp_path / "d"} has scenes 0 to 0'
    assert json.loads((tmp_path / 'd' / 'video_01' / 'synthetic.json').read_text()) == {
        'scene': 0,
        'rate_hz': 15.0,
        'made_by': 'tools.path_tracing',
    }


@pytest.mark.usefixtures('blender')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_process_and_leaves_no_scene(tmp_path, number):
    process = started(tmp_path / 'd', '--scenes', '20', '--samples', '64')
    while not list(tmp_path.glob('d/.video_01.*/made')):
        assert process.poll() is None
        time.sleep(0.1)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error.endswith('; the same command renders the missing scenes\n')
    assert find_videos(tmp_path / 'd') == []
    assert children
    while any(Path(f'/proc/{child}').exists() for child in children):
        time.sleep(0.1)  # until the test's time is up

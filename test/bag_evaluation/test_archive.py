# SPDX-License-Identifier: Apache-2.0
"""Bags are found, evaluated once, and with the same result whichever runner is used."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgseg_ros.bag_evaluation import archive
from surgseg_ros.bag_evaluation.archive import Store, find_bags, plan, run
from surgseg_ros.bag_evaluation.bag_scan import bag_files
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bag_evaluation.runners import run_serial
from surgseg_ros.bag_evaluation.stages import WorkerError
from surgseg_ros.bags.reading import BagError
from surgseg_ros.core.parameters import pipeline_settings

REPOSITORY = Path(__file__).parents[2]
LONG = 100
TIMEOUT_S = 300.0

needs_ray = pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='ray is not installed')


def read_json(path):
    return json.loads(path.read_text())


def untimed(found):
    """Remove the times, which differ from run to run."""
    if isinstance(found, dict):
        dropped = ('latency_ms', 'elapsed_s', 'ms')
        return {key: untimed(value) for key, value in found.items() if key not in dropped}
    return [untimed(x) for x in found] if isinstance(found, list) else found


@pytest.fixture
def bags(tmp_path, write_bag):
    """Write three bags into folders."""
    for number, name in enumerate(('one', 'two', 'three')):
        write_bag(tmp_path / 'bags' / 'day' / name, range(5 * number, 5 * number + 3 + number))
    return tmp_path / 'bags'


@pytest.fixture
def options(model):
    return Options(
        image_topic='/camera/image_raw',
        ground_truth_topic='/camera/ground_truth',
        model=model,
        threads=1,
    )


def test_bags_are_found_at_any_depth_and_get_unique_names(tmp_path, bags, write_bag):
    assert list(find_bags([bags])) == ['one', 'three', 'two']
    write_bag(tmp_path / 'bags' / 'night' / 'one', range(2))
    found = find_bags([bags, bags / 'day' / 'two'])
    assert list(found) == ['day/one', 'day/three', 'day/two', 'night/one']
    assert found['night/one'] == (bags / 'night' / 'one').resolve()
    packed = tmp_path / 'bags' / 'packed'
    packed.mkdir()
    (packed / 'packed_0.mcap.zstd').write_bytes(b'')  # its metadata.yaml is lost
    assert packed in find_bags([bags]).values()
    assert list(find_bags([bags], bags / 'day')) == ['one', 'packed']
    (day,) = (bags / 'day' / 'one').glob('*.mcap')
    with pytest.raises(BagError, match=r'one.mcap. is a part of the bag beside it'):
        find_bags([bags / 'day' / 'one', day])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='there is no bag in'):
        find_bags([tmp_path / 'empty'])


def test_bags_with_names_in_upper_case_are_found(bags):
    (file,) = (bags / 'day/two').glob('*.mcap')
    file.rename(file.with_name('TWO_0.MCAP'))
    (bags / 'day/two/metadata.yaml').unlink()
    assert list(find_bags([bags])) == ['one', 'three', 'two']


def test_several_bags_are_merged_as_the_mean_over_videos(tmp_path, bags, evaluate):
    output, file = tmp_path / 'out', tmp_path / 'a.json'
    assert evaluate('--bag', bags, '--output', output, '--json', file) == 0
    found = read_json(file)
    each = found['bags'].values()
    assert list(found['bags']) == ['one', 'three', 'two']
    assert found['frames'] == found['with_ground_truth'] == 12
    for key in ('mIoU', 'mNSD'):
        assert found[key] == pytest.approx(np.mean([numbers[key] for numbers in each]))
    assert found['score'] == pytest.approx(np.sqrt(found['mIoU'] * found['mNSD']))
    assert sorted(x.name for x in output.iterdir()) == ['one.mcap', 'three.mcap', 'two.mcap']
    alone = tmp_path / 'b.json'
    assert evaluate('--bag', bags / 'day' / 'three', '--json', alone) == 0
    assert untimed(read_json(alone)['bags']['three']) == untimed(found['bags']['three'])


def test_finished_bags_are_not_evaluated_again(tmp_path, bags, options):
    found = find_bags([bags])
    outputs = {name: tmp_path / f'{name}.mcap' for name in found}
    tasks = plan(found, outputs, options)
    clean = run(plan(found, {}, options), run_serial, None, options)

    def interrupted(jobs):
        yield next(run_serial(jobs))
        raise KeyboardInterrupt

    store = Store(tmp_path / 'work')
    with pytest.raises(KeyboardInterrupt):
        run(tasks, interrupted, store, options)
    first = outputs['one'].stat().st_mtime_ns
    # As if the run had ended between writing the result and moving the bag.
    outputs['one'].rename(tasks[0].job.output)
    done = []

    def watched(jobs):
        done.extend(job.name for job in jobs)
        yield from run_serial(jobs)

    assert untimed(run(tasks, watched, store, options)) == untimed(clean)
    assert done == ['three', 'two']
    assert outputs['one'].stat().st_mtime_ns == first
    assert untimed(run(tasks, watched, store, options)) == untimed(clean)
    assert done == ['three', 'two']


def test_another_model_bag_or_option_has_another_key(tmp_path, bags, options, write_bag):
    bag = {'one': bags / 'day' / 'one'}
    shutil.copytree(options.model, tmp_path / 'other')
    spec = tmp_path / 'other' / 'model.json'
    spec.write_text(spec.read_text().replace('"tiny"', '"other"'))
    changed = [
        Options(**{**vars(options), **change})
        for change in (
            *({'tolerance_ns': 5}, {'threads': 2}, {'model': tmp_path / 'other'}),
            *({'precision': 'f32'}, {'pipeline': pipeline_settings({'min_confidence': 0.5})}),
        )
    ]
    keys = [plan(bag, {}, x)[0].key for x in (options, *changed)]
    shutil.rmtree(bag['one'])
    write_bag(bag['one'], range(4))
    keys.append(plan(bag, {}, options)[0].key)
    assert len(set(keys)) == 7


def test_files_in_folders_of_a_bag_are_parts_of_it(bags):
    bag = bags / 'day' / 'one'
    (bag / 'data').mkdir()
    (bag / 'one.mcap').rename(bag / 'data' / 'one.mcap')
    (bag / 'data' / 'notes.txt').touch()
    assert [file.name for file in bag_files(bag)] == ['one.mcap', 'metadata.yaml']


def test_an_unreadable_bag_does_not_affect_others(tmp_path, bags, evaluate, capsys):
    (bags / 'day' / 'two' / 'two.mcap').write_text('no bag at all')
    assert evaluate('--bag', bags, '--json', tmp_path / 'a.json') == 1
    found = read_json(tmp_path / 'a.json')
    assert list(found['bags']) == ['one', 'three']
    assert list(found['unreadable']) == ['two']
    assert found['mask_sha256'] is None
    assert 'two: ' in capsys.readouterr().err


@pytest.mark.parametrize('names', [['one'], ['one', 'two']])
def test_a_killed_process_leaves_no_part_of_its_bag(tmp_path, bags, options, names):
    def killing_the_first(jobs):
        (jobs[0].output.parent / f'.{jobs[0].output.name}.part').mkdir(parents=True)
        yield jobs[0], WorkerError('a process was killed')
        yield from run_serial(jobs[1:])

    output = tmp_path / 'out'
    outputs = {name: output / f'{name}.mcap' for name in names}
    options = replace(options, runtime='torch')
    tasks = plan({name: bags / 'day' / name for name in names}, outputs, options)
    text = "bag 'one' was not evaluated: a process was killed"
    if len(names) == 1:
        with pytest.raises(BagError, match=text):
            run(tasks, killing_the_first, None, options)
        assert not output.exists()
    else:
        merged = run(tasks, killing_the_first, None, options)
        assert merged['unreadable'] == {'one': text}
        assert [path.name for path in output.iterdir()] == ['two.mcap']


def test_rejects_an_output_that_it_did_not_write(tmp_path, bags, evaluate, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'two.mcap').write_text('precious')
    given = ('--bag', bags, '--output', tmp_path / 'out', '--json', tmp_path / 'a.json')
    assert evaluate(*given) == 2
    assert 'exists already' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'two.mcap').read_text() == 'precious'


def test_rejects_one_output_file_for_two_bags(tmp_path, write_bag, evaluate, capsys):
    bags = [write_bag(tmp_path / name, range(1)) for name in ('a.mcap', 'a')]
    given = ('--output', tmp_path / 'out', '--json', tmp_path / 'a.json')
    assert evaluate('--bag', *bags, *given) == 2
    assert "bags 'a' and 'a.mcap' would both become" in capsys.readouterr().err
    assert evaluate('--bag', *bags, '--output', bags[1], '--json', tmp_path / 'a.json') == 2
    assert 'is where the bags are' in capsys.readouterr().err


def test_results_after_killed_workers_and_a_restart_are_those_of_an_undisturbed_run(
    tmp_path, write_bag, evaluate, model
):
    """Compare numbers and bags, for three bags."""
    bags = tmp_path / 'bags'
    for number, name in enumerate(('one', 'two', 'three')):
        write_bag(bags / name, range(number, number + (LONG if number else 4)))
    given = ['--bag', bags, '--threads', 1]
    clean = ('--output', tmp_path / 'clean', '--json', tmp_path / 'clean.json')
    assert evaluate(*given, *clean) == 0

    given += ['--output', tmp_path / 'out', '--json', tmp_path / 'a.json']
    topics = ['--image-topic', '/camera/image_raw', '--ground-truth-topic', '/camera/ground_truth']
    command = [sys.executable, '-m', 'surgseg_ros', 'evaluate_bag', '--model', model, *topics]
    process = subprocess.Popen(
        [str(x) for x in (*command, *given, '--workers', 2)],
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        killed = until(
            lambda: [x for x in children(process.pid) if is_writing(tmp_path / 'out', x)]
        )
        os.kill(killed[0], signal.SIGKILL)
        until(lambda: len(list((tmp_path / 'a.json.work').glob('*.npz'))) >= 1)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {x: x.stat().st_mtime_ns for x in (tmp_path / 'a.json.work').glob('*.npz')}
    assert 0 < len(kept) < 3
    assert not (tmp_path / 'a.json').exists()

    assert evaluate(*given) == 0
    assert untimed(read_json(tmp_path / 'a.json')) == untimed(read_json(tmp_path / 'clean.json'))
    assert all(x.stat().st_mtime_ns == time_ns for x, time_ns in kept.items())
    for name in ('one', 'two', 'three'):
        made = (tmp_path / 'out' / f'{name}.mcap').read_bytes()
        assert made == (tmp_path / 'clean' / f'{name}.mcap').read_bytes()
    assert len(list((tmp_path / 'out').iterdir())) == 3


def children(process_id):
    folder = Path(f'/proc/{process_id}/task')
    return [int(child) for file in folder.glob('*/children') for child in file.read_text().split()]


def is_writing(folder, process_id):
    """Return whether a process has a file of the folder open, so is evaluating a bag."""
    try:
        links = [str(x.readlink()) for x in Path(f'/proc/{process_id}/fd').iterdir()]
    except OSError:
        return False
    return any(link.startswith(f'{folder}/') for link in links)


def until(holds):
    end_s = time.monotonic() + TIMEOUT_S
    while not (result := holds()):
        assert time.monotonic() < end_s
        time.sleep(0.002)
    return result


@needs_ray
def test_a_cluster_gives_the_same_results(tmp_path, bags, evaluate, model):
    given = ['--bag', bags, '--threads', 1]
    assert evaluate(*given, '--json', tmp_path / 'here.json') == 0
    topics = ['--image-topic', '/camera/image_raw', '--ground-truth-topic', '/camera/ground_truth']
    command = [sys.executable, '-m', 'surgseg_ros', 'evaluate_bag', '--model', model, *topics]
    given += ['--ray', 'local', '--json', tmp_path / 'ray.json']
    process = subprocess.run(
        [str(x) for x in (*command, *given)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert untimed(read_json(tmp_path / 'ray.json')) == untimed(read_json(tmp_path / 'here.json'))


def test_archive_has_the_expected_columns():
    assert set(archive._COUNTS) == set(archive.FrameCounts.__dataclass_fields__)

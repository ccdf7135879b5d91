# SPDX-License-Identifier: Apache-2.0
"""`compare`: its results, errors and exit status."""

import copy
import json

import numpy as np
import pytest
from made_results import frame, made_bag, masks, result, unscored
from verbs import verb

from surgseg_ros.bag_evaluation.results import FORMAT
from surgseg_ros.comparison.differences import RULES
from surgseg_ros.evaluation.metrics import summarize

main = verb('compare')

FRAMES = 60


@pytest.fixture
def write(tmp_path):
    def write(name, bags, **changes):
        path = tmp_path / name
        path.write_text(json.dumps(result(bags, **changes)))
        return str(path)

    return write


@pytest.fixture
def compared(tmp_path):
    """Compare; return the exit status and the contents of the file."""

    def compared(*arguments):
        path = tmp_path / 'out' / 'compared.json'
        path.unlink(missing_ok=True)
        status = main([*arguments, '--json', str(path)])
        return status, json.loads(path.read_text()) if path.exists() else None

    return compared


def bags(shift, names=('one', 'two'), frames=FRAMES):
    return {name: made_bag(frames + index, shift) for index, name in enumerate(names)}


def rows(document):
    """Return every difference in a document by its position."""
    for key, value in document.items():
        if isinstance(value, dict):
            if 'difference' in value:
                yield (key,), value
            else:
                yield from (((key, *inner), row) for inner, row in rows(value))


def with_stage(bags, stage):
    """Add the time of a stage to bags, in total and for each frame."""
    for bag in bags.values():
        bag['latency_ms'][stage] = bag['latency_ms']['network']
        for one in bag['over_time']:
            one['ms'][stage] = 1.0
    return bags


def test_a_file_of_format_3_with_an_old_stage_name_is_compared(write, compared):
    old = write('old.json', with_stage(bags(2), 'scrutiny'), format=3)
    new = write('new.json', with_stage(bags(4), 'postprocessing'), format=FORMAT)
    assert compared(old, new)[0] == 1, 'four pixels off are worse than two'
    assert compared(new, old)[0] == 0


@pytest.mark.parametrize('rule', RULES)
def test_a_file_is_not_worse_than_itself(rule, write, compared, capsys):
    path = write('a.json', bags(2))
    status, found = compared(path, path, '--bound', '0', '--class-bound', '0', '--bag-bound', '0',
                             '--rule', rule)  # fmt: skip
    assert status == 0
    assert not found['is_worse']
    values = [row[key] for _, row in rows(found) for key in ('difference', 'low', 'high')]
    assert len(values) > 200
    assert set(values) <= {0, None}
    assert 'B is not worse' in capsys.readouterr().out


def test_a_worse_model_fails_and_a_better_one_does_not(write, compared, capsys):
    good, bad = write('good.json', bags(1)), write('bad.json', bags(4))
    status, found = compared(good, bad)
    assert status == 1
    assert found['worse'] == ['score', 'mIoU']  # all edges are within the tolerance
    assert found['mIoU']['high'] < -found['bound']
    assert 'B is worse than A by more than 0.005 (rule: sure): score, mIoU' in (
        capsys.readouterr().out
    )
    status, found = compared(bad, good)
    assert status == 0
    assert found['mIoU']['low'] > 0
    assert compared(good, bad, '--bound', '0.9')[0] == 0


def test_the_numbers_are_the_official_ones(write, compared):
    _, found = compared(write('a.json', bags(1)), write('b.json', bags(4)))
    for side, shift in (('a', 1), ('b', 4)):
        counts = {
            name: [frame(0, *pair)[0] for pair in masks(FRAMES + index, shift)]
            for index, name in enumerate(('one', 'two'))
        }
        summary = summarize(counts)
        for key in ('mIoU', 'mNSD', 'score'):
            assert found[key][side] == pytest.approx(summary[key])
        present = [row['IoU where present'][side] for row in found['classes'].values()]
        assert present == pytest.approx(summary['present_class_IoU'])
        for name, of_video in summary['videos'].items():
            assert found['bags'][name]['mIoU'][side] == pytest.approx(of_video['mIoU'])
            classes = [row['IoU'][side] for row in found['bags'][name]['classes'].values()]
            assert classes == pytest.approx(of_video['class_mIoU'])


def test_the_interval_contains_the_difference(write, compared):
    noisy = bags(2)
    rng = np.random.default_rng(0)
    for bag in noisy.values():
        for item in bag['over_time']:
            item['iou'][3] = float(np.clip(item['iou'][3] + rng.normal() / 10, 0, 1))
    _, found = compared(write('a.json', bags(2)), write('b.json', noisy))
    row = found['classes']['suturing needle']['IoU']
    assert row['low'] < row['difference'] < row['high']
    assert row['high'] - row['low'] < 0.1


def test_the_order_of_frames_and_bags_does_not_matter(write, compared):
    a, b = bags(1, 'xyz'), bags(4, 'xyz')
    expected = compared(write('a.json', a), write('b.json', b))[1]
    rng = np.random.default_rng(0)
    for bag in b.values():
        rng.shuffle(bag['over_time'])
    turned = dict(reversed(b.items()))
    assert compared(write('a.json', a), write('b.json', turned))[1] == expected


def test_swapping_the_files_changes_only_the_sign(write, compared):
    a, b = write('a.json', bags(1)), write('b.json', bags(4))
    ours, theirs = (dict(rows(compared(*pair)[1])) for pair in ((a, b), (b, a)))
    for name, row in ours.items():
        if row['low'] is not None:
            assert row['low'] == pytest.approx(-theirs[name]['high'], abs=1e-12)


@pytest.mark.parametrize(('rule', 'status'), [('sure', 0), ('estimate', 1), ('possible', 1)])
def test_the_rules_differ_if_the_difference_may_be_random(rule, status, write, compared):
    """The mean is lower by more than the bound, but some frames are much better."""
    changed = bags(2)
    rng = np.random.default_rng(1)
    for bag in changed.values():
        steps = rng.normal(size=len(bag['over_time']))
        for item, step in zip(bag['over_time'], steps - steps.mean() - 0.1, strict=True):
            item['iou'] = [value + step / 10 for value in item['iou']]
    files = write('a.json', bags(2)), write('b.json', changed)
    assert compared(*files, '--bound', '0.005', '--rule', rule)[0] == status
    if rule == 'possible':
        assert compared(*files, '--bound', '0.1', '--rule', rule)[0] == 0


@pytest.fixture
def without_needle(write):
    """B lost a class in one bag, which hardly changes the overall mean."""
    a, b = bags(2, 'pqrs'), bags(2, 'pqrs')
    for item in b['q']['over_time']:
        item['iou'][3] = 0.0
    return write('a.json', a), write('b.json', b)


def test_classes_and_bags_have_their_own_bounds(without_needle, compared):
    assert compared(*without_needle, '--bound', '0.05')[0] == 0
    status, found = compared(*without_needle, '--bound', '0.05', '--class-bound', '0.1')
    assert status == 1
    assert set(found['worse']) == {'suturing needle: IoU', 'suturing needle: IoU where present'}
    status, found = compared(*without_needle, '--bound', '0.05', '--bag-bound', '0.02')
    assert status == 1
    assert set(found['worse']) == {'q: score', 'q: mIoU'}


def test_a_class_in_no_frame_has_no_value(write, compared, capsys):
    _, found = compared(write('a.json', bags(1)), write('b.json', bags(4)))
    assert set(found['classes']['clamps']['IoU where present'].values()) == {None}
    text = capsys.readouterr().out
    assert 'in no frame of the truth or of a mask: tool clasper' in text
    assert 'suturing needle' in text


def test_frames_missing_in_one_file_are_rejected_or_counted(write, compared, capsys):
    a, b = bags(2), bags(2)
    del b['one']['over_time'][5:9]
    b['two']['over_time'][0] |= {'iou': None, 'nsd': None, 'truth': None}
    b['three'] = made_bag(7)
    files = write('a.json', a), write('b.json', b)
    assert compared(*files) == (2, None)
    text = capsys.readouterr().err
    assert '5 scored frames are only in A (one: 4, two: 1)' in text
    assert '7 scored frames are only in B (three: 7)' in text
    assert '--allow-different' in text
    status, found = compared(*files, '--allow-different')
    assert status == 0
    assert found['only_in_a'] == {'one': 4, 'two': 1}
    assert found['only_in_b'] == {'three': 7}
    assert found['frames'] == 2 * FRAMES + 1 - 5
    assert 'left out: 5 scored frames' in capsys.readouterr().out


def test_frames_without_ground_truth_are_ignored(write, compared):
    a, b = bags(2), bags(2)
    a['one']['over_time'].append(unscored(900))
    b['one']['over_time'] += [unscored(901), unscored(902, stamp_ns=None)]
    status, found = compared(write('a.json', a), write('b.json', b))
    assert status == 0
    assert found['frames'] == 2 * FRAMES + 1


def test_rejects_another_bag_of_the_same_name(write, compared, capsys):
    a, b = bags(2), bags(2)
    b['two']['identity']['fingerprint'] = '00' * 32
    files = write('a.json', a), write('b.json', b)
    assert compared(*files)[0] == 2
    assert 'the files of two differ' in capsys.readouterr().err
    status, found = compared(*files, '--allow-different')
    assert (status, found['other_files']) == (0, ['two'])


def no_truth(document):
    for bag in document['bags'].values():
        for item in bag['over_time']:
            item |= {'iou': None, 'nsd': None, 'truth': None}


def other_names(document):
    document['bags'] = {f'{name}_b': bag for name, bag in document['bags'].items()}


def other_truth(document):
    document['bags']['two']['over_time'][3]['truth'] = [1, 4]


def no_nsd(document):
    del document['bags']['two']['over_time'][3]['nsd']


def short_iou(document):
    document['bags']['two']['over_time'][3]['iou'] = [1.0] * 8


def same_stamp(document):
    document['bags']['two']['over_time'].append(document['bags']['two']['over_time'][0])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, "b.json' cannot be read (No such file or directory): check the path"),
        ('half {', "b.json' is not JSON ("),
    ],
)
def test_error_for_an_unreadable_file_names_the_remedy(
    content, message, write, compared, tmp_path, capsys
):
    path = tmp_path / 'b.json'
    if content is not None:
        path.write_text(content)
    assert compared(write('a.json', result(bags(2))['bags']), str(path)) == (2, None)
    assert message in capsys.readouterr().err


def no_mask(document):
    document['bags']['two']['masks'] = 0


def no_bags(document):
    del document['bags']


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (no_truth, 'no frame with a ground truth: evaluate with --ground-truth-topic'),
        (other_names, 'no scored frame in common'),
        (other_truth, "bag 'two': the ground truth of 1 frame shows other classes"),
        (no_nsd, "(KeyError: 'nsd'): evaluate again"),
        (short_iou, 'an incomplete result of evaluate_bag'),
        (same_stamp, 'the same stamp'),
        (no_mask, 'nothing was evaluated, since they have no mask (two): evaluate again'),
        (no_bags, 'has no "bags"'),
    ],
)
def test_rejects_files_that_cannot_be_compared(spoil, message, write, compared, tmp_path, capsys):
    a = result(bags(2))
    b = copy.deepcopy(a)
    spoil(b)
    path = tmp_path / 'b.json'
    path.write_text(json.dumps(b))
    assert compared(write('a.json', a['bags']), str(path)) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith('compare: ')
    assert message in error


@pytest.mark.parametrize('content', [None, 'not JSON', '[1]'])
def test_rejects_files_that_cannot_be_read(content, write, compared, tmp_path, capsys):
    path = tmp_path / 'b.json'
    if content:
        path.write_text(content)
    assert compared(write('a.json', bags(2)), str(path))[0] == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize('bound', ['-0.1', 'nan', 'much', '2'])
def test_rejects_an_invalid_bound(bound, write):
    path = write('a.json', bags(2))
    with pytest.raises(SystemExit) as stopped:
        main([path, path, f'--bound={bound}'])
    assert stopped.value.code == 2


def test_from_six_bags_on_bags_are_resampled(write, compared, capsys):
    five, six = bags(2, 'abcde', 20), bags(2, 'abcdef', 20)
    assert compared(*[write('a.json', five)] * 2)[1]['drawn'] == 'blocks'
    assert compared(*[write('a.json', six)] * 2)[1]['drawn'] == 'bags'
    assert 'the bootstrap drew bags' in capsys.readouterr().out

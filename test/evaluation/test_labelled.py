# SPDX-License-Identifier: Apache-2.0
"""Labelled images: pairing of masks and images, and what is counted."""

import numpy as np
import pytest

from surgseg_ros.core.labels import CLASS_NAMES, NEEDLE, NO_DECISION, THREAD
from surgseg_ros.evaluation.frames import write_png
from surgseg_ros.evaluation.labelled import count_labelled, find_sets, summarize_labelled
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.metrics import count_near, summarize_near

WIDTH = 64
"""The tolerance of 3 px of 640 is 0.3 px at this width: only the pixel itself is within it."""


def masks(seed, size=(40, WIDTH), values=(*range(10), NO_DECISION)):
    """Return truth and prediction made of blocks, so that some classes overlap."""
    rng = np.random.default_rng(seed)
    shape = (2, size[0] // 8, size[1] // 8)
    blocks = rng.choice(np.array(values, np.uint8), shape)
    truth, predicted = blocks.repeat(8, 1).repeat(8, 2)
    return truth, np.where(rng.random(truth.shape) < 0.6, truth, predicted)


def score(*pairs, left_out=()):
    return summarize_labelled([count_labelled(*pair, left_out) for pair in pairs])


def iou(truth, predicted, labels):
    ours, theirs = np.isin(truth, labels), np.isin(predicted, labels)
    return (ours & theirs).sum(), (ours | theirs).sum()


def without_unlabelled(pairs, left_out):
    for truth, predicted in pairs:
        kept = truth != NO_DECISION
        yield [np.where(np.isin(x[kept], left_out), 0, x[kept]) for x in (truth, predicted)]


@pytest.mark.parametrize('left_out', [(), (4, 5), (8,)])
def test_scores_follow_the_definition(left_out):
    pairs = [masks(seed, (24 + 8 * seed, 64)) for seed in range(4)]
    found = score(*pairs, left_out=left_out)
    plain = list(without_unlabelled(pairs, left_out))
    of_frame = [
        [shared / union if union else 1.0 for shared, union in
         (iou(*pair, [label]) for label in range(1, 10))]
        for pair in plain
    ]  # fmt: skip
    assert found['official_miou'] == pytest.approx(np.mean(of_frame))
    absent = [[not (truth == label).any() for label in range(1, 10)] for truth, _ in plain]
    assert found['official_miou_floor'] == pytest.approx(np.mean(absent))
    shared, union = np.sum([iou(*pair, [1, 2, 3, 6, 7]) for pair in plain], 0)
    assert found['tools_iou'] == pytest.approx(shared / union)
    for label, name in enumerate(CLASS_NAMES[1:], 1):
        shared, union = np.sum([iou(*pair, [label]) for pair in plain], 0)
        present = [x[label - 1] for x, gone in zip(of_frame, absent) if not gone[label - 1]]
        expected = (shared / union, np.mean(present)) if label not in left_out else (None, None)
        assert tuple(found['class_iou'][name].values()) == pytest.approx(expected)


def test_an_absent_class_has_no_score():
    empty = np.zeros((20, WIDTH), np.uint8)
    found = score((empty, empty))
    assert found['official_miou'] == found['official_miou_floor'] == 1
    assert found['tools_iou'] is None
    assert found['class_iou']['thread'] == {'pooled': None, 'present': None}
    assert found['needle'] == {'precision': None, 'recall': None, 'f1': None}


def test_no_decision_is_wrong_on_instruments():
    truth = np.zeros((20, WIDTH), np.uint8)
    truth[:10] = 3
    undecided = np.where(np.arange(WIDTH) < WIDTH // 2, truth, NO_DECISION).astype(np.uint8)
    found = score((truth, undecided))
    assert found['class_iou']['tool shaft']['pooled'] == found['tools_iou'] == 0.5


def near(truth, predicted, tolerance_px):
    """Compute the distances by brute force."""
    ours, theirs = np.argwhere(predicted), np.argwhere(truth)
    away = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return (away.min(1) <= tolerance_px).mean(), (away.min(0) <= tolerance_px).mean()


@pytest.mark.parametrize('width', [64, 640, 1000])
def test_thin_classes_are_matched_within_the_tolerance(width):
    rng = np.random.default_rng(width)
    truth, predicted = rng.random((2, 30, width)) < 0.02
    found = summarize_near([count_near(truth, predicted)])
    precision, recall = near(truth, predicted, 3 * width / 640)
    assert found['precision'] == pytest.approx(precision)
    assert found['recall'] == pytest.approx(recall)
    assert found['f1'] == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(('away_px', 'share'), [(3, 1.0), (4, 0.0)])
@pytest.mark.parametrize(('key', 'label'), [('needle', NEEDLE), ('thread', THREAD)])
def test_the_tolerance_is_three_pixels_of_640(key, label, away_px, share):
    truth, predicted = np.zeros((2, 20, 640), np.uint8)
    truth[5, 100:200] = predicted[5 + away_px, 100:200] = label
    assert score((truth, predicted))[key] == {'precision': share, 'recall': share, 'f1': share}


def test_thin_classes_are_pooled():
    pairs = []
    for predicted_px, truth_px in ((10, 0), (0, 30), (10, 10)):
        truth, predicted = np.zeros((2, 20, 640), np.uint8)
        truth[5, :truth_px], predicted[5, :predicted_px] = THREAD, THREAD
        pairs.append((truth, predicted))
    assert score(*pairs)['thread'] == pytest.approx(
        {'precision': 10 / 20, 'recall': 10 / 40, 'f1': 1 / 3}
    )
    assert score(pairs[0])['thread'] == {'precision': 0, 'recall': None, 'f1': 0}
    assert score(pairs[1])['thread'] == {'precision': None, 'recall': 0, 'f1': 0}


def test_unlabelled_pixels_are_ignored():
    truth, predicted = np.zeros((2, 20, 640), np.uint8)
    truth[5, :50] = NEEDLE
    truth[6] = NO_DECISION
    predicted[6, :50] = NEEDLE  # next to the truth, but unlabelled
    assert score((truth, predicted))['needle'] == {'precision': None, 'recall': 0, 'f1': 0}


def test_rejects_truth_values_that_are_not_a_class():
    truth, predicted = np.zeros((2, 4, 4), np.uint8)
    truth[0] = 12
    with pytest.raises(ValueError, match='value 12'):
        count_labelled(truth, predicted)


def write_set(folder, images=('a.png', 'b.png'), truths=('a.png', 'b.png')):
    for kind, names in (('images', images), ('masks', truths)):
        (folder / kind).mkdir(parents=True)
        for name in names:
            write_png(folder / kind / 'x.png', np.zeros((8, 8), np.uint8))
            (folder / kind / 'x.png').rename(folder / kind / name)
    return folder


def test_masks_and_images_are_paired_by_name(tmp_path):
    folder = write_set(tmp_path / 'set', ('b.JPG', 'a.bmp', '.hidden'), ('b.png', 'a.png'))
    ((name, pairs),) = find_sets([folder]).items()
    assert name == 'set'
    assert [(pair.image.name, pair.mask.name) for pair in pairs] == [
        ('a.bmp', 'a.png'), ('b.JPG', 'b.png'),
    ]  # fmt: skip


def test_sets_of_the_same_name_get_different_names(tmp_path):
    folders = [write_set(tmp_path / name) for name in ('one/test', 'two/test')]
    assert list(find_sets(folders)) == ['one/test', 'two/test']


@pytest.mark.parametrize(
    ('images', 'truths', 'message'),
    [
        (['a.png', 'b.png'], ['a.png'], r'images without a mask \(1\): b\.png; add'),
        (['a.png'], ['a.png', 'b.png'], r'masks without an image \(1\): b\.png; add'),
        (['a.png', 'a.jpg'], ['a.png'], r'a\.jpg and a\.png: the names differ only in ending'),
        (['a.png'], ['a.png', 'A.png'], r'A\.png and a\.png: the names differ only in ending'),
        ([], [], 'holds no labelled image'),
    ],
)
def test_error_names_files_without_a_partner(tmp_path, images, truths, message):
    with pytest.raises(FrameError, match=message):
        find_sets([write_set(tmp_path / 'set', images, truths)])


@pytest.mark.parametrize('lacking', ['images', 'masks', ''])
def test_error_names_a_folder_that_is_not_a_labelled_set(tmp_path, lacking):
    folder = write_set(tmp_path / 'set')
    (folder / lacking).rename(tmp_path / 'elsewhere')
    with pytest.raises(FrameError, match=f"set' has no folder {lacking or 'images'}/: give one"):
        find_sets([folder])


def test_rejects_a_folder_given_twice(tmp_path):
    folder = write_set(tmp_path / 'set')
    with pytest.raises(FrameError, match=r"set/\.\./set' is given twice"):
        find_sets([folder, folder / '../set'])

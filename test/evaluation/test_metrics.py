# SPDX-License-Identifier: Apache-2.0
"""The metric equals a slow implementation of its definition, and the official toolkit."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from verbs import verb

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.evaluation.metrics import SCORED, count_frame, summarize

evaluate = verb('evaluate')

OFFICIAL = Path(__file__).with_name('official_metric')
"""
24 pairs of synthetic masks, with the scores of the challenge's toolkit (`scores.json`).

video_41: scenes, and plausible predictions. video_42: ellipses across the borders; for
the last there is no prediction. video_43: corner cases of the definition: one empty mask
or two, the whole image, pixels and threads as far apart as the tolerance, a hole, noise.
"""


def slow_iou(truth, predicted, label):
    ours, theirs = truth == label, predicted == label
    union = (ours | theirs).sum()
    return (ours & theirs).sum() / union if union else 1.0


def slow_nsd(truth, predicted, label, tolerance_px=10):
    edges = [slow_edges(mask == label) for mask in (truth, predicted)]
    if not any(map(len, edges)):
        return 1.0
    if not all(map(len, edges)):
        return 0.0
    squared = ((edges[0][:, None] - edges[1][None]) ** 2).sum(2)
    met = (squared.min(1) <= tolerance_px**2).sum() + (squared.min(0) <= tolerance_px**2).sum()
    return met / sum(map(len, edges))


def slow_edges(region):
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(region & ~inner)


def blobs(rng, size=(48, 64)):
    """Draw a mask of some classes, at the borders too."""
    mask = np.zeros(size, np.uint8)
    for label in rng.choice(np.arange(1, 10), rng.integers(0, 5), replace=False):
        centre = [int(rng.integers(side)) for side in size[::-1]]
        cv2.circle(mask, centre, int(rng.integers(1, 14)), int(label), -1)
    return mask


@pytest.mark.parametrize('seed', range(12))
def test_frames_score_as_defined(seed):
    rng = np.random.default_rng(seed)
    truth = blobs(rng)
    predicted = np.roll(truth, rng.integers(-12, 13, 2), (0, 1)) if seed % 2 else blobs(rng)
    predicted[:4, :4] = NO_DECISION

    counts = count_frame(truth, predicted)

    np.testing.assert_allclose(counts.iou, [slow_iou(truth, predicted, n) for n in SCORED])
    np.testing.assert_allclose(counts.nsd, [slow_nsd(truth, predicted, n) for n in SCORED])


@pytest.mark.parametrize(('gap_px', 'nsd'), [(10, 1.0), (11, 0.0)])
def test_ten_pixels_are_within_the_tolerance_and_eleven_are_not(gap_px, nsd):
    truth, predicted = np.zeros((2, 5, 40), np.uint8)
    truth[2, 5] = predicted[2, 5 + gap_px] = 1
    assert count_frame(truth, predicted).nsd[0] == nsd


def test_the_tolerance_is_a_disk():
    truth = np.zeros((25, 25), np.uint8)
    truth[12, 12] = 1
    for row, column in np.ndindex(truth.shape):
        predicted = np.zeros_like(truth)
        predicted[row, column] = 1
        near = (row - 12) ** 2 + (column - 12) ** 2 <= 100
        assert count_frame(truth, predicted).nsd[0] == near, (row, column)


def test_noise_is_counted_pixel_by_pixel():
    truth, predicted = np.random.default_rng(3).integers(0, 10, (2, 40, 50), np.uint8)
    counts = count_frame(truth, predicted)
    expected = np.zeros((10, 11), int)
    np.add.at(expected, (truth, predicted), 1)
    np.testing.assert_array_equal(counts.confusion, expected)


def test_a_missing_prediction_scores_0_even_for_absent_classes():
    counts = count_frame(np.zeros((4, 4), np.uint8), None)
    assert not counts.iou.any()
    assert not counts.nsd.any()


def test_an_empty_frame_predicted_as_empty_scores_1():
    empty = np.zeros((4, 4), np.uint8)
    counts = count_frame(empty, empty)
    assert counts.iou.tolist() == counts.nsd.tolist() == [1.0] * 9


def test_rejects_different_sizes():
    with pytest.raises(ValueError, match='5x4 pixels, the prediction 4x4'):
        count_frame(np.zeros((4, 5), np.uint8), np.zeros((4, 4), np.uint8))


def test_rejects_truth_values_that_are_not_a_class():
    with pytest.raises(ValueError, match='the value 10'):
        count_frame(np.full((4, 4), 10, np.uint8), np.zeros((4, 4), np.uint8))


def one_class(*pixels_of_ten, label=1):
    mask = np.zeros((1, 10), np.uint8)
    mask[0, list(pixels_of_ten)] = label
    return mask


def test_videos_have_equal_weight_and_each_mean_has_its_own_name():
    half = count_frame(one_class(0, 1), one_class(0))
    wrong = count_frame(one_class(), one_class(5))
    right = count_frame(one_class(0), one_class(0))

    summary = summarize({'video_1': [half, wrong], 'video_2': [right]})

    first = summary['videos']['video_1']
    assert first['class_mIoU'] == [0.25, *[1.0] * 8]
    assert summary['mIoU'] == pytest.approx(((0.25 + 8) / 9 + 1) / 2)
    assert summary['pooled_class_IoU'][0] == pytest.approx(2 / 4)
    assert summary['present_class_IoU'] == [pytest.approx(0.75), *[None] * 8]
    assert summary['mean_present_class_IoU'] == pytest.approx(0.75)
    assert summary['floor']['mIoU'] == pytest.approx((8.5 / 9 + 8 / 9) / 2)
    assert summary['score'] == pytest.approx((summary['mIoU'] * summary['mNSD']) ** 0.5)


def test_the_floor_is_the_score_of_an_all_background_prediction():
    rng = np.random.default_rng(5)
    truths = [blobs(rng) for _ in range(6)]
    frames = [count_frame(truth, np.zeros_like(truth)) for truth in truths]
    summary = summarize({'video_1': frames[:2], 'video_2': frames[2:]})
    assert summary['floor'] == {key: pytest.approx(summary[key]) for key in summary['floor']}


def test_rejects_an_empty_set_of_frames():
    with pytest.raises(ValueError, match='no videos'):
        summarize({})
    with pytest.raises(ValueError, match='video_7'):
        summarize({'video_7': []})


def test_scores_equal_those_of_the_official_toolkit():
    official = json.loads((OFFICIAL / 'scores.json').read_text())
    videos = {}
    for name, values in official['videos'].items():
        paths = sorted((OFFICIAL / 'reference' / name / 'segmentation').glob('*.png'))
        assert len(paths) == 8
        frames = [count_frame(read(path), read(sibling(path, name))) for path in paths]
        np.testing.assert_allclose([f.iou for f in frames], values['frame_iou'], rtol=0, atol=1e-6)
        np.testing.assert_allclose([f.nsd for f in frames], values['frame_nsd'], rtol=0, atol=1e-6)
        videos[name] = frames
    assert len(videos) == 3
    summary = summarize(videos)
    for key in ('mIoU', 'mNSD', 'score'):
        assert summary[key] == pytest.approx(official[key], abs=1e-6)


def test_scores_of_the_verb_equal_those_of_the_official_toolkit(tmp_path):
    official = json.loads((OFFICIAL / 'scores.json').read_text())
    folders = ('--reference', OFFICIAL / 'reference', '--predictions', OFFICIAL / 'prediction')
    words = (*folders, '--json', tmp_path / 'scores.json', '--allow-missing')
    assert evaluate([str(word) for word in words]) == 0
    found = json.loads((tmp_path / 'scores.json').read_text())
    assert found['missing'] == ['video_42/segmentation/000000420.png']
    for key in ('mIoU', 'mNSD', 'score'):
        assert found[key] == pytest.approx(official[key], abs=1e-6)


def sibling(path, name):
    return OFFICIAL / 'prediction' / name / 'segmentation' / path.name


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None

# SPDX-License-Identifier: Apache-2.0
"""The report: a single file with every class, the confusion matrix and the worst frames."""

import re

import cv2
import numpy as np
import pytest
from page import Page

from surgseg_ros.core.labels import CLASS_NAMES, NO_DECISION
from surgseg_ros.evaluation.metrics import MEANINGS, count_frame, summarize
from surgseg_ros.evaluation.pairs import count_all, find_pairs
from surgseg_ros.evaluation.report import worst_indices, write_report

FRAMES = {'video_1': range(3), 'video_2': range(2)}


def mask(label=4, shift=0):
    made = np.zeros((36, 64), np.uint8)
    made[8:20, 10 + shift : 30 + shift] = label
    return made


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def folders(tmp_path):
    """Two videos; each frame is worse than the one before, and one has no prediction."""
    for video, indices in FRAMES.items():
        for index in indices:
            name = f'{video}/segmentation/{index:09d}.png'
            write(tmp_path / 'truth' / name, mask())
            write(tmp_path / 'masks' / name, mask(shift=4 * index))
            image = np.full((36, 64, 3), (0, 0, 200), np.uint8)
            write(tmp_path / f'truth/{video}/frames/_{index:09d}.jpg', image)
    (tmp_path / 'masks/video_2/segmentation/000000001.png').unlink()
    return tmp_path


def make(folders, frames=None):
    pairs = find_pairs(folders / 'truth', folders / 'masks', allow_missing=True)
    counts, _ = count_all(pairs)
    html = write_report(folders / 'report', summarize(counts), pairs, counts, frames).read_text()
    return html, Page(html)


def test_the_report_is_a_single_self_contained_file(folders):
    html, page = make(folders)
    assert not page.open
    page.assert_is_self_contained()
    assert 'http' not in html


def test_bars_of_classes_have_a_text_description(folders):
    html, _ = make(folders)
    words = re.search('<desc>(.*?)</desc>', html)[1]
    assert 'IoU where present: suturing needle 0.' in words
    assert 'thread' not in words.split('IoU where present')[1], 'the class is in no frame'


def test_report_has_scores_floors_and_every_class(folders):
    _, page = make(folders)
    summary = summarize(count_all(find_pairs(folders / 'truth', folders / 'masks', True))[0])
    assert f'{summary["score"]:.4f}' in page.text
    assert f'floor {summary["floor"]["score"]:.4f}' in page.text
    assert all(name in page.text for name in CLASS_NAMES)
    assert 'without prediction, scored 0: 1' in page.text
    assert all(f'{word}: {meaning}' in page.text for word, meaning in MEANINGS.items())


def test_the_worst_frame_is_first_and_its_missing_prediction_is_reported(folders):
    html, _ = make(folders)
    titles = re.findall('<figcaption>(.*?)<span>', html)
    assert titles[0] == 'video_2 · 000000001'
    assert len(titles) == 5
    assert html.count('<div class="none">') == 1


@pytest.mark.parametrize(('given', 'first'), [(False, 'truth'), (True, 'input')])
def test_input_images_are_shown_if_available(folders, given, first):
    html, page = make(folders, folders / 'truth' if given else None)
    assert re.search('<div class="panel"><span>(.*?)</span>', html)[1] == first
    reds = [image[0, 0, 0] > 150 and image[0, 0, 2] < 50 for image in page.images()]
    assert all(reds) == given


def test_an_image_of_another_size_gets_no_overlay(folders):
    write(folders / 'truth/video_1/rgb/000000000.png', np.zeros((18, 32, 3), np.uint8))
    html, _ = make(folders, folders / 'truth')
    assert html.count('<span>input</span>') == 4


def test_the_worst_frame_of_each_video_precedes_the_second_worst_of_any():
    truth = mask()
    bad, worse = (count_frame(truth, mask(shift=shift)) for shift in (5, 9))
    good = count_frame(truth, truth)
    counts = {'video_1': [worse, worse, bad], 'video_2': [good, bad]}
    assert worst_indices(counts, 2) == [0, 4]
    assert worst_indices(counts, 3) == [0, 1, 4]
    assert sorted(worst_indices(counts)) == [0, 1, 2, 3, 4]


def test_no_decision_pixels_have_their_own_column(folders):
    undecided = mask()
    undecided[mask() == 4] = NO_DECISION
    for path in (folders / 'masks').rglob('*.png'):
        write(path, undecided)
    html, _ = make(folders)
    row = re.search(r'scope="row">suturing needle</th>(.*?)</tr>', html, re.DOTALL)[1]
    assert re.findall('>([^<]+)</td>', row) == ['·'] * 10 + ['100.0']
    assert row.count('class="same"') == 1


def test_report_without_any_prediction(folders):
    for path in (folders / 'masks').rglob('*.png'):
        path.unlink()
    _, page = make(folders)
    assert 'No frame has a prediction' in page.text

# SPDX-License-Identifier: Apache-2.0
"""The report of bags: a single file, with plots over time and images of the worst frames."""

import re

import numpy as np
import pytest
from made_results import (
    START_NS,
    STEP_NS,
    bag_result,
    frame,
    made_bag,
    masks,
    result,
    unscored,
    write_bags,
)
from page import Page

from surgseg_ros.bag_evaluation.report import draw_timeline, write_report
from surgseg_ros.bag_evaluation.timeline_data import read_series
from surgseg_ros.core.labels import CLASS_NAMES, NO_DECISION

FRAMES = 12


@pytest.fixture
def make(tmp_path):
    def make(results, bags=None, written=None):
        path = write_report(tmp_path / 'report', results, bags or {}, written or {})
        html = path.read_text()
        page = Page(html)
        assert not page.open
        return html, page

    return make


@pytest.fixture
def bag_results(tmp_path):
    """Make a bag whose frame 7 is the worst: the network failed."""
    bag, written = write_bags(tmp_path, FRAMES)
    made = made_bag(FRAMES)
    truth, mask = list(masks(FRAMES))[7]
    _, made['over_time'][7] = frame(
        7,
        truth,
        np.full_like(mask, NO_DECISION),
        **{'fate': 'failed'},
        confidence=None,
        instruments=[255],
    )
    made |= {'failed': 1, 'troubles': [{'cause': 'error', 'count': 1, 'first': 'out of <memory>'}]}
    return result({'a <bag>': made}), {'a <bag>': bag}, {'a <bag>': written}


def test_the_report_is_a_single_self_contained_file(bag_results, make):
    html, page = make(*bag_results)
    page.assert_is_self_contained()
    assert 'http' not in html


def test_the_report_has_the_numbers_of_the_file(bag_results, make):
    results, *_ = bag_results
    _, page = make(*bag_results)
    text = page.text
    for key in ('mIoU', 'mNSD', 'score'):
        assert f'{results[key]:.4f}' in text
        assert f'floor {results["floor"][key]:.4f}' in text
    assert all(name in text for name in CLASS_NAMES[1:])
    assert results['model']['weights_sha256'] in text
    assert results['mask_sha256'] in text
    assert 'ab' * 32 in text
    assert re.search(r'network\D*10.00\D*12.00\D*13.00', text)


def test_text_is_escaped(bag_results, make):
    html, page = make(*bag_results)
    assert 'a <bag>' in page.text
    assert 'out of <memory>' in page.text
    assert '<bag>' not in html
    assert '<memory>' not in html


def test_lost_messages_are_reported(make):
    truths = {'messages': 20, 'matched': 12, 'unmatched': 31, 'ambiguous': 32, 'unusable': 33}
    bag = made_bag(
        dropped=21,
        failed=22,
        rejected=23,
        ground_truth=truths,
        frames_by_stamp={'zero': 41, 'equal': 42, 'backward': 43},
        damage='the end is cut off',
        **{'strangers': 51},
    )
    _, page = make(result({'one': bag, 'two': made_bag()}, unreadable={'three': 'is no bag'}))
    for number in (21, 22, 23, 31, 32, 33, 41, 42, 43, 51):
        assert str(number) in page.text
    assert 'the end is cut off' in page.text
    assert 'is no bag' in page.text


def test_the_worst_frame_is_first_with_its_images(bag_results, make):
    html, page = make(*bag_results)
    titles = re.findall('<figcaption>(.*?)<span>(.*?)</span>', html)
    assert titles[0][0].startswith('a &lt;bag&gt; · frame 7 · stamp 1000000000.280 s')
    assert titles[0][1].startswith('failed · ')
    image, truth, predicted = list(page.images())[:3]
    assert image.mean((0, 1)) == pytest.approx((200, 70, 0), abs=4)  # the color of this frame
    expected = next(pair[0] for n, pair in enumerate(masks(FRAMES)) if n == 7)
    differs = np.abs(truth.astype(int) - image).max(2) > 30
    assert np.mean(differs == (expected > 0)) > 0.95
    assert np.abs(predicted.astype(int) - image).max() > 30


def test_worst_frames_are_not_neighbours(make):
    made = made_bag(100)
    for index in (50, 51, 52, 53):
        made['over_time'][index]['iou'] = [index / 1000] * 9
    html, _ = make(result({'bag': made}))
    frames = [int(index) for index in re.findall(r'frame (\d+) · stamp', html)]
    assert frames[0] == 50
    assert min(np.diff(np.sort(frames))) > 3
    assert len(frames) == 8


def test_the_worst_frame_of_each_bag_precedes_the_second_worst_of_any(make):
    html, _ = make(result({'bad': made_bag(shift=5), 'good': made_bag(shift=1)}))
    names = re.findall(r'<figcaption>(\w+) · frame', html)
    assert names == sorted(names)
    assert set(names) == {'bad', 'good'}


def test_without_ground_truth_confidence_and_instruments_are_shown(tmp_path, make):
    bag, written = write_bags(tmp_path, FRAMES)
    over_time = [unscored(n, confidence=0.5 + 0.04 * abs(n - 4)) for n in range(FRAMES)]
    results = result({'bag': bag_result(over_time)})
    results['options']['ground_truth_topic'] = None
    html, page = make(results, {'bag': bag}, {'bag': written})
    assert 'No ground truth' in page.text
    assert 'mIoU' not in page.text.split('Bags')[0]
    drawn = ' '.join(re.findall('<desc>(.*?)</desc>', html))
    assert 'confidence: 0.' in drawn
    assert 'minimum 0.500 at second 0.16' in drawn
    assert 'IoU' not in drawn
    assert 'suturing needle' in page.text
    assert re.search(r'frame (\d+) · stamp', html)[1] == '4'
    assert html.count('<span>truth</span>') == 0
    assert html.count('<span>input</span>') == html.count('<span>prediction</span>') > 3


def test_masks_recorded_from_the_node_are_read_from_the_bag_itself(tmp_path, make):
    bag, _ = write_bags(tmp_path, FRAMES)
    made = made_bag(FRAMES)
    made['over_time'][3] |= {'iou': [0.0] * 9, 'fate': 'dropped', 'predicted': None}
    made['over_time'][5] |= {'iou': [0.1] * 9}
    results = result({'bag': made}, kind='recorded', model=None)
    results |= {f'{key}_of_masks': 0.75 for key in ('mIoU', 'mNSD', 'score')}
    results['options']['mask_topic'] = '/truth'
    html, page = make(results, {'bag': bag})
    assert '0.7500' in page.text
    assert 'frame 3 ' not in html  # it has no mask
    worst = html.split('<figure>')[1]
    assert 'frame 5 ' in worst
    _, truth, predicted = re.findall('<img src="(.*?)"', worst)[:3]
    assert truth == predicted


def test_a_truth_within_the_tolerance_is_shown(tmp_path, make):
    results = result({'bag': made_bag(FRAMES)})
    for item in results['bags']['bag']['over_time']:
        item['stamp_ns'] += 5_000_000
    bag, _ = write_bags(tmp_path, FRAMES)
    html, page = make(results, {'bag': bag})
    assert '<span>truth</span>' not in html
    assert re.search(r'(\d) messages of .* were not found again', page.text)[1] == '6'
    results['options']['tolerance_ms'] = 6.0
    html, page = make(results, {'bag': bag})
    assert html.count('<span>truth</span>') == 6
    assert 'not found again' not in page.text


def test_a_bag_that_can_no_longer_be_read_is_reported(tmp_path, make):
    results = result({'bag': made_bag(FRAMES)})
    _, page = make(results, {'bag': tmp_path / 'gone'}, {})
    assert 'Not all images could be read' in page.text
    assert 'gone' in page.text
    _, page = make(results)
    assert "bag 'bag' is not available" in page.text


def test_the_plot_of_a_long_bag_is_small(make):
    sizes, one = [], unscored(0)
    for frames in (5_000, 50_000):
        over_time = [
            {**one, 'stamp_ns': START_NS + n * STEP_NS, 'confidence': 0.9 - n % 3 / 50}
            for n in range(frames)
        ]
        over_time[frames // 2]['confidence'] = 0.0
        html, _ = make(result({'bag': bag_result(over_time)}))
        (drawn,) = re.findall('<svg .*?</svg>', html, re.DOTALL)
        assert f'minimum 0.000 at second {frames // 2 * STEP_NS / 1e9:g}' in drawn
        sizes.append(len(drawn))
    assert sizes[1] < 1.2 * sizes[0] < 80_000


def test_small_changes_of_the_confidence_are_visible():
    over_time = [unscored(n, confidence=0.99 - 0.02 * (n == 5)) for n in range(10)]
    drawn = draw_timeline(read_series(over_time), 'bag')
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: #2c7a4b', drawn)
    heights = [float(y) for y in re.findall(r'[ML] \S+ (\S+)', line)]
    assert np.argmax(heights) == 5
    assert max(heights) - min(heights) == pytest.approx(56 * 0.02 / 0.05, abs=0.1)
    assert '>0.95</text>' in drawn


def test_bags_with_little_data_are_drawn():
    """Bags without masks, without confidence, without decision, or with one frame."""
    nothing = {'predicted': None, 'confidence': None, 'instruments': None}
    lost = [{**item, **nothing, 'fate': 'dropped'} for item in made_bag(3)['over_time']]
    undecided = [unscored(n, **nothing, no_decision=1.0) for n in range(3)]
    empty = [unscored(n, **nothing, no_decision=None) for n in range(3)]
    drawn = [draw_timeline(read_series(n), 'bag') for n in (lost, undecided, empty, empty[:1])]
    assert '>without a mask</text>' in drawn[0]
    assert '>suturing needle</text>' in drawn[0]
    assert '>no decision</text>' in drawn[1]
    assert all('<svg' in chart for chart in drawn)


def test_for_many_bags_the_lowest_scores_are_drawn(make):
    bags = {f'bag_{n:02}': made_bag(3, score=n / 100) for n in range(42)}
    html, page = make(result(bags))
    assert html.count(' over time</title>') == 40
    assert '2 bags with higher scores are not drawn' in page.text
    assert '<h3>bag_41</h3>' not in html
    assert 'bag_41' in page.text


def test_bags_without_a_frame_are_listed(make):
    _, page = make(result({'bag': made_bag(3), 'empty': bag_result([], latency_ms={})}))
    assert 'empty' in page.text

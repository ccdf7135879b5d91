# SPDX-License-Identifier: Apache-2.0
"""Charts: their numbers and descriptions; they do not change global state."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from surgseg_ros.reports.pages import (
    Bar,
    class_bars,
    class_colour,
    confidence_plot,
    data_sheet,
    time_bars,
)
from surgseg_ros.reports.timeline import Curve, Panel, Row, timeline

BAR = Bar('1080p <one>', {'parse': 0.5, 'network': 20.25}, {'p95': 30.04})
KINDS = {'parse': ('#c44e52', 'parse'), 'network': ('#4c72b0', 'network & argmax')}


def bars(*values):
    return class_bars((1, 2), {'an <IoU>': (values, (0.0, 0.5)), 'NSD': ((None, 1.0), None)})


def test_values_are_written_and_described_and_unknown_ones_are_a_dash():
    drawn = bars(0.256, None)
    texts = re.findall('<text [^>]*>(.*?)</text>', drawn)
    assert {'an &lt;IoU&gt;', 'tool clasper', 'tool wrist', '0.26', '–'} <= set(texts)  # noqa: RUF001
    assert '<desc>an &lt;IoU&gt;: tool clasper 0.26. NSD: tool wrist 1.00.</desc>' in drawn
    assert '<IoU>' not in drawn


def test_the_length_of_a_bar_is_its_value():
    widths = []
    for value in (0.25, 0.5):
        (path,) = re.findall(r'<path d="([^"]*)"[^>]*fill: #66ccee', bars(value, None))
        widths.append(np.ptp(np.array(re.findall(r'[ML] (\S+) ', path), float)))
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.05)


def test_charts_are_reproducible_whatever_the_settings_of_matplotlib():
    first = bars(0.5, 0.75)
    with mpl.rc_context({'font.size': 30, 'axes.facecolor': 'red', 'svg.fonttype': 'path'}):
        assert bars(0.5, 0.75) == first
        assert mpl.rcParams['font.size'] == 30
    assert not re.search(r'\d{4}-\d\d-\d\d', first), 'no date'


def test_charts_on_a_page_have_no_conflicting_ids():
    rng = np.random.default_rng(0)
    charts = [bars(0.5, 0.75), bars(0.1, None), confidence_plot(*rng.random((2, 9)))]
    for values in rng.random((2, 50)):
        curve, row = Curve('IoU', values, 'red'), Row('class', [(values, 'blue')])
        charts.append(timeline(np.arange(50.0), [Panel('score', 80, [curve])], [row], '', 'frame'))
    page = ElementTree.fromstring(f'<page xmlns:xlink="links">{"".join(charts)}</page>')
    named = {}
    for element in page.iter():
        if name := element.get('id'):
            content = [(part.tag, part.attrib) for part in element.iter()]
            assert named.setdefault(name, content) == content
    assert len(named) > 5
    assert not page.findall('.//style')


def test_pyplot_is_not_used():
    script = 'import sys, surgseg_ros.reports.timeline; print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'matplotlib.figure' in run.stdout.split()
    assert 'matplotlib.pyplot' not in run.stdout.split()


def test_times_are_written_to_their_own_file():
    root = ElementTree.fromstring(time_bars('Stages', 'on P & Q', [BAR], KINDS))
    assert root.tag == '{http://www.w3.org/2000/svg}svg'
    texts = {element.text for element in root.iter('{http://www.w3.org/2000/svg}text')}
    assert {'1080p <one>', '20.8 ms (p95 30.0)', 'parse 0.50, network 20.25'} <= texts
    assert {'Stages', 'on P & Q', 'parse', 'network & argmax', 'ms'} <= texts
    (description,) = root.iter('{http://www.w3.org/2000/svg}desc')
    assert description.text == 'In ms. 1080p <one>: parse 0.50, network 20.25.'


@pytest.mark.parametrize('frames', [1, 2_000])
def test_chart_of_confidence_and_iou(frames):
    confidence = np.linspace(0.8, 0.99, frames)
    drawn = confidence_plot(confidence, confidence - 0.1)
    assert f'{frames} frames' in drawn
    assert ('correlation 1.00' in drawn) == (frames > 1)
    assert '>0.800</text>' in drawn
    assert len(drawn) < 30_000


def sheet_of(*content):
    return cv2.imdecode(np.frombuffer(data_sheet(*content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_data_sheet_has_all_images_unscaled():
    shares = np.linspace(0, 1, 10)
    empty = sheet_of(shares, shares, 0, [])
    images = [(f'video_{n}', np.full((30 + n, 400, 3), 10 + n, np.uint8)) for n in range(5)]
    sheet = sheet_of(shares, shares, 5, images)
    assert (sheet.dtype, sheet.shape[1:], empty.shape[1:]) == (np.uint8, (1600, 3), (1600, 3))
    for number, (_, image) in enumerate(images):
        below = sheet[len(empty) :, number % 4 * 400 : (number % 4 + 1) * 400]
        assert (below == image[0, 0]).all(2).sum() == image.shape[0] * 400, number


def test_the_length_of_a_bar_of_a_data_sheet_is_its_fraction():
    widths = []
    for share in (0.25, 0.5):
        sheet = sheet_of(np.zeros(10), [0.0] * 4 + [share] + [0.0] * 5, 5, [])
        colour = [int(class_colour(4)[at : at + 2], 16) for at in (1, 3, 5)]
        widths.append(np.ptp(np.nonzero((sheet == colour).all(2))[1]))
    assert widths[1] == pytest.approx(2 * widths[0], abs=3)

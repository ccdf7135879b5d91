# SPDX-License-Identifier: Apache-2.0
"""The margin of a class: it suppresses stray pixels, unless that lowers the score."""

import numpy as np

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.evaluation.calibration import MinimumMargins


def frame(stray_lead, true_lead=3.0):
    """Make class 3 and one stray pixel of class 6, with these leads over the background."""
    truth = np.zeros((20, 20), np.uint8)
    truth[:5] = 3
    truth[-1] = NO_DECISION
    logits = np.zeros((10, 20, 20), np.float32)
    logits[0] = 5
    logits[3, :5] = 5 + true_lead
    logits[6, 10, 10] = 5 + stray_lead
    logits[6, -1] = 50  # in the padding, which is ignored
    return truth, logits


def test_a_stray_pixel_sets_only_the_margin_of_its_class():
    margins = MinimumMargins()
    for lead in (0.3, 0.6, 0.9):
        margins.add(*frame(lead))
    assert margins.tune() == (0.0,) * 6 + (1.0,) + (0.0,) * 3


def test_no_margin_that_lowers_the_score_of_its_class():
    margins = MinimumMargins()
    truth, logits = frame(0.6, true_lead=0.5)  # uncertain, but right …
    margins.add(truth, logits)
    for _ in range(2):
        margins.add(np.zeros_like(truth), logits)  # … and uncertain, and wrong
    assert margins.tune()[3] == 0.0


def test_applying_the_margin_to_logits_gives_the_tabulated_counts():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, (30, 30)).astype(np.uint8)
    logits = rng.normal(size=(10, 30, 30)).astype(np.float32)
    margins = MinimumMargins()
    margins.add(truth, logits)
    shifted = logits.copy()
    shifted[4] -= 0.75
    kept = shifted.argmax(0) == 4
    assert margins._area[0][4, 3] == kept.sum()
    assert margins._shared[0][4, 3] == (kept & (truth == 4)).sum()

# SPDX-License-Identifier: Apache-2.0
"""Hides flickering classes, shows lasting or confident ones, and resets at a new view."""

import numpy as np
import pytest

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.postprocessing import Filtered, TemporalFilter
from surgseg_ros.core.segmentation import Segmentation

VIEW = np.random.default_rng(0).integers(60, 200, (90, 120, 3), np.uint8)
STEP_NS = 33_000_000


def uniform(label: int, confidence: int = 150, size: tuple[int, int] = (90, 120)) -> Segmentation:
    return Segmentation(np.full(size, label, np.uint8), np.full(size, confidence, np.uint8))


def follow(temporal_filter: TemporalFilter, labels: list[int], confidence: int = 150) -> list[int]:
    shown = []
    for index, label in enumerate(labels):
        found = temporal_filter.apply(VIEW, uniform(label, confidence), index * STEP_NS)
        assert (found.filtered.mask == found.filtered.mask[0, 0]).all()
        assert (found.raw.mask == label).all()
        shown.append(int(found.filtered.mask[0, 0]))
    return shown


def test_shows_a_class_after_it_has_lasted() -> None:
    assert follow(TemporalFilter(3), [0, 3, 3, 3, 3]) == [0, 0, 0, 3, 3]


def test_hides_a_flickering_class() -> None:
    assert follow(TemporalFilter(3), [0, 3, 3, 0, 3, 3, 0]) == [0] * 7


def test_another_class_in_between_resets_the_duration() -> None:
    assert follow(TemporalFilter(3), [0, 3, 4, 3, 3, 3]) == [0, 0, 0, 0, 0, 3]


def test_shows_a_confident_class_threshold() -> None:
    assert follow(TemporalFilter(3, threshold=0.8), [0, 3, 0], confidence=204) == [0, 3, 0]
    assert follow(TemporalFilter(3, threshold=0.8), [0, 3, 0], confidence=203) == [0, 0, 0]
    assert follow(TemporalFilter(3, threshold=1.1), [0, 3, 0], confidence=255) == [0, 0, 0]


def test_no_decision_is_shown_at_once_and_its_end_has_to_last() -> None:
    labels = [3, NO_DECISION, 3, 3, 3]
    assert follow(TemporalFilter(3), labels) == [3, NO_DECISION, NO_DECISION, NO_DECISION, 3]


def test_pixels_are_independent_at_any_size() -> None:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 3, (131, 77), np.uint8) for _ in range(30)]
    temporal_filter, shown, before = TemporalFilter(2), frames[0].copy(), frames[0]
    for index, raw in enumerate(frames):
        whole = Segmentation(raw, np.full_like(raw, 100))
        found = temporal_filter.apply(VIEW, whole, index)
        lasting = (raw == before) & (raw != shown)
        shown[lasting], before = raw[lasting], raw
        assert np.array_equal(found.filtered.mask, shown)


def test_a_kept_class_has_its_remaining_confidence() -> None:
    temporal_filter = TemporalFilter(3)
    temporal_filter.apply(VIEW, uniform(0, 240), 0)
    assert (temporal_filter.apply(VIEW, uniform(3, 180), 1).filtered.confidence == 75).all()
    assert (temporal_filter.apply(VIEW, uniform(4, 90), 2).filtered.confidence == 90).all()
    assert (temporal_filter.apply(VIEW, uniform(0, 200), 3).filtered.confidence == 200).all()


def test_returned_masks_are_not_modified_later() -> None:
    temporal_filter = TemporalFilter(2)
    raw = uniform(0)
    first = temporal_filter.apply(VIEW, raw, 0)
    second = temporal_filter.apply(VIEW, uniform(3), 1)
    temporal_filter.apply(VIEW, uniform(3), 2)
    assert not first.filtered.mask.any()
    assert not second.filtered.mask.any()
    assert not raw.mask.any()


def begin(temporal_filter: TemporalFilter) -> None:
    assert temporal_filter.apply(VIEW, uniform(0), 10**9).began == 'first'
    assert temporal_filter.apply(VIEW, uniform(0), 10**9 + STEP_NS).began == ''


def beginning(found: Filtered) -> str:
    """Return why the filter was reset, and check that nothing from before is shown."""
    assert np.array_equal(found.filtered.mask, found.raw.mask) == bool(found.began)
    return found.began


def test_another_size_resets_the_state() -> None:
    temporal_filter = TemporalFilter(3)
    begin(temporal_filter)
    found = temporal_filter.apply(VIEW[:80], uniform(3, size=(80, 120)), 10**9 + 2 * STEP_NS)
    assert beginning(found) == 'size'


@pytest.mark.parametrize(
    ('after_ns', 'began'), [(-1, 'stamp'), (0, ''), (10**8, ''), (10**9, 'stamp')]
)
def test_a_jump_of_stamps_resets_the_state(after_ns: int, began: str) -> None:
    temporal_filter = TemporalFilter(3, longest_gap_ns=5 * 10**8)
    begin(temporal_filter)
    assert beginning(temporal_filter.apply(VIEW, uniform(3), 10**9 + STEP_NS + after_ns)) == began


def test_a_cut_resets_the_state_and_motion_does_not() -> None:
    temporal_filter = TemporalFilter(3)
    begin(temporal_filter)
    moved = VIEW.copy()
    moved[20:50, 20:50] = 230
    assert beginning(temporal_filter.apply(moved, uniform(3), 10**9 + 2 * STEP_NS)) == ''
    cut = np.zeros_like(VIEW)
    cut[:, :60] = (150, 30, 30)
    assert beginning(temporal_filter.apply(cut, uniform(4), 10**9 + 3 * STEP_NS)) == 'cut'


def test_a_reset_clears_the_state() -> None:
    temporal_filter = TemporalFilter(3)
    begin(temporal_filter)
    temporal_filter.reset()
    assert beginning(temporal_filter.apply(VIEW, uniform(3), 10**9 + 2 * STEP_NS)) == 'first'


def test_without_confidence_no_class_is_confident() -> None:
    with pytest.raises(ValueError, match='segment with confidence=True'):
        TemporalFilter(3).apply(VIEW, Segmentation(np.zeros((90, 120), np.uint8)), 0)


@pytest.mark.parametrize(
    'wrong', [{'frames': 1}, {'frames': 61}, {'threshold': 0}, {'longest_gap_ns': 0}]
)
def test_rejects_invalid_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(wrong))} is'):
        TemporalFilter(**{'frames': 3, **wrong})

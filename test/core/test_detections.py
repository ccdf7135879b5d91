# SPDX-License-Identifier: Apache-2.0
import math

import cv2
import numpy as np
import pytest

from surgseg_ros.core.detections import (
    TIMES_OF_TOOL,
    Instrument,
    OrientedBox,
    find_instruments,
    without_decision,
)
from surgseg_ros.core.labels import (
    CLASPER,
    NEEDLE,
    NO_DECISION,
    ROBOTIC_TOOL,
    SHAFT,
    SUCTION,
    THREAD,
    WRIST,
)
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.synthetic import Scene

CORNERS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) / 2


def reference_instruments(
    mask: np.ndarray, confidence: np.ndarray, least_area_px: int
) -> list[Instrument]:
    """Find instruments with OpenCV, one region after the other."""
    found = []
    mask = np.where(np.isin(mask, (CLASPER, WRIST, SHAFT)), ROBOTIC_TOOL, mask).astype(np.uint8)
    for label in range(NEEDLE, ROBOTIC_TOOL + 1):
        count, regions = cv2.connectedComponents((mask == label).view(np.uint8), connectivity=8)
        for index in range(1, count):
            region = (regions == index).view(np.uint8)
            y, x = np.nonzero(region)
            corners = np.stack([x, y], 1)[:, None] + CORNERS
            center, sides, _ = cv2.minAreaRect(corners.reshape(-1, 2).astype(np.float32))
            box = OrientedBox(*center, max(sides), min(sides), math.nan)
            score = cv2.mean(confidence, region)[0] / 255
            minimum = least_area_px * (TIMES_OF_TOOL if label == ROBOTIC_TOOL else 1)
            if len(x) >= minimum:
                found.append(Instrument(label, score, box, len(x)))
    return found


def by_content(instrument: Instrument) -> tuple[float, ...]:
    area = instrument.box.size_x_px * instrument.box.size_y_px
    return (instrument.label, instrument.area_px, round(instrument.score, 9), round(area, 2))


def find(mask: np.ndarray, least_area: float = 0.0) -> tuple[Instrument, ...]:
    return find_instruments(Segmentation(mask, np.full(mask.shape, 204, np.uint8)), least_area)


def empty() -> np.ndarray:
    return np.zeros((120, 200), np.uint8)


SCENES = {
    'scene': Scene(6, (270, 480)).frame(3).mask,
    'scene of many things': Scene(2, (270, 480)).frame(0).mask,
}
MASKS = {
    'noise': np.random.default_rng(1).integers(0, 11, (40, 60), dtype=np.uint8) % 10,
    'specks': np.where(np.random.default_rng(2).random((90, 120)) < 0.1, THREAD, 0).astype('u1'),
}


@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
@pytest.mark.parametrize('least_area_px', [1, 6])
def test_finds_the_same_as_opencv(mask: np.ndarray, least_area_px: int) -> None:
    confidence = np.random.default_rng(0).integers(0, 256, mask.shape, dtype=np.uint8)
    found = find_instruments(Segmentation(mask, confidence), least_area_px / mask.size)
    expected = reference_instruments(mask, confidence, least_area_px)
    assert expected or least_area_px > 1
    pairs = zip(sorted(found, key=by_content), sorted(expected, key=by_content), strict=True)
    for one, other in pairs:
        assert by_content(one) == pytest.approx(by_content(other), rel=1e-4)
        # For a few pixels, the smallest rectangle is not unique, so its centre is not compared.
        if one.area_px >= 50:
            centres = [(i.box.center_x_px, i.box.center_y_px) for i in (one, other)]
            assert centres[0] == pytest.approx(centres[1], abs=1e-3)


@pytest.mark.parametrize('mask', SCENES.values(), ids=SCENES)
def test_each_pixel_of_an_instrument_is_in_one_detection(mask: np.ndarray) -> None:
    seen = np.zeros_like(mask)
    for instrument in find(mask):
        for row, start, end in zip(*instrument.runs[1:]):
            assert not seen[row, start:end].any()
            seen[row, start:end] = instrument.label
    tool = np.isin(mask, (CLASPER, WRIST, SHAFT))
    np.testing.assert_array_equal(seen, np.where(tool, ROBOTIC_TOOL, mask))


def test_touching_parts_are_one_tool_and_separate_tools_are_two() -> None:
    mask = empty()
    mask[10:20, 0:30], mask[10:20, 30:40], mask[20:30, 40:50] = SHAFT, WRIST, CLASPER
    mask[60:70, 100:130] = SHAFT
    assert [(i.label, i.area_px) for i in find(mask)] == [(ROBOTIC_TOOL, 500), (ROBOTIC_TOOL, 300)]


def test_a_needle_that_touches_a_clasper_is_a_separate_instrument() -> None:
    mask = empty()
    mask[10:20, 10:20], mask[10:20, 20:30] = CLASPER, NEEDLE
    assert [i.label for i in find(mask)] == [NEEDLE, ROBOTIC_TOOL]


def test_a_region_inside_a_ring_of_its_class_is_a_separate_instrument() -> None:
    mask = empty()
    cv2.circle(mask, (60, 60), 40, SUCTION, 5)
    mask[58:63, 58:63] = SUCTION
    areas = [i.area_px for i in find(mask)]
    assert sorted(areas)[0] == 25
    assert sum(areas) == np.count_nonzero(mask)


def test_min_area_is_a_fraction_of_the_image() -> None:
    mask = empty()
    mask[0, :24], mask[9, :23] = THREAD, THREAD
    assert [i.area_px for i in find(mask, least_area=24 / mask.size)] == [24]


def test_min_area_of_robotic_tools_is_larger() -> None:
    mask = empty()
    mask[0, :49], mask[110, 140:190], mask[20, :10] = CLASPER, CLASPER, NEEDLE
    found = find(mask, least_area=10 / mask.size)
    assert [(i.label, i.area_px) for i in found] == [(NEEDLE, 10), (ROBOTIC_TOOL, 50)]
    assert len(find(mask)) == 3


def test_score_is_the_mean_confidence_over_the_region() -> None:
    mask, confidence = empty(), np.full((120, 200), 255, np.uint8)
    mask[10:20, 10:20] = NEEDLE
    confidence[10:15, 10:20], confidence[15:20, 10:20] = 51, 153
    (needle,) = find_instruments(Segmentation(mask, confidence), 0.0)
    assert needle.score == pytest.approx(102 / 255)


def test_empty_mask_has_no_detections() -> None:
    assert find(empty()) == ()
    assert find(np.full((120, 200), NO_DECISION, np.uint8)) == ()


@pytest.mark.parametrize('degrees', [-80, -45, -30, 0, 10, 45, 60, 90])
def test_box_of_a_rotated_rectangle(degrees: float) -> None:
    mask = np.zeros((600, 600), np.uint8)
    y, x = np.mgrid[:600, :600] - np.array([310.0, 290.0])[:, None, None]
    angle = math.radians(degrees)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    mask[(np.abs(along) <= 100) & (np.abs(across) <= 20)] = SUCTION
    (found,) = find(mask)
    box = found.box
    assert (box.center_x_px, box.center_y_px) == pytest.approx((290, 310), abs=0.5)
    # A pixel extends up to its diagonal beyond the ideal rectangle.
    assert box.size_x_px == pytest.approx(201, abs=1.5)
    assert box.size_y_px == pytest.approx(41, abs=1.5)
    turned = (box.angle_rad - angle + math.pi / 2) % math.pi - math.pi / 2
    assert abs(turned) < math.radians(0.5)
    assert -math.pi / 2 < box.angle_rad <= math.pi / 2


@pytest.mark.parametrize(
    ('rows', 'columns', 'box'),
    [
        (slice(7, 8), slice(9, 10), OrientedBox(9, 7, 1, 1, 0)),
        (slice(0, 120), slice(0, 200), OrientedBox(99.5, 59.5, 200, 120, 0)),
        (slice(0, 1), slice(150, 200), OrientedBox(174.5, 0, 50, 1, 0)),
        (slice(100, 120), slice(199, 200), OrientedBox(199, 109.5, 20, 1, math.pi / 2)),
        (slice(20, 30), slice(40, 50), OrientedBox(44.5, 24.5, 10, 10, 0)),
    ],
)
def test_box_contains_whole_pixels(rows: slice, columns: slice, box: OrientedBox) -> None:
    mask = empty()
    mask[rows, columns] = NEEDLE
    (found,) = find(mask)
    assert vars(found.box) == pytest.approx(vars(box), abs=1e-4)


def test_order_is_by_label_then_from_left_to_right() -> None:
    mask = empty()
    mask[5:9, 150:160] = THREAD
    mask[90:99, 10:20] = THREAD
    mask[50:55, 100:110] = NEEDLE
    assert [(i.label, i.box.center_x_px) for i in find(mask)] == [
        (NEEDLE, 104.5),
        (THREAD, 14.5),
        (THREAD, 154.5),
    ]


def test_accepts_views_of_arrays() -> None:
    wide = np.zeros((120, 300), np.uint8)
    wide[20:30, 50:70] = NEEDLE
    view = wide[:, 40:240]
    view.flags.writeable = False
    assert find(view) == find(view.copy())


def test_error_for_missing_confidence_names_the_remedy() -> None:
    with pytest.raises(ValueError, match='grid_confidence=True'):
        find_instruments(Segmentation(empty()))


def test_no_decision_is_one_detection_of_the_whole_image_with_score_0() -> None:
    (unknown,) = without_decision((1080, 1920))
    box = OrientedBox(959.5, 539.5, 1920, 1080, 0)
    assert unknown == Instrument(NO_DECISION, 0.0, box, 1080 * 1920)


@pytest.mark.parametrize('roi', [Roi(0, 0, 480, 270), Roi(64, 30, 320, 180)])
def test_scores_from_the_grid_are_close_to_scores_from_the_pixels(roi: Roi) -> None:
    """A pixel has the confidence of its grid point, not a mean of four."""
    mask = np.full((270, 480), NO_DECISION, np.uint8)
    roi.view(mask)[:] = roi.view(Scene(6, (270, 480)).frame(3).mask)
    rough = np.random.default_rng(0).uniform(100, 255, (7, 12)).astype(np.float32)
    grid = cv2.resize(rough, (160, 90), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype('u1')
    certain = find_instruments(Segmentation(mask, None, grid_confidence=GridConfidence(grid, roi)))
    confidence = np.zeros((270, 480), np.uint8)
    roi.view(confidence)[:] = cv2.resize(grid, (roi.width_px, roi.height_px))
    sure = find_instruments(Segmentation(mask, confidence))
    assert len(certain) > 2
    assert [(i.label, i.area_px, i.box) for i in certain] == [
        (i.label, i.area_px, i.box) for i in sure
    ]
    assert max(abs(ours.score - theirs.score) for ours, theirs in zip(certain, sure)) < 0.01


def test_a_grid_of_full_resolution_gives_the_same_scores() -> None:
    mask = SCENES['scene']
    confidence = np.random.default_rng(0).integers(0, 256, mask.shape, dtype=np.uint8)
    whole = GridConfidence(confidence, Roi(0, 0, mask.shape[1], mask.shape[0]))
    other = np.zeros_like(confidence)
    assert find_instruments(Segmentation(mask, other, grid_confidence=whole)) == find_instruments(
        Segmentation(mask, confidence)
    )


def test_sum_of_a_run_is_the_sum_of_the_grid_points_of_its_pixels() -> None:
    grid = np.random.default_rng(0).integers(0, 256, (3, 5), dtype=np.uint8)
    grid_confidence = GridConfidence(grid, Roi(7, 4, 20, 12))  # a point covers four by four pixels
    full = np.zeros((16, 27), int)
    full[4:, 7:] = np.kron(grid, np.ones((4, 4), int))
    rows, starts, ends = np.array(
        [(y, a, b) for y in (4, 9, 15) for a in (7, 12) for b in (13, 27)]
    ).T
    expected = [full[y, a:b].sum() for y, a, b in zip(rows, starts, ends)]
    assert np.allclose(grid_confidence.sum_runs(rows, starts, ends), expected)


def test_instruments_below_the_minimum_score_are_left_out():
    mask, confidence = np.zeros((40, 60), np.uint8), np.full((40, 60), 204, np.uint8)
    mask[5:15, 5:25], mask[25:35, 5:25] = NEEDLE, THREAD
    confidence[25:35] = 153
    segmentation = Segmentation(mask, confidence)
    scores = [i.score for i in find_instruments(segmentation)]
    assert sorted(scores) == pytest.approx([0.6, 0.8])
    for minimum, count in ((0.0, 2), (min(scores), 2), (0.7, 1), (1.0, 0)):
        kept = find_instruments(segmentation, min_score=minimum)
        assert [i.score for i in kept] == [score for score in scores if score >= minimum]
        assert len(kept) == count

# SPDX-License-Identifier: Apache-2.0
"""Instruments keep their ids from image to image."""

import dataclasses

import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, find, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core.detections import without_decision
from surgseg_ros.core.labels import CLAMPS, HOLDER, NEEDLE, ROBOTIC_TOOL, SUCTION
from surgseg_ros.core.track_observations import MAX_TRACKED
from surgseg_ros.core.tracking import LONGEST_GAP_NS, Tracker
from surgseg_ros.synthetic import Scene

MS = 10**6
STEP_MS = 33


def ids(tracker, mask, at_ms, label=None):
    """Track the instruments of a mask; return the ids from left to right."""
    found = tracker.update(find(mask), mask.shape, at_ms if at_ms is None else 10**9 + at_ms * MS)
    return [i.track_id for i in found if label in (None, i.label)]


def rod(x, y=40, label=SUCTION):
    return bar(empty(), (x, -10), (x, y + 90), 24, label)


def test_ids_count_from_one_and_stay_while_instruments_move():
    tracker = Tracker()
    for number in range(20):
        mask = rod(60 + 6 * number) | rod(380 - 3 * number)
        assert ids(tracker, mask, number * STEP_MS) == [1, 2]


def test_a_later_instrument_has_the_next_id():
    tracker = Tracker()
    assert ids(tracker, rod(60), 0) == [1]
    assert ids(tracker, rod(60) | rod(300), 33) == [1, 2]
    assert ids(tracker, rod(61) | rod(200) | rod(300), 66) == [1, 3, 2]


@pytest.mark.parametrize('step_ms', [33, 100])
def test_crossing_tools_keep_their_ids(step_ms):
    """One tool swings over the other: in the middle, their tips have changed sides."""
    tracker = Tracker()
    for at_ms in range(0, 1501, step_ms):
        swing = 300 * at_ms / 1500
        mask = tool(empty(), (80, 290), (90 + swing, 60))
        tool(mask, (400, 290), (390 - swing, 40))
        found = tracker.update(find(mask), SIZE, 10**9 + at_ms * MS)
        numbers = {
            side: i.track_id
            for i in found
            for side, entry in ((1, 80), (2, 400))
            if i.label == ROBOTIC_TOOL and abs(i.parts.shafts[0].strip.start[0] - entry) < 60
        }
        assert numbers == {1: 1, 2: 2}, at_ms


@pytest.mark.parametrize(('away_ms', 'expected'), [(400, 1), (500, 1), (600, 2)])
def test_a_hidden_instrument_keeps_its_id_for_half_a_second(away_ms, expected):
    tracker = Tracker()
    for at_ms in range(0, 300, 20):
        assert ids(tracker, rod(100 + at_ms // 10), at_ms) == [1]
    for at_ms in range(300, 280 + away_ms, 20):
        assert ids(tracker, empty(), at_ms) == []
    back_ms = 280 + away_ms
    assert ids(tracker, rod(100 + back_ms // 10), back_ms) == [expected]


@pytest.mark.parametrize(
    ('lost_ms', 'away_ms', 'expected'),
    [(500, 2000, 1), (500, 5100, 2), (200, 1900, 1), (0, 40, 2)],
)
def test_an_instrument_that_another_one_covers_keeps_its_id_ten_times_as_long(
    lost_ms, away_ms, expected
):
    tracker, cover = Tracker(lost_ms), bar(empty(), (100, -10), (100, 280), 60, HOLDER)
    for at_ms in range(0, 200, 20):
        assert ids(tracker, rod(100), at_ms, SUCTION) == [1]
    for at_ms in range(200, 180 + away_ms, 20):
        assert ids(tracker, cover, at_ms, SUCTION) == []
    assert ids(tracker, rod(100), 180 + away_ms, SUCTION) == [expected + (expected > 1)]


@pytest.mark.parametrize('interval_ms', [20, 300, 667, 1000])
def test_a_covered_instrument_keeps_its_id_at_any_rate(interval_ms):
    tracker, cover = Tracker(), bar(empty(), (100, -10), (100, 280), 60, HOLDER)
    for at_ms in (0, interval_ms):
        assert ids(tracker, rod(100), at_ms, SUCTION) == [1]
    back_ms = interval_ms + 4000 // interval_ms * interval_ms
    for at_ms in range(2 * interval_ms, back_ms, interval_ms):
        ids(tracker, cover, at_ms)
    assert ids(tracker, rod(100), back_ms, SUCTION) == [1]


@pytest.mark.parametrize('speed', [0, 0.05])
def test_a_covered_instrument_does_not_give_its_id_to_another_one_elsewhere(speed):
    tracker, cover = Tracker(), bar(empty(), (100, -10), (100, 280), 60, HOLDER)
    for at_ms in range(0, 200, 20):
        assert ids(tracker, rod(100 + int(speed * at_ms)), at_ms, SUCTION) == [1]
    for at_ms in range(200, 4200, 20):
        ids(tracker, cover, at_ms)
    other = bar(cover.copy(), (200, 60), (260, 60), 14, SUCTION)
    assert 1 not in ids(tracker, other, 4200, SUCTION)


def clips(*positions):
    """Draw clips, from left to right."""
    mask = empty()
    for x in positions:
        bar(mask, (x, 100), (x, 108), 4, CLAMPS)
    return mask


@pytest.mark.parametrize(
    ('before', 'after', 'expected'),
    [
        ([100], [110], [1]),
        ([100], [116], [3]),
        ([100, 120], [110], [4]),  # either could be it
        ([100], [109, 124], [3, 4]),
        ([100, 180], [110, 190], [1, 2]),
    ],
)
def test_an_instrument_that_was_covered_may_have_moved_beside_its_place(before, after, expected):
    tracker, cover = Tracker(), bar(empty(), (-10, 104), (490, 104), 40, HOLDER)
    for at_ms in range(0, 200, 20):
        ids(tracker, clips(*before), at_ms)
    for at_ms in range(200, 2000, 20):
        ids(tracker, cover, at_ms)
    assert ids(tracker, clips(*after), 2000, CLAMPS) == expected


def test_an_instrument_that_is_covered_for_a_time_is_lost_when_its_place_is_seen():
    tracker, cover = Tracker(), bar(empty(), (100, -10), (100, 280), 60, HOLDER)
    for at_ms in range(0, 200, 20):
        assert ids(tracker, rod(100), at_ms, SUCTION) == [1]
    for at_ms in range(200, 1200, 20):
        ids(tracker, cover, at_ms)
    for at_ms in range(1200, 1800, 20):
        ids(tracker, empty(), at_ms)
    assert ids(tracker, rod(100), 1800, SUCTION) == [3]


def test_with_a_maximum_of_0_one_missing_image_ends_a_track():
    tracker = Tracker(0)
    masks = rod(9), rod(9), empty(), rod(9)
    assert [ids(tracker, mask, at_ms) for at_ms, mask in enumerate(masks)] == [[1], [1], [], [2]]


def test_images_without_decision_count_as_hidden():
    tracker = Tracker()
    assert ids(tracker, rod(100), 0) == [1]
    for at_ms in (100, 200, 300, 400):
        (unknown,) = tracker.update(without_decision(SIZE), SIZE, 10**9 + at_ms * MS)
        assert unknown.track_id == 0
    assert ids(tracker, rod(100), 450) == [1]
    for at_ms in range(500, 1100, 100):
        tracker.update(without_decision(SIZE), SIZE, 10**9 + at_ms * MS)
    assert ids(tracker, rod(100), 1100) == [2]


def test_motion_is_computed_from_stamps_so_that_the_rate_may_change():
    """Two similar instruments at constant speed, 100 pixels from one image to the next."""
    tracker = Tracker()
    for at_ms in (0, 33, 66, 100, 133, 166, 200, 500, 533, 566, 900, 933, 966, 1000):
        mask = rod(30 + 0.3 * at_ms) | rod(130 + 0.3 * at_ms)
        assert ids(tracker, mask, at_ms) == [1, 2], at_ms


def test_distant_instruments_and_other_classes_are_never_matched():
    tracker = Tracker()
    assert ids(tracker, rod(30), 0) == [1]
    assert ids(tracker, rod(440), 33) == [2]
    assert ids(tracker, rod(440, label=HOLDER), 66) == [3]
    assert ids(tracker, rod(440), 100) == [2], 'back with its class and its id'


def test_the_larger_piece_of_a_split_instrument_keeps_the_id():
    tracker = Tracker()
    whole = bar(empty(), (100, 130), (340, 130), 8, CLAMPS)
    cut = whole.copy()
    cut[:, 240:250] = 0
    for at_ms in range(0, 1000, 33):
        assert ids(tracker, whole, at_ms, CLAMPS) == [1]
    for at_ms in range(1000, 1200, 33):
        assert ids(tracker, cut, at_ms, CLAMPS) == [1, 2]
    for at_ms in range(1200, 1400, 33):
        assert ids(tracker, whole, at_ms, CLAMPS) == [1]


def test_the_larger_piece_keeps_the_id_although_the_smaller_one_is_nearer_to_the_middle():
    tracker = Tracker()
    whole = bar(empty(), (100, 130), (340, 130), 8, CLAMPS)
    cut = bar(bar(empty(), (100, 130), (210, 130), 8, CLAMPS), (225, 130), (250, 130), 8, CLAMPS)
    for at_ms in range(0, 330, 33):
        assert ids(tracker, whole, at_ms, CLAMPS) == [1]
    assert ids(tracker, cut, 330, CLAMPS) == [1, 2]


def test_of_two_pieces_that_become_one_the_older_gives_its_id_although_it_is_smaller():
    tracker = Tracker()
    first = bar(empty(), (100, 130), (200, 130), 8, CLAMPS)
    for at_ms in range(0, 990, 33):
        assert ids(tracker, first, at_ms) == [1]
    both = bar(first.copy(), (210, 130), (340, 130), 8, CLAMPS)
    for at_ms in range(990, 1485, 33):
        assert ids(tracker, both, at_ms) == [1, 2]
    assert ids(tracker, bar(first, (100, 130), (340, 130), 8, CLAMPS), 1485) == [1]


@pytest.mark.parametrize('at_ms', [-1, -5000, LONGEST_GAP_NS // MS + 1], ids=str)
def test_a_stamp_that_goes_backward_and_a_long_gap_end_all_tracks(at_ms):
    tracker = Tracker()
    assert ids(tracker, rod(30) | rod(200), 0) == [1, 2]
    assert ids(tracker, rod(30) | rod(200), at_ms) == [3, 4]


@pytest.mark.parametrize('stamps', [(None,) * 9, (0,) * 9, (5, 5, 6, 6, 7, 7)])
def test_without_stamps_or_with_equal_ones_images_are_consecutive(stamps):
    tracker = Tracker()
    for number, stamp in enumerate(stamps):
        assert ids(tracker, rod(60 + 5 * number), stamp) == [1]


def test_another_size_and_end_tracks_start_new_tracks():
    tracker = Tracker()
    assert ids(tracker, rod(30), 0) == [1]
    assert ids(tracker, rod(30)[:, :400].copy(), 33) == [2]
    tracker.end_tracks()
    assert ids(tracker, rod(30)[:, :400].copy(), 66) == [3]


def test_in_a_mask_of_noise_the_largest_instruments_are_tracked():
    tracker, rng = Tracker(), np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 10, (45, 80), dtype=np.uint8)
        found = tracker.update(find(noise), noise.shape, 10**9 + number * 10 * MS)
        tracked = [i for i in found if i.track_id]
        assert len(found) > 2 * len(tracked) == 2 * MAX_TRACKED
        smallest = min(i.area_px for i in tracked)
        assert all(i.area_px <= smallest for i in found if not i.track_id)
        assert len({i.track_id for i in tracked}) == MAX_TRACKED
    assert len(tracker._tracks.numbers) <= 3 * MAX_TRACKED, 'including those of the last image'


steps = st.lists(
    st.tuples(
        st.integers(-100, 900),  # milliseconds from the image before
        st.lists(st.tuples(st.integers(0, 479), st.sampled_from((SUCTION, NEEDLE))), max_size=4),
        st.booleans(),  # whether all tracks end
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(steps)
def test_an_id_has_one_class_is_unique_in_an_image_and_is_never_reused(images):
    tracker, at_ms = Tracker(), 10_000
    classes, ended = {}, set()
    for step_ms, drawn, ends in images:
        at_ms += step_ms
        if ends:
            tracker.end_tracks()
        if ends or step_ms < 0:
            ended |= classes.keys()
        mask = empty()
        for x, label in drawn:
            mask |= np.where(mask, 0, rod(x, label=label)).astype(np.uint8)
        found = tracker.update(find(mask), SIZE, at_ms * MS)
        numbers = [i.track_id for i in found]
        assert len(set(numbers)) == len(numbers)
        assert not set(numbers) & ended
        assert set(numbers) - classes.keys() <= set(range(len(classes) + 1, len(classes) + 9))
        for instrument in found:
            assert classes.setdefault(instrument.track_id, instrument.label) == instrument.label


def true_instruments(frame):
    """Find the largest piece of each true instrument, by its number."""
    found = []
    for number in set(np.unique(frame.instances).tolist()) - {0}:
        own = np.where(frame.instances == number, frame.mask, 0).astype(np.uint8)
        found.append((number, max(find(own), key=lambda i: i.area_px)))
    return [(number, i) for number, i in found if i.area_px > 20]


@pytest.mark.parametrize('seed', [7_000_005, 7_000_009])
def test_ids_of_the_ground_truth_of_a_scene_do_not_switch(seed):
    scene, tracker, last, mirrored = Scene(seed, (135, 240)), Tracker(), {}, Tracker()
    for index in range(12):
        truth = true_instruments(scene.frame(index))
        found = tracker.update([i for _, i in truth], (135, 240), 10**9 + index * 66 * MS)
        for (number, _), instrument in zip(truth, found):
            assert last.setdefault(number, instrument.track_id) == instrument.track_id
        turned = [dataclasses.replace(i, **mirror(i)) for _, i in truth]
        again = mirrored.update(turned, (135, 240), 10**9 + index * 66 * MS)
        assert [i.track_id for i in again] == [i.track_id for i in found]


def mirror(instrument):
    """Exchange left and right."""
    box, runs, width = instrument.box, instrument.runs, 240
    turned = dataclasses.replace(
        box, center_x_px=width - 1 - box.center_x_px, angle_rad=-box.angle_rad
    )
    rows = runs._replace(starts=width - runs.ends, ends=width - runs.starts)
    order = np.lexsort((rows.starts, rows.rows))
    return {'box': turned, 'runs': rows.take(order), 'parts': None}

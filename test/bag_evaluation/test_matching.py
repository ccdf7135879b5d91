# SPDX-License-Identifier: Apache-2.0
"""Truths are matched to images by unambiguous stamps; all others are counted."""

from surgseg_ros.bag_evaluation.bag_scan import match


def test_equal_stamps_match_in_any_order():
    assert match([10, 20, 30], [30, 10]) == ({2: 0, 0: 1}, 0, 0)


def test_without_a_tolerance_only_equal_stamps_match():
    assert match([10, 20], [11, 20]) == ({1: 1}, 1, 0)


def test_within_the_tolerance_the_nearest_pairs_are_matched_first():
    # The truth at 14 is nearest to 13; that at 16 then gets the remaining image in tolerance.
    assert match([10, 13], [14, 16], tolerance_ns=6) == ({1: 0, 0: 1}, 0, 0)
    assert match([10, 13], [14, 16], tolerance_ns=3) == ({1: 0}, 1, 0)


def test_of_two_equally_near_stamps_the_earlier_is_matched():
    assert match([100], [110, 90], tolerance_ns=10) == ({0: 1}, 1, 0)
    assert match([90, 110], [100], tolerance_ns=10) == ({0: 0}, 0, 0)


def test_a_stamp_of_zero_matches_nothing():
    assert match([0, 10], [0, 10]) == ({1: 1}, 0, 1)
    assert match([0], [1], tolerance_ns=5) == ({}, 0, 1)


def test_a_stamp_of_several_images_or_several_truths_is_ambiguous():
    assert match([10, 10, 20], [10, 20]) == ({2: 1}, 0, 1)
    assert match([10, 20], [10, 10, 20]) == ({1: 2}, 0, 2)
    assert match([10, 10], [10, 10]) == ({}, 0, 2)


def test_stamps_that_go_backward_are_matched():
    assert match([30, 10, 20], [10, 20, 30]) == ({0: 2, 1: 0, 2: 1}, 0, 0)


def test_messages_without_a_stamp_match_nothing():
    assert match([None, 10], [None, 10]) == ({1: 1}, 1, 0)

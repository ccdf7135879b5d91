# SPDX-License-Identifier: Apache-2.0
"""Which message belongs to which image: by stamp, and only where that leaves no doubt."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

Stamps = Sequence[int | None]
"""Nanoseconds in order of receipt; None where a message holds no stamp."""


class Matching(NamedTuple):
    """
    What belongs to what.

    :param of_image: place of an image to that of the message which belongs to it.
    :param unmatched: messages for whose stamp there is no image.
    :param ambiguous: messages of which a stamp does not tell where they belong.
    """

    of_image: dict[int, int]
    unmatched: int
    ambiguous: int


def match(images: Stamps, others: Stamps, tolerance_ns: int = 0) -> Matching:
    """
    Match messages with images by their stamps; the order of receipt plays no part.

    A stamp of zero means in ROS that there is none. Of several images with the same stamp (a
    recording that was begun again, a driver that repeats itself) none can be told from the others,
    nor can several messages with the same one. Such are left alone, and counted. Of what is left
    the nearest pairs are taken first, each image and each message once; of two as near, the
    earlier image and then the earlier message.

    :param images: stamps of the images.
    :param others: stamps of the messages that belong to them.
    :param tolerance_ns: greatest distance in time.
    :return: the matching.
    """
    image_at, dubious = _clear(images)
    other_at, own_dubious = _clear(others)
    free = sorted(image_at)
    pairs = sorted(
        (abs(stamp - near), near, stamp)
        for stamp in other_at
        for near in _within(free, stamp, tolerance_ns)
    )
    of_image: dict[int, int] = {}
    taken: set[int] = set()
    for _, image, other in pairs:
        if image_at[image] not in of_image and other not in taken:
            of_image[image_at[image]] = other_at[other]
            taken.add(other)
    shunned = sorted(dubious)
    left = [stamp for stamp in other_at if stamp not in taken]
    near_dubious = sum(bool(_within(shunned, stamp, tolerance_ns)) for stamp in left)
    ambiguous = near_dubious + own_dubious.total()
    return Matching(of_image, len(others) - len(of_image) - ambiguous, ambiguous)


def _clear(stamps: Stamps) -> tuple[dict[int, int], Counter[int]]:
    """Find the places of the stamps that stand for one message, and how often the others occur."""
    known = Counter(stamp for stamp in stamps if stamp is not None)
    dubious = Counter({stamp: n for stamp, n in known.items() if n > 1 or stamp == 0})
    places = {
        stamp: place
        for place, stamp in enumerate(stamps)
        if stamp is not None and stamp not in dubious
    }
    return places, dubious


def _within(ordered: Sequence[int], stamp: int, tolerance_ns: int) -> Sequence[int]:
    first = bisect_left(ordered, stamp - tolerance_ns)
    return ordered[first : bisect_right(ordered, stamp + tolerance_ns)]

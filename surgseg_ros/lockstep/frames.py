# SPDX-License-Identifier: Apache-2.0
"""From a bag's images to the network's answers, step by step, as the node does it."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.core.detections import Instrument, find_instruments, without_decision
from surgseg_ros.core.failures import describe
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.lockstep.options import Options
from surgseg_ros.lockstep.survey import told
from surgseg_ros.lockstep.tally import count_values
from surgseg_ros.messages.errors import ImageError, ImageWarning
from surgseg_ros.messages.images import image_from_msg
from surgseg_ros.messages.received import mask_from_msg, read_image, read_stamp

Times = Mapping[str, float]


class Picture(NamedTuple):
    """An image that was read."""

    received_ns: int
    header: Any
    image: NDArray[np.uint8]
    ms: Times
    warnings: tuple[ImageWarning, ...] = ()


class Rejected(NamedTuple):
    """A message of the image topic that no picture can be made of."""

    received_ns: int
    stamp_ns: int | None
    cause: str
    text: str
    ms: Times


class Truth(NamedTuple):
    """A true mask, by the place of its image; None where it is none, and why."""

    place: int
    mask: NDArray[np.uint8] | None
    text: str = ''


class Lost(NamedTuple):
    """The end of what is whole in a damaged bag."""

    text: str


@dataclass(frozen=True)
class Answer:
    """
    What the node would publish of an image.

    :param received_ns: when the image was received.
    :param header: the image's.
    :param segmentation: with certainty; with confidence too, where it is to be written.
    :param pixels: (256,) how many of the mask have each value.
    :param instruments: what was found.
    :param ms: milliseconds by stage.
    :param failure: cause and text, where there is no decision.
    :param warnings: why the image is not to be trusted.
    """

    received_ns: int
    header: Any
    segmentation: Segmentation
    pixels: NDArray[np.int64]
    instruments: tuple[Instrument, ...]
    ms: Times
    failure: tuple[str, str] | None = None
    warnings: tuple[ImageWarning, ...] = ()


Aside = Rejected | Truth | Lost
"""What passes the network by."""


def decoded(
    path: Path, options: Options, image_of_truth: Mapping[int, int]
) -> Generator[Picture | Aside, None, None]:
    """
    Read a bag.

    :param path: the bag.
    :param options: which topics.
    :param image_of_truth: place of a truth to that of its image; the other truths are passed over.
    :return: every image in order, and the truths between them.
    """
    topics = [name for name in (options.image_topic, options.ground_truth_topic) if name]
    truths = 0
    with Bag(path) as bag:
        types = {name: bag.topics[name].type_name for name in topics}
        watch = Stopwatch()
        try:
            for topic, received_ns, cdr in bag.messages(topics):
                watch.lap('read')
                if topic == options.image_topic:
                    yield _picture(received_ns, cdr, types[topic], watch)
                else:
                    if truths in image_of_truth:
                        yield _truth(image_of_truth[truths], cdr, types[topic])
                    truths += 1
                watch = Stopwatch()
        except BagError as error:
            yield Lost(told(error, path))


def _picture(received_ns: int, cdr: bytes, type_name: str, watch: Stopwatch) -> Picture | Rejected:
    cause = ''
    try:
        message = read_image(cdr, type_name)
        image = image_from_msg(message)
        watch.lap('parse')
        return Picture(received_ns, message.header, image.rgb, watch.times_ms(), image.warnings)
    except ImageError as error:
        cause, text = error.cause, f'image dropped: {error}'
    except Exception as error:  # a message must not end the run, whatever it brings
        cause, text = _told(error, 'no mask for an image')
    watch.lap('parse')
    return Rejected(received_ns, read_stamp(cdr), cause, text, watch.times_ms())


def _truth(place: int, cdr: bytes, type_name: str) -> Truth:
    try:
        return Truth(place, mask_from_msg(read_image(cdr, type_name)))
    except ImageError as error:
        return Truth(place, None, f'the truth of frame {place} (from 0): {error}')


class Guess(NamedTuple):
    """A picture with what the network says of it, or why it does not."""

    picture: Picture
    segmentation: Segmentation | Exception


def segmented(
    items: Iterator[Picture | Aside], segmenter: Segmenter, options: Options
) -> Generator[Guess | Aside, None, None]:
    """
    Ask the network.

    :param items: what `decoded` gives.
    :param segmenter: the model.
    :param options: which part of the pictures.
    :return: the same, with the network's say in the place of pictures.
    """
    for item in items:
        if not isinstance(item, Picture):
            yield item
            continue
        try:
            said: Segmentation | Exception = segmenter.segment(
                item.image, roi=options.roi, confidence=options.confidence, certainty=True
            )
        except Exception as error:  # of the network, the device, a roi beyond the picture
            said = error
        yield Guess(item, said)


def answered(item: Guess | Aside, least_area: float) -> Answer | Aside:
    """
    Make an answer of what the network says.

    :param item: what `segmented` gives.
    :param least_area: see `answer`.
    :return: the answer; or the item, if it is another.
    """
    return answer(item, least_area) if isinstance(item, Guess) else item


def answer(guess: Guess, least_area: float) -> Answer:
    """
    Find the instruments; without a decision, say so of the whole picture.

    :param guess: of the network.
    :param least_area: least share of the picture's area.
    :return: the answer.
    """
    picture, said = guess
    watch = Stopwatch()
    try:
        if isinstance(said, Exception):
            raise said
        instruments = find_instruments(said, least_area)
        watch.lap('detections')
        pixels = count_values(said.mask)
        watch.lap('score')
        ms = {**picture.ms, **said.stage_ms, **watch.times_ms()}
        known = picture.received_ns, picture.header
        return Answer(*known, said, pixels, instruments, ms, warnings=picture.warnings)
    except Exception as error:  # as in `segmented`
        size = (picture.image.shape[0], picture.image.shape[1])
        unknown = Segmentation.undecided(size)
        pixels, instruments = count_values(unknown.mask), without_decision(size)
        failure = _told(error, 'no decision on an image')
        known = picture.received_ns, picture.header
        warnings = picture.warnings
        return Answer(*known, unknown, pixels, instruments, picture.ms, failure, warnings)


def _told(error: Exception, what: str) -> tuple[str, str]:
    return type(error).__name__, f'{what}: {describe(error)}'

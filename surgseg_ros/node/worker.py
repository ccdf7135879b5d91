# SPDX-License-Identifier: Apache-2.0
"""The one thread that turns frames into results."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument, find_instruments, without_decision
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.messages.errors import ImageError
from surgseg_ros.messages.images import rgb_from_msg
from surgseg_ros.messages.received import read_image
from surgseg_ros.messages.results import stamp_ns
from surgseg_ros.node.health import Health
from surgseg_ros.node.mailbox import Frame, Mailbox

MODEL_STAGES: Final = ('fit', 'network', 'upsample')
"""Stages that are the model's own, whatever carries pictures to it and masks from it."""


class Sink(Protocol):
    """Where results go."""

    def publish(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
    ) -> None:
        """Publish what is known of a picture; see Outputs."""


class Logger(Protocol):
    """What is needed of a logger."""

    def info(self, message: str) -> Any:
        """Log what is worth knowing."""

    def warning(self, message: str) -> Any:
        """Log what should be mended."""

    def error(self, message: str) -> Any:
        """Log what failed."""


class Generation:
    """Counts changes of state; a result belongs to one, and is discarded after it."""

    def __init__(self) -> None:
        """Start at 0, at rest."""
        self._lock = threading.Lock()
        self.number = 0

    def advance(self) -> int:
        """
        End the present generation; waits for what is being published in it.

        :return: the number of the next.
        """
        with self._lock:
            self.number += 1
            return self.number

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """
        Keep the generation from ending.

        :param number: of a result.
        :return: context that says whether this is still the present generation.
        """
        with self._lock:
            yield number == self.number


class Eye(NamedTuple):
    """One camera as the worker sees it."""

    name: str
    type_name: str
    roi: Roi | None
    health: Health
    outputs: Sink


class Picture(NamedTuple):
    """A frame that was read, on its way."""

    frame: Frame
    eye: Eye
    header: Any
    image: NDArray[np.uint8]
    doubt: str
    """Why its mask is not to be trusted, if so."""
    watch: Stopwatch


class Worker(threading.Thread):
    """
    Takes frames out of the mailbox, as many as go in one pass, until that is closed.

    :param segmenter: used by this thread alone.
    :param mailbox: where frames lie.
    :param eyes: the cameras, by index.
    :param generation: the node's.
    :param least_area: gives the present least share of the picture's area for a detection.
    :param logger: the node's.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        mailbox: Mailbox,
        eyes: tuple[Eye, ...],
        generation: Generation,
        least_area: Callable[[], float],
        logger: Logger,
    ) -> None:
        """Prepare; `start` begins."""
        super().__init__(name='segment', daemon=True)
        self._segmenter = segmenter
        self._mailbox = mailbox
        self._eyes = eyes
        self._generation = generation
        self._least_area = least_area
        self._logger = logger
        self._looked_at_generation = -1
        self._last_size: dict[int, tuple[int, ...]] = {}
        self._last_stamp_ns: dict[int, int] = {}

    def run(self) -> None:
        """Work; see the class. A frame that fails is said and counted, and the next one taken."""
        while frames := self._mailbox.take(self._segmenter.most_pictures):
            pictures = [seen for frame in frames if (seen := self._read(frame)) is not None]
            for picture, result in zip(pictures, self._segment(pictures)):
                self._answer(picture, result)

    def _read(self, frame: Frame) -> Picture | None:
        """Make a picture of a frame; None where there is none in it."""
        eye, watch = self._eyes[frame.camera], Stopwatch()
        try:
            message = read_image(frame.cdr, eye.type_name)
            image = rgb_from_msg(message)
            doubt = self._look_at(frame, eye, message.header, image.shape)
        except ImageError as error:
            self._reject(frame, eye, error.cause, f'image dropped: {error}')
            return None
        except Exception as error:  # a frame must not end the thread, whatever it brings
            self._reject(frame, eye, *_told(error, 'no mask for an image'))
            return None
        watch.lap('parse')
        return Picture(frame, eye, message.header, image, doubt, watch)

    def _segment(self, pictures: Sequence[Picture]) -> list[Segmentation | Exception]:
        """Segment pictures in one pass; where that fails, each by itself, to find whose fault."""
        if not pictures:
            return []
        images, rois = [p.image for p in pictures], [p.eye.roi for p in pictures]
        try:
            return list(self._segmenter.segment_all(images, rois, confidence=True))
        except Exception as error:  # of the network, the device, a roi beyond the picture
            if len(pictures) == 1:
                return [error]
            return [result for picture in pictures for result in self._segment([picture])]

    def _answer(self, picture: Picture, result: Segmentation | Exception) -> None:
        try:
            self._publish(picture, result)
        except Exception as error:  # a frame must not end the thread, whatever it brings
            self._reject(picture.frame, picture.eye, *_told(error, 'no mask for an image'))

    def _publish(self, picture: Picture, result: Segmentation | Exception) -> None:
        """Publish what was found in a picture, or that nothing is known of it."""
        frame, eye, header, image, _, watch = picture
        watch.resume()
        try:
            if isinstance(result, Exception):
                raise result
            instruments = find_instruments(result, self._least_area())
        except Exception as error:
            self._publish_no_decision(frame, eye, header, image)
            self._reject(frame, eye, *_told(error, 'no decision on an image'))
            return
        watch.lap('detections')
        with self._generation.held(frame.generation) as current:
            if not current:
                eye.health.count('discarded')
                return
            eye.outputs.publish(header, image, result, instruments)
            watch.lap('publish')
            self._note(picture, result)

    def _publish_no_decision(
        self, frame: Frame, eye: Eye, header: Any, image: NDArray[np.uint8]
    ) -> None:
        """Say of a picture that nothing is known of it, rather than nothing."""
        size = (image.shape[0], image.shape[1])
        with self._generation.held(frame.generation) as current:
            if current:
                unknown = Segmentation.undecided(size), without_decision(size)
                eye.outputs.publish(header, image, *unknown)

    def _note(self, picture: Picture, segmentation: Segmentation) -> None:
        frame, eye, header, _, doubt, watch = picture
        times_ms = {
            'wait': (watch.started_ns - frame.received_ns) / 1e6,
            **watch.times_ms(),
            **segmentation.stage_ms,
            'model': sum(segmentation.stage_ms.get(stage, 0.0) for stage in MODEL_STAGES),
            'age': (frame.age_ns + watch.last_ns - frame.received_ns) / 1e6,
        }
        image_ns = frame.received_ns - frame.age_ns
        eye.health.see_mask(image_ns, stamp_ns(header), times_ms, doubt)

    def _look_at(self, frame: Frame, eye: Eye, header: Any, shape: tuple[int, ...]) -> str:
        """
        Say once of each kind what is odd about a picture, which is processed all the same.

        :return: why its mask is in doubt, if it is.
        """
        if frame.generation != self._looked_at_generation:
            self._looked_at_generation = frame.generation
            self._last_size.clear()
            self._last_stamp_ns.clear()
        camera = frame.camera
        size, last_size = shape[:2], self._last_size.get(camera, shape[:2])
        if size != last_size and eye.health.first_time('size'):
            self._logger.info(
                f'{_of(eye)}pictures change from {last_size[1]}x{last_size[0]} to '
                f'{size[1]}x{size[0]} pixels; masks follow (said once)'
            )
        self._last_size[camera] = size
        now_ns, before_ns = stamp_ns(header), self._last_stamp_ns.get(camera)
        self._last_stamp_ns[camera] = now_ns
        oddity, remedy = _oddity_of_stamps(before_ns, now_ns)
        if oddity and eye.health.first_time(remedy):
            self._logger.warning(f'{_of(eye)}{oddity}: {remedy} (processed; said once)')
        # A new beginning is no fault of the picture; a stamp that tells nothing is.
        return '' if before_ns is not None and 0 < now_ns < before_ns else oddity

    def _reject(self, frame: Frame, eye: Eye, cause: str, text: str) -> None:
        with self._generation.held(frame.generation) as current:
            if not current:
                eye.health.count('discarded')
                return
            eye.health.see_trouble(text)
        if eye.health.first_time(cause):
            self._logger.error(f'{_of(eye)}{text} (said once; all are counted in /diagnostics)')


def _told(error: Exception, what: str) -> tuple[str, str]:
    """Name the cause of a failure, to say it once, and tell it."""
    cause = type(error).__name__
    return cause, f'{what}: {cause}: {error}'


def _oddity_of_stamps(before_ns: int | None, now_ns: int) -> tuple[str, str]:
    """Say what is odd about a stamp after another, and the remedy; empty where nothing is."""
    if now_ns == 0:
        return 'the stamp is zero', 'let the camera driver set header.stamp'
    if now_ns == before_ns:
        return f'two images have the same stamp {now_ns} ns', 'check the camera driver'
    if before_ns is not None and now_ns < before_ns:
        step = f'stamps go back from {before_ns} to {now_ns} ns'
        return step, 'expected where a bag begins anew, else look for a second publisher'
    return '', ''


def _of(eye: Eye) -> str:
    return f'{eye.name}: ' if eye.name else ''

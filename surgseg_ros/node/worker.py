# SPDX-License-Identifier: Apache-2.0
"""The one thread that turns frames into results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from surgseg_ros.core.detections import Instrument, without_decision
from surgseg_ros.core.failures import describe
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.core.sureness import instruments_in
from surgseg_ros.messages.errors import ImageError
from surgseg_ros.messages.images import image_from_msg
from surgseg_ros.messages.received import read_image
from surgseg_ros.messages.results import stamp_ns
from surgseg_ros.node.freshness import NO_DECISION, Age, Rules, doubt_of_clocks, lateness
from surgseg_ros.node.generation import Generation
from surgseg_ros.node.health import LastPicture
from surgseg_ros.node.mailbox import Frame, Mailbox
from surgseg_ros.node.passes import Passes, Rescue
from surgseg_ros.node.picture import Course, Doubt, Eye, Picture
from surgseg_ros.node.scrutiny import Scrutinized, Scrutiny

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter

MODEL_STAGES: Final = ('fit', 'network', 'upsample')
"""Stages that are the model's own, whatever carries pictures to it and masks from it."""


class Logger(Protocol):
    """What is needed of a logger."""

    def info(self, message: str) -> Any:
        """Log what is worth knowing."""

    def warning(self, message: str) -> Any:
        """Log what should be mended."""

    def error(self, message: str) -> Any:
        """Log what failed."""


class Worker(threading.Thread):
    """
    Takes frames out of the mailbox, as many as go in one pass, until that is closed.

    :param segmenter: used by this thread alone, until another takes its place.
    :param mailbox: where frames lie.
    :param eyes: the cameras, by index.
    :param generation: the node's.
    :param rules: gives those of the moment, by which results are judged.
    :param now_ns: the node's clock, which headers are held against.
    :param logger: the node's.
    :param rescue: told where the machine fails.
    :param scrutinies: of the cameras; none of them doubts anything if left out.
    :param tell: makes `status` say at once what is known.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        mailbox: Mailbox,
        eyes: tuple[Eye, ...],
        generation: Generation,
        rules: Callable[[], Rules],
        now_ns: Callable[[], int],
        logger: Logger,
        rescue: Rescue,
        scrutinies: Sequence[Scrutiny] = (),
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins."""
        super().__init__(name='segment', daemon=True)
        self._rescue = rescue
        self._passes = Passes(segmenter, rescue)
        self._used: Passes | None = None
        self._mailbox = mailbox
        self._eyes = eyes
        self._generation = generation
        self._rules = rules
        self._now_ns = now_ns
        self._logger = logger
        self._tell = tell
        self._courses = tuple(Course() for _ in eyes)
        self._scrutinies = scrutinies or tuple(Scrutiny() for _ in eyes)
        self._is_changed, self._begun = False, 0

    def run(self) -> None:
        """Work; see the class. A frame that fails is said and counted, and the next one taken."""
        while frames := self._mailbox.take(self._passes.most_pictures):
            pictures = [seen for frame in frames if (seen := self._read(frame)) is not None]
            self._begin(frames[0].generation)
            results = self._used.segment(pictures, self._needs_confidence(pictures))
            for picture, result in zip(pictures, results):
                self._answer(picture, result)
            self._used = None  # or a model that has been changed would stay in memory

    def change(self, segmenter: Segmenter, limits: tuple[str, ...] = ()) -> None:
        """
        Go on with another model, or try the same anew; a result in flight is discarded.

        :param segmenter: taken from the next pass on.
        :param limits: reasons for which its masks are never better than degraded.
        """
        passes = Passes(segmenter, self._rescue)
        with self._generation.held(self._generation.number):
            self._passes, self._is_changed = passes, True
            for eye in self._eyes:
                eye.health.see_change(limits)

    def _begin(self, generation: int) -> None:
        """Take the model of the moment; forget what another, or another activation, said."""
        with self._generation.held(generation):
            self._used, changed, self._is_changed = self._passes, self._is_changed, False
        if changed or generation != self._begun:
            self._begun = generation
            for scrutiny in self._scrutinies:
                scrutiny.begin_anew()

    def _needs_confidence(self, pictures: Sequence[Picture]) -> bool:
        """Tell whether that of each pixel is needed, which costs time."""
        return self._rules().min_confidence > 0 or any(
            self._scrutinies[picture.frame.camera].is_steady
            or picture.eye.outputs.wants_confidence()
            for picture in pictures
        )

    def _read(self, frame: Frame) -> Picture | None:
        """Make a picture of a frame; None where there is none in it."""
        eye, watch = self._eyes[frame.camera], Stopwatch()
        try:
            message = read_image(frame.cdr, eye.type_name)
            image, warnings = image_from_msg(message)
            doubts = self._look_at(frame, eye, message.header, image.shape)
            against = tuple(Doubt(warning.text, cause=warning.code) for warning in warnings)
            self._warn_once(eye, against)
        except ImageError as error:
            self._reject(frame, eye, error.cause, f'image dropped: {error}')
            return None
        except Exception as error:  # a frame must not end the thread, whatever it brings
            self._reject(frame, eye, *_told(error, 'no mask for an image'))
            return None
        watch.lap('parse')
        return Picture(frame, eye, message.header, image, doubts + against, watch)

    def _look_at(
        self, frame: Frame, eye: Eye, header: Any, shape: tuple[int, ...]
    ) -> tuple[Doubt, ...]:
        """Say once of each kind what is odd about a picture; find why its mask is in doubt."""
        size = (shape[0], shape[1])
        at_ns = frame.received_ns - frame.age_ns
        eye.health.see_picture(LastPicture(stamp_ns(header), header.frame_id, size, at_ns))
        oddities = self._courses[frame.camera].follow(frame, header, size)
        if any(oddity.anew for oddity in oddities):
            self._scrutinies[frame.camera].begin_anew()
        for oddity in oddities:
            text = f'{eye.prefix}{oddity.text}: {oddity.remedy} (processed; said once)'
            if not eye.health.first_time(oddity.remedy):
                continue
            if oddity.doubtful:
                self._logger.warning(text)
            else:  # rclpy allows one line of code only one severity
                self._logger.info(text)
        return tuple(Doubt(oddity.text) for oddity in oddities if oddity.doubtful)

    def _answer(self, picture: Picture, result: Segmentation | Exception) -> None:
        try:
            self._judge(picture, result)
        except Exception as error:  # a frame must not end the thread, whatever it brings
            self._reject(picture.frame, picture.eye, *_told(error, 'no mask for an image'))

    def _judge(self, picture: Picture, result: Segmentation | Exception) -> None:
        """Publish what was found in a picture, or that nothing is known of it."""
        rules = self._rules()
        picture.watch.resume()
        try:
            if isinstance(result, Exception):
                raise result
            scrutiny = self._scrutinies[picture.frame.camera]
            found = scrutiny.apply(picture, result, rules.min_confidence)
            picture.watch.lap('scrutiny')
            instruments = instruments_in(found.segmentation, rules.least_area)
        except Exception as error:
            self._refuse(picture, *_told(error, 'no decision on an image'))
            return
        picture.watch.lap('detections')
        doubts = (*picture.doubts, *found.doubts)
        age = self._age(picture)
        if late := lateness(age, rules):
            said = rules.fail_safe == NO_DECISION
            why = '; '.join(filter(None, (late, doubt_of_clocks(age, rules))))
            self._refuse(picture, 'too_old', why, count='too_old', publish=said)
        elif undecided := [doubt for doubt in doubts if not doubt.decided]:
            cause = undecided[0].cause or undecided[0].reason
            text = 'no decision on an image: ' + '; '.join(doubt.reason for doubt in undecided)
            self._refuse(picture, cause, text, count='undecided')
        else:
            self._warn_once(picture.eye, found.doubts)
            reasons = [doubt.reason for doubt in doubts] + [doubt_of_clocks(age, rules)]
            self._publish(picture, found, instruments, '; '.join(filter(None, reasons)))

    def _warn_once(self, eye: Eye, doubts: Sequence[Doubt]) -> None:
        for doubt in doubts:
            if eye.health.first_time(doubt.cause):
                self._logger.warning(f'{eye.prefix}{doubt.reason} (said once; see status)')

    def _publish(
        self,
        picture: Picture,
        found: Scrutinized,
        instruments: Sequence[Instrument],
        doubt: str,
    ) -> None:
        """Publish a mask."""
        frame, eye, header, image, _, watch = picture
        with self._generation.held(frame.generation) as current:
            if not current or self._used is not self._passes:
                eye.health.count('discarded')
                return
            segmentation = found.segmentation
            if doubt:  # said before the mask is out, as well as two topics have an order
                eye.health.see_doubt(doubt)
                self._tell()
            eye.outputs.publish(header, image, segmentation, instruments, found.raw)
            watch.lap('publish')
            times_ms = {
                'wait': (watch.started_ns - frame.received_ns) / 1e6,
                **watch.times_ms(),
                **segmentation.stage_ms,
                'model': sum(segmentation.stage_ms.get(stage, 0.0) for stage in MODEL_STAGES),
                'age': (frame.age_ns + watch.last_ns - frame.received_ns) / 1e6,
            }
            image_ns = frame.received_ns - frame.age_ns
            eye.health.see_mask(image_ns, stamp_ns(header), times_ms, doubt)

    def _refuse(
        self,
        picture: Picture,
        cause: str,
        text: str,
        count: str = 'rejected',
        publish: bool = True,
    ) -> None:
        """Say of a picture that nothing is known of it, rather than nothing."""
        frame, eye, header, image, *_ = picture
        size = (image.shape[0], image.shape[1])
        with self._generation.held(frame.generation) as current:
            if current and publish and self._used is self._passes:
                unknown = Segmentation.undecided(size), without_decision(size)
                eye.outputs.publish(header, image, *unknown)
        self._reject(frame, eye, cause, text, count)

    def _reject(
        self, frame: Frame, eye: Eye, cause: str, text: str, count: str = 'rejected'
    ) -> None:
        with self._generation.held(frame.generation) as current:
            if not current:
                eye.health.count('discarded')
                return
            eye.health.see_trouble(text, count)
        if eye.health.first_time(cause):
            said = f'{eye.prefix}{text} (said once; all are counted in /diagnostics)'
            self._logger.error(said)

    def _age(self, picture: Picture) -> Age:
        frame = picture.frame
        receipt_ns = frame.age_ns + time.monotonic_ns() - frame.received_ns
        return Age(receipt_ns / 1e6, (self._now_ns() - stamp_ns(picture.header)) / 1e6)


def _told(error: Exception, what: str) -> tuple[str, str]:
    """Name the cause of a failure, to say it once, and tell it."""
    return type(error).__name__, f'{what}: {describe(error)}'

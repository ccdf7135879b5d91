# SPDX-License-Identifier: Apache-2.0
"""Writes masks of videos or images as PNG, in the layout of SAR-RARP50, and their instruments."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.errors import counted, is_of_machine
from surgseg_ros.core.files import cleaned_up, remove_empty, write_atomically
from surgseg_ros.core.gates import FROZEN, OFF, REFUSE
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.results import Decision, FrameResult, InputFrame
from surgseg_ros.core.runtimes import AUTO
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.stereo import LocatedInstrument
from surgseg_ros.evaluation.frames import Source, report_losses, write_png
from surgseg_ros.evaluation.instrument_folders import (
    Locator,
    OutputError,
    find_done,
    group_frames,
    make_folders,
    write_instruments,
)
from surgseg_ros.evaluation.layout import MASK_FOLDER, FrameError


class Failure(NamedTuple):
    """
    A frame that the network could not process.

    :param path: path of its mask, which is NO_DECISION everywhere.
    :param size: (H, W) of the frame in pixels.
    :param reason: the reason, as a text.
    """

    path: Path
    size: tuple[int, int]
    reason: str


@dataclass
class Totals:
    """
    The counts of a run.

    :param sizes: number of masks that were written, by size.
    :param found: number of masks that existed already.
    :param undecided: number of written masks that are NO_DECISION, by reason code.
    :param warnings: number of other masks with a warning, by its code.
    :param losses: a text for each missing or damaged frame or range of the videos.
    :param failures: the frames that the network could not process.
    """

    sizes: Counter[str] = field(default_factory=Counter)
    found: int = 0
    undecided: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, decision: Decision) -> None:
        """
        Count a mask.

        :param decision: decision of the mask.
        """
        height, width = decision.mask.shape
        self.sizes[f'{width}x{height}'] += 1
        if decision.is_decided:
            self.warnings.update({warning.code.value for warning in decision.warnings})
        else:
            self.undecided[decision.code] += 1

    def __str__(self) -> str:
        """Describe the counts."""
        written = ', '.join(
            f'{counted(count, "mask")} of {size}' for size, count in self.sizes.items()
        )
        existing = f' ({self.found} existed already)' if self.found else ''
        return f'{written or "no new masks"}{existing}'

    def warning_line(self) -> str:
        """Count the masks that cannot be trusted, in one line; empty if there are none."""
        parts = ('without a decision', self.undecided), ('with warnings', self.warnings)
        return '; '.join(
            f'masks {what}: ' + ', '.join(f'{count} ({code})' for code, count in counts.items())
            for what, counts in parts
            if counts
        )

    def failure_line(self) -> str:
        """Describe frames that could not be processed, in one line; empty if there are none."""
        if not self.failures:
            return ''
        count, first = len(self.failures), self.failures[0]
        return (
            f'frames that could not be processed: {count}, first '
            f'{first.path.parts[-3]}/{first.path.stem}: {first.reason}'
        )


RECORD_FILE: Final = 'predict.json'
"""File that records the model and settings of the masks beside it, which must not be mixed."""


OUTPUT_LAYOUT: Final = f'video_*/{MASK_FOLDER}'


@dataclass(frozen=True)
class PredictOptions:
    """
    The processing of masks before they are written.

    :param settings: settings of the pipeline.
    :param roi: the part of the images that the endoscope fills; None for the whole images.
    :param least_region: whether components below the model's `least_region` are removed.
    :param instruments: whether instruments are written, too.
    """

    settings: PipelineSettings = field(default_factory=PipelineSettings)
    roi: Roi | None = None
    least_region: bool = False
    instruments: bool = False

    @property
    def needs_earlier_frames(self) -> bool:
        """Whether a mask, or the track of an instrument, depends on earlier frames."""
        frozen = self.settings.gates.get(FROZEN)
        refuses_frozen = frozen is not None and frozen.action == REFUSE
        filtered = self.settings.steady_frames > 1 or self.settings.roi_mode == AUTO
        return filtered or refuses_frozen or self.instruments

    def pipeline(self, segmenter: Segmenter) -> CameraPipeline:
        """
        Create the pipeline for a video.

        :param segmenter: the model.
        :return: the pipeline, from network output to mask.
        :raises ValueError: if a value is out of range.
        """
        least_region = segmenter.spec.least_region if self.least_region else ()
        return CameraPipeline(replace(self.settings, least_region=least_region), self.roi)

    def record(self, segmenter: Segmenter) -> dict[str, Any]:
        """
        List the settings that affect the masks.

        :param segmenter: the model; its temperature matters only if an option needs confidence.
        :return: values that can be written as JSON; None for options that are off.
        """
        settings, roi = self.settings, self.roi
        steady = settings.steady_frames > 1
        gates = {
            name: [setting.action, setting.limit]
            for name, setting in settings.gates.items()
            if setting.action != OFF
        }
        return {
            'least_region': list(segmenter.spec.least_region) if self.least_region else None,
            'min_confidence': settings.min_confidence or None,
            'steady': [settings.steady_frames, settings.steady_sure] if steady else None,
            'temperature': (
                segmenter.spec.temperature if settings.min_confidence or steady else None
            ),
            'gates': gates or None,
            'roi': roi and [roi.x_px, roi.y_px, roi.width_px, roi.height_px],
            'roi_mode': AUTO if settings.roi_mode == AUTO else None,
            'instruments': (
                [settings.least_area, settings.track_lost_ms] if self.instruments else None
            ),
            'min_detection_score': (self.instruments and settings.min_detection_score) or None,
        }


def prepare(
    output: Path, segmenter: Segmenter, precision: str, predict_options: PredictOptions
) -> None:
    """
    Create the output folder, or check that the masks in it are from the same model.

    :param output: the folder.
    :param segmenter: the model that will make the masks.
    :param precision: value of the parameter; the resulting precision is recorded.
    :param predict_options: the processing of the masks.
    :raises OutputError: if it contains other files.
    :raises ValueError: if the options are out of range.
    """
    predict_options.pipeline(segmenter)
    record = {
        'model': segmenter.spec.name,
        'weights_sha256': segmenter.spec.weights_sha256,
        'runtime': segmenter.runtime.description.partition(' ')[0],
        'precision': segmenter.runtime.precision,
        **predict_options.record(segmenter),
    }
    path = output / RECORD_FILE
    if path.is_file() and not _is_alone(path):
        if precision == AUTO:
            _compare(path, record, {'precision': None})  # as earlier releases recorded it
        else:
            _compare(path, record, {})
        return
    is_used = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if is_used and not path.is_file():
        raise OutputError(f'the output {str(output)!r} is not an empty folder: name a new one')
    write_atomically(path, (json.dumps(record, indent=2) + '\n').encode())


def _compare(path: Path, record: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Reject a record that differs from this one, and from the values of an earlier release."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f'{path}: cannot be read ({error}); name another output') from error
    for key, value in record.items():
        accepted = value, earlier.get(key, value)
        if not isinstance(found, dict) or found.get(key) not in accepted:
            before = found.get(key) if isinstance(found, dict) else found
            raise OutputError(
                f'{path}: the masks there were made with {key} {before!r}, these would be with '
                f'{value!r}: name another output'
            )


def _is_alone(record: Path) -> bool:
    """Return whether the record is the only file, as after a run that was killed early."""
    return not any(x.is_file() and x != record for x in record.parent.rglob('*'))


@contextmanager
def nothing_without_masks(output: Path) -> Iterator[None]:
    """
    Keep only masks if the block raises; the next run continues from them.

    :param output: the folder; the block prepares it, see `prepare`. A record beside other
        files is kept.
    """
    record = output / RECORD_FILE
    is_of_this_run = not record.exists() or _is_alone(record)

    def clean_up() -> None:
        if is_of_this_run and not any(output.glob('video_*/**/*.png')):
            record.unlink(missing_ok=True)
        remove_empty(
            [*output.glob('video_*'), *output.glob('video_*/*'), *output.glob('video_*/*/*')]
        )

    with cleaned_up(clean_up):
        yield


class _View:
    """
    The frames of a video, or of one camera of a stereo video, and the state of its pipeline.

    :param source: the frames.
    :param folder: folder for the masks and, beside them, the instruments.
    :param pipeline: pipeline of its camera.
    """

    def __init__(self, source: Source, folder: Path, pipeline: CameraPipeline) -> None:
        self.source, self.folder, self.pipeline = source, folder, pipeline
        self.done = find_done(folder, source)
        self.data_errors: dict[int, str] = {}

    @property
    def is_done(self) -> bool:
        """Whether all masks exist."""
        return len(self.done) >= len(self.source)

    def read(self) -> Iterator[tuple[int, tuple[NDArray[np.uint8], bool]]]:
        """Yield the number and image of each frame, and whether frames before it are lost."""
        lost = 0
        for number, image in self.source.read(self.done.__contains__, self.data_errors):
            yield number, (image, len(self.data_errors) > lost)
            lost = len(self.data_errors)


def predict(
    segmenter: Segmenter,
    sources: Sequence[Source],
    output: Path,
    predict_options: PredictOptions,
    locator: Locator | None = None,
) -> Totals:
    """
    Write the masks that do not exist yet; frames are assumed to be consecutive.

    :param segmenter: the model.
    :param sources: the videos.
    :param output: the folder, see `prepare`.
    :param predict_options: the processing; if it needs earlier frames, an interrupted video
        starts again.
    :param locator: computes 3-D positions in stereo videos; only used with `instruments`.
    :return: the counts.
    :raises FrameError: if a frame cannot be decoded, or none can be processed.
    :raises RuntimeError: if the machine fails.
    :raises OutputError: if the folder of masks contains another file.
    """
    totals = Totals()
    with tqdm(total=sum(map(len, sources)), unit='frame', leave=False) as bar:
        for name, cameras in groupby(sources, lambda source: source.name.split('/')[0]):
            bar.set_description(name)
            views = [_begin(segmenter, source, output, predict_options) for source in cameras]
            if predict_options.needs_earlier_frames and not all(x.is_done for x in views):
                for view in views:
                    view.done = set()
            totals.found += sum(len(view.done) for view in views)
            bar.update(sum(len(view.done) for view in views))
            for decided in _decide(segmenter, views, predict_options):
                located = locator.locate(name, [x.decision for x in decided]) if locator else ()
                for frame in decided:
                    _write(frame, located if frame.is_first else (), totals)
                bar.update(len(decided))
            losses = (report_losses(view.source, view.data_errors) for view in views)
            totals.losses += filter(None, losses)
    _write_failures(totals, predict_options.instruments)
    return totals


class _Decided(NamedTuple):
    """Path of a frame's mask, its decision, and whether it is of the first camera."""

    path: Path
    decision: Decision
    is_first: bool


def _decide(
    segmenter: Segmenter, views: Sequence[_View], predict_options: PredictOptions
) -> Iterator[list[_Decided]]:
    """Run the pipelines; frames of both cameras with the same number are yielded together."""
    for number, frames in group_frames([view.read() for view in views]):
        decided = []
        for camera, (image, is_after_gap) in frames:
            view = views[camera]
            if is_after_gap:
                view.pipeline.reset()  # the filter must not span a gap
            pipeline = view.pipeline
            process = pipeline.process if predict_options.instruments else pipeline.segment
            path = view.folder / f'{view.source.mask_name(number)}.png'
            decided.append(_Decided(path, process(segmenter, InputFrame(image)), not camera))
        yield decided


def _begin(
    segmenter: Segmenter, source: Source, output: Path, predict_options: PredictOptions
) -> _View:
    folder = make_folders(output / source.name, predict_options.instruments)
    return _View(source, folder, predict_options.pipeline(segmenter))


def _write(frame: _Decided, located: Sequence[LocatedInstrument], totals: Totals) -> None:
    """
    Write a mask; if the network failed, only record the failure.

    If the machine is the cause, a later run may succeed; it continues from this frame.
    """
    path, decision = frame.path, frame.decision
    if decision.error is None:
        if isinstance(decision, FrameResult):
            write_instruments(path, decision.segmentation, decision.instruments, located)
        write_png(path, decision.mask)  # last, since a mask marks a frame as done
        totals.add(decision)
    elif is_of_machine(decision.error):
        raise decision.error
    else:
        height, width = decision.mask.shape
        totals.failures.append(Failure(path, (height, width), decision.reason))


def _write_failures(totals: Totals, instruments: bool) -> None:
    """Write the masks of frames that failed; if all did, the model or an option is the cause."""
    if totals.failures and not (totals.sizes or totals.found):
        raise FrameError(totals.failure_line())
    for path, size, _ in totals.failures:
        undecided = Segmentation.undecided(size)
        if instruments:
            write_instruments(path, undecided, ())
        write_png(path, undecided.mask)
        totals.sizes[f'{size[1]}x{size[0]}'] += 1

# SPDX-License-Identifier: Apache-2.0
"""Writes masks of videos or images as PNG, in the layout of SAR-RARP50, and their instruments."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from tqdm import tqdm

from surgseg_ros.core.errors import is_of_machine
from surgseg_ros.core.files import make_folder, remove_empty, tidied, write_whole, writing
from surgseg_ros.core.gates import FROZEN, OFF, REFUSE
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.results import Decision, FrameResult, InputFrame
from surgseg_ros.core.runtimes import AUTO
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import Source, report_losses, write_png
from surgseg_ros.evaluation.instrument_folders import OF_INSTRUMENTS, write_instruments
from surgseg_ros.evaluation.layout import MASK_FOLDER, FrameError

RECORD_FILE: Final = 'predict.json'
"""Records what made the masks beside it, so that two models' masks are never mixed."""


OUTPUT_LAYOUT: Final = f'video_*/{MASK_FOLDER}'


class OutputError(ValueError):
    """An output folder that cannot be used; the message names it and a remedy."""


@dataclass(frozen=True)
class PredictOptions:
    """
    The processing of a mask before it is written.

    :param settings: of the pipeline.
    :param roi: the part of the images that the endoscope fills; None for all of it.
    :param least_region: whether regions smaller than the model's `least_region` are dropped.
    :param instruments: whether instruments are written, too.
    """

    settings: PipelineSettings = field(default_factory=PipelineSettings)
    roi: Roi | None = None
    least_region: bool = False
    instruments: bool = False

    @property
    def needs_earlier_frames(self) -> bool:
        """Whether a mask, or the track of an instrument, depends on the frames before its own."""
        frozen = self.settings.gates.get(FROZEN)
        refuses_frozen = frozen is not None and frozen.action == REFUSE
        filtered = self.settings.steady_frames > 1 or self.settings.roi_mode == AUTO
        return filtered or refuses_frozen or self.instruments

    def pipeline(self, segmenter: Segmenter) -> CameraPipeline:
        """
        Start a video.

        :param segmenter: the model.
        :return: the pipeline that makes masks of the network's output.
        :raises ValueError: if a value is out of range.
        """
        least_region = segmenter.spec.least_region if self.least_region else ()
        return CameraPipeline(replace(self.settings, least_region=least_region), self.roi)

    def record(self, segmenter: Segmenter) -> dict[str, Any]:
        """
        List the settings that change the masks.

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
        }


class Failure(NamedTuple):
    """
    A frame that the network could not process.

    :param path: of its mask, which is NO_DECISION everywhere.
    :param size: (H, W) of the frame in pixels.
    :param reason: why, for people.
    """

    path: Path
    size: tuple[int, int]
    reason: str


@dataclass
class Totals:
    """
    The counts of a run.

    :param sizes: how many masks of each size were written.
    :param found: how many existed already.
    :param undecided: of the masks written, how many are NO_DECISION, by the code of the reason.
    :param warnings: of the others, how many have a warning, by its code.
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

        :param decision: from which the mask was made.
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
            f'{count} mask{"s"[count == 1 :]} of {size}' for size, count in self.sizes.items()
        )
        there = f' ({self.found} existed already)' if self.found else ''
        return f'{written or "no new masks"}{there}'

    def warning_line(self) -> str:
        """Count in a line the masks not to be trusted; empty if there are none."""
        parts = ('without a decision', self.undecided), ('with warnings', self.warnings)
        return '; '.join(
            f'masks {what}: ' + ', '.join(f'{count} ({code})' for code, count in counts.items())
            for what, counts in parts
            if counts
        )

    def failure_line(self) -> str:
        """Describe in a line the frames that could not be processed; empty if there are none."""
        if not self.failures:
            return ''
        count, first = len(self.failures), self.failures[0]
        return (
            f'frames that could not be processed: {count}, first '
            f'{first.path.parts[-3]}/{first.path.stem}: {first.reason}'
        )


def prepare(
    output: Path, segmenter: Segmenter, values: Mapping[str, Any], predict_options: PredictOptions
) -> None:
    """
    Create the output folder, or check that the masks in it are from the same model.

    :param output: the folder.
    :param segmenter: the model that will make the masks.
    :param values: of the parameters, `runtime` and `precision` among them.
    :param predict_options: the processing of the masks.
    :raises OutputError: if it contains something else.
    :raises ValueError: if the options are out of range.
    """
    predict_options.pipeline(segmenter)
    record = {
        'model': segmenter.spec.name,
        'weights_sha256': segmenter.spec.weights_sha256,
        'runtime': values['runtime'],
        'precision': None if values['precision'] == AUTO else values['precision'],
        **predict_options.record(segmenter),
    }
    path = output / RECORD_FILE
    if path.is_file() and not _is_alone(path):
        _compare(path, record)
        return
    is_used = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if is_used and not path.is_file():
        raise OutputError(f'the output {str(output)!r} is not an empty folder: name a new one')
    write_whole(path, (json.dumps(record, indent=2) + '\n').encode())


def check_names(source: Source) -> None:
    """
    Check that no two images would have the same mask.

    :param source: the images.
    :raises FrameError: if two differ only in ending or case.
    """
    found: dict[str, Path] = {}
    for number in source.names:
        image = source.images[number]
        other = found.setdefault(image.stem.lower(), image)
        if other is not image:
            raise FrameError(
                f'{other} and {image.name}: both masks would be {image.stem}.png; rename one'
            )


def _compare(path: Path, record: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f'{path}: cannot be read ({error}); name another output') from error
    for key, value in record.items():
        if not isinstance(found, dict) or found.get(key) != value:
            there = found.get(key) if isinstance(found, dict) else found
            raise OutputError(
                f'{path}: the masks there were made with {key} {there!r}, these would be with '
                f'{value!r}: name another output'
            )


def _is_alone(record: Path) -> bool:
    """Check whether the record is the only file, as after a run that was killed early."""
    return not any(x.is_file() and x != record for x in record.parent.rglob('*'))


@contextmanager
def nothing_without_masks(output: Path) -> Iterator[None]:
    """
    Keep only masks if the block raises, from which the next run continues.

    :param output: the folder; the block prepares it, see `prepare`. A record beside other
        files is kept.
    """
    record = output / RECORD_FILE
    is_ours = not record.exists() or _is_alone(record)

    def tidy() -> None:
        if is_ours and not any(output.glob('video_*/*/*.png')):
            record.unlink(missing_ok=True)
        remove_empty([*output.glob('video_*'), *output.glob('video_*/*')])

    with tidied(tidy):
        yield


def predict(
    segmenter: Segmenter, sources: Sequence[Source], output: Path, predict_options: PredictOptions
) -> Totals:
    """
    Write the masks that do not exist yet. Without stamps, frames count as consecutive.

    :param segmenter: the model.
    :param sources: the videos.
    :param output: the folder, see `prepare`.
    :param predict_options: their processing; if it needs earlier frames, an interrupted video
        starts again.
    :return: the counts.
    :raises FrameError: if a frame cannot be decoded, or none can be processed.
    :raises RuntimeError: if the machine fails.
    :raises OutputError: if there is a file among the masks that is not a mask.
    """
    totals = Totals()
    with tqdm(total=sum(map(len, sources)), unit='frame', leave=False) as bar:
        for source in sources:
            bar.set_description(source.name)
            folder = _make_folder(output / source.name, predict_options.instruments)
            there, pipeline = _find_done(folder, source), predict_options.pipeline(segmenter)
            if predict_options.needs_earlier_frames and len(there) < len(source):
                there = set()
            bar.update(len(there))
            totals.found += len(there)
            data_errors: dict[int, str] = {}
            lost = 0
            for number, image in source.read(there.__contains__, data_errors):
                if len(data_errors) > lost:
                    pipeline.reset()  # nothing is filtered across a gap
                lost = len(data_errors)
                process = pipeline.process if predict_options.instruments else pipeline.segment
                decision = process(segmenter, InputFrame(image))
                _write(folder / f'{source.mask_name(number)}.png', decision, totals)
                bar.update()
            if losses := report_losses(source, data_errors):
                totals.losses.append(losses)
    _write_failures(totals, predict_options.instruments)
    return totals


def _write(path: Path, decision: Decision, totals: Totals) -> None:
    """
    Write a mask; if the network failed, only note it.

    If the machine is the cause, a later run may succeed: it continues from this frame.
    """
    if decision.error is None:
        if isinstance(decision, FrameResult):
            write_instruments(path, decision.segmentation, decision.instruments)
        write_png(path, decision.mask)  # last: a frame that has a mask is done
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


def _make_folder(video: Path, instruments: bool) -> Path:
    for name in (MASK_FOLDER, *(OF_INSTRUMENTS if instruments else ())):
        with writing(video / name):
            make_folder(video / name)
    return video / MASK_FOLDER


def _find_done(folder: Path, source: Source) -> set[int]:
    """List the frames whose masks exist."""
    numbers = {name: number for number, name in source.names.items()}
    done = set()
    for mask in sorted(folder.glob('*.png')):
        if mask.stem not in numbers and (numbers or not mask.stem.isdecimal()):
            expected = 'like an image' if numbers else 'by the number of a frame'
            raise OutputError(
                f'{mask}: is not named {expected}, as masks are: remove it, or name another output'
            )
        done.add(numbers[mask.stem] if numbers else int(mask.stem))
    return done

# SPDX-License-Identifier: Apache-2.0
"""The verb `calibrate`: finds a model's temperature again, so that confidence is a probability."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from surgseg_ros.cli.arguments import positive_int
from surgseg_ros.core.files import check_file, write_whole
from surgseg_ros.core.model_folder import SPEC_FILE, ModelSpec, read_spec, write_spec
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.exporting.frames import Frame, choose_frames
from surgseg_ros.training.model_card import model_card
from surgseg_ros.training.scoring import Calibration, ValidationFrame, tune_temperature

README: Final = 'README.md'
SCORES: Final = 'confidence'
"""Key of ModelSpec.scores."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Calibrate.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: of the model or a data set, if it cannot be used.
    :raises OSError: if the folder cannot be written.
    """
    options = _parser().parse_args(argv)
    data = (options.calibration, options.held_out)
    spec = calibrate(options.model, data, options.frames, options.device)
    found = spec.scores[SCORES]['calibration']
    before, after = (_format_error(found[key]['ece']) for key in ('before', 'after'))
    print(
        f'{options.model}: temperature {spec.temperature:.4f}; calibration error {before} before '
        f'and {after} after, on {spec.scores[SCORES]["frames"]} held-out frames'
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros calibrate', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--model', type=Path, required=True, metavar='DIR',
        help='the model folder, whose model.json and card are written again')
    add('--calibration', type=Path, metavar='DATA_DIR',
        help='a data set that the model was not trained on (default: synthetic scenes, for a '
        'model that has seen no others)')
    add('--held-out', type=Path, metavar='DATA_DIR',
        help='a data set to measure on (default: half of the videos of --calibration)')
    add('--frames', type=positive_int, default=100, metavar='N',
        help='to calibrate by, and to measure on, at most (default: %(default)s)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    # fmt: on
    return parser


def calibrate(
    model: Path,
    data: tuple[Path | None, Path | None] = (None, None),
    count: int = 100,
    device: str = 'auto',
) -> ModelSpec:
    """
    Find a temperature, measure what it does on other frames, and write both into the folder.

    :param model: a model folder; its weights and exports stay as they are.
    :param data: data sets to calibrate by and to measure on, or None; see choose_frames.
    :param count: the most frames of each.
    :param device: `auto`, `cpu`, `cuda` …
    :return: the specification as written.
    :raises ValueError: if the model or a data set cannot be used.
    :raises OSError: if the folder cannot be written.
    """
    spec = read_spec(model)
    check_file(model / SPEC_FILE)
    frames = choose_frames(spec, *data, count, calibrate=True)
    runtime = Segmenter.load(model, device, 'torch').runtime
    temperature = tune_temperature(runtime, spec, partial(_read, frames.calibration))
    found = dataclasses.replace(spec, temperature=temperature)
    scores = {**spec.scores, SCORES: _measure(Segmenter(found, runtime), frames.held_out)}
    found = dataclasses.replace(found, scores=scores)
    _write(model, spec, found)
    return found


def _measure(segmenter: Segmenter, frames: Sequence[Frame]) -> dict[str, Any]:
    calibration = Calibration(segmenter)
    for _, image, truth in _read(frames):
        calibration.add(image, truth)
    return {
        'videos': len({frame.video for frame in frames}),
        'frames': len(frames),
        'about': 'Videos that played no part in finding the temperature.',
        'calibration': calibration.summarize(),
    }


def _read(frames: Sequence[Frame]) -> Iterator[ValidationFrame]:
    for frame in frames:
        yield frame.video, *frame.read()


def _write(model: Path, before: ModelSpec, spec: ModelSpec) -> None:
    """Write model.json, and the card unless somebody has written in it."""
    path = model / README
    reported = path.read_text() if path.exists() else model_card(before)
    write_spec(model, spec)
    if reported == model_card(before):
        write_whole(path, model_card(spec).encode())
    else:
        print(f'calibrate: {path} was not written by `train` alone, and stays as it is')


def _format_error(error: float | None) -> str:
    return '-' if error is None else f'{error:.4f}'

# SPDX-License-Identifier: Apache-2.0
"""The verbs `train`, `calibrate` and `export`, which write model folders."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgseg_ros.cli.arguments import MODEL_HELP, positive_int
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import check_file, write_atomically
from surgseg_ros.core.model_folder import (
    DEFAULT_MODEL,
    EXPORT_FILES,
    EXPORT_PRECISIONS,
    SPEC_FILE,
    ModelSpec,
    find_model,
    read_spec,
    write_spec,
)
from surgseg_ros.core.processes import importing
from surgseg_ros.exporting.frames import Frame, choose_frames
from surgseg_ros.training.model_card import model_card

# Torch and Lightning take seconds to import, and --help and errors in arguments need neither.
if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter
    from surgseg_ros.training.scoring import ValidationFrame

README: Final = 'README.md'
SCORES: Final = 'confidence'
"""Key of ModelSpec.scores."""


def run_train(argv: Sequence[str] | None = None) -> int:
    """
    Train a model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if settings, data or network cannot be used.
    :raises OSError: if the model, or a file of the run, cannot be written.
    """
    options = _train_parser().parse_args(argv)
    with importing(freeze=False):
        from surgseg_ros.training.config import read_config
        from surgseg_ros.training.train import train
    train(read_config(options.config, options.settings), resume=options.resume)
    return 0


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros train',
        description='The verb `train`: trains a model on a data set, and writes its folder.',
    )
    add = parser.add_argument
    add('--config', type=Path, required=True, metavar='FILE', help='YAML settings')
    add(
        '--resume',
        action='store_true',
        help='continue from the last checkpoint in the output folder, if there is one',
    )
    add(
        'settings',
        nargs='*',
        metavar='key=value',
        help='settings that override the file',
    )
    return parser


def run_calibrate(argv: Sequence[str] | None = None) -> int:
    """
    Calibrate a model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if the model or a data set cannot be used.
    :raises OSError: if the folder cannot be written.
    """
    options = _calibrate_parser().parse_args(argv)
    if options.model == DEFAULT_MODEL:
        raise ValueError(
            f'--model {DEFAULT_MODEL} is the model that comes with the package, and calibrate '
            f'rewrites the folder: give a copy, made by cp -r {find_model(DEFAULT_MODEL)} my_model'
        )
    data = (options.calibration, options.held_out)
    spec = calibrate(Path(options.model), data, options.frames, options.device)
    found = spec.scores[SCORES]['calibration']
    before, after = (_format_error(found[key]['ece']) for key in ('before', 'after'))
    print(
        f'{options.model}: temperature {spec.temperature:.4f}; calibration error {before} before '
        f'and {after} after, on {counted(spec.scores[SCORES]["frames"], "held-out frame")}'
    )
    return 0


def _calibrate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros calibrate',
        description="The verb `calibrate`: finds a model's temperature again, so that confidence "
        'is a probability.',
    )
    add = parser.add_argument
    # fmt: off
    add('--model', required=True, metavar='DIR',
        help='the model folder, whose model.json and model card are rewritten')
    add('--calibration', type=Path, metavar='DATA_DIR',
        help='a data set that the model was not trained on (default: synthetic scenes, for a '
        'model that was trained on nothing else)')
    add('--held-out', type=Path, metavar='DATA_DIR',
        help='a data set to measure on (default: half of the videos of --calibration)')
    add('--frames', type=positive_int, default=100, metavar='N',
        help='largest number to calibrate with, and to measure on (default: %(default)s)')
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
    Fit the temperature, measure its effect on other frames, and write both into the folder.

    :param model: a model folder; its weights and exports stay as they are.
    :param data: data sets for calibration and for measurement, or None; see choose_frames.
    :param count: maximum number of frames of each.
    :param device: `auto`, `cpu`, `cuda` …
    :return: the specification as written.
    :raises ValueError: if the model or a data set cannot be used.
    :raises OSError: if the folder cannot be written.
    """
    with importing(freeze=False):
        from surgseg_ros.core.segmenter import Segmenter
        from surgseg_ros.training.scoring import tune_temperature

    spec = read_spec(model)
    check_file(model / SPEC_FILE)
    frames = choose_frames(spec, *data, count, calibrate=True)
    runtime = Segmenter.load(model, device, 'torch').runtime
    temperature = tune_temperature(runtime, spec, partial(_read_frames, frames.calibration))
    found = dataclasses.replace(spec, temperature=temperature)
    scores = {**spec.scores, SCORES: _measure(Segmenter(found, runtime), frames.held_out)}
    found = dataclasses.replace(found, scores=scores)
    _write_calibrated(model, spec, found)
    return found


def _measure(segmenter: 'Segmenter', frames: Sequence[Frame]) -> dict[str, Any]:
    from surgseg_ros.training.scoring import Calibration

    calibration = Calibration(segmenter)
    for _, image, truth in _read_frames(frames):
        calibration.add(image, truth)
    return {
        'videos': len({frame.video for frame in frames}),
        'frames': len(frames),
        'about': 'Videos that played no part in finding the temperature.',
        'calibration': calibration.summarize(),
    }


def _read_frames(frames: Sequence[Frame]) -> 'Iterator[ValidationFrame]':
    for frame in frames:
        yield frame.video, *frame.read()


def _write_calibrated(model: Path, before: ModelSpec, spec: ModelSpec) -> None:
    """Write model.json, and the model card unless it was edited."""
    path = model / README
    existing = path.read_text() if path.exists() else model_card(before)
    write_spec(model, spec)
    if existing == model_card(before):
        write_atomically(path, model_card(spec).encode())
    else:
        print(f'calibrate: {path} differs from what `train` writes, and is unchanged')


def _format_error(error: float | None) -> str:
    return '-' if error is None else f'{error:.4f}'


def run_export(argv: Sequence[str] | None = None) -> int:
    """
    Export a model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if the export agrees too little.
    :raises ValueError: if the model or a data set cannot be used.
    :raises OSError: if the export cannot be written.
    """
    options = _export_parser().parse_args(argv)
    with importing(freeze=False):
        from surgseg_ros.exporting.export import RefusedError, export

    try:
        written = export(
            find_model(options.model),
            options.output,
            options.backend,
            options.precision,
            (options.calibration, options.held_out),
            options.frames,
        )
    except RefusedError as error:
        print(f'export: refused: {error}', file=sys.stderr)
        return 1
    print(f'{options.output}: {_describe_export(written.exports[options.backend])}')
    return 0


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros export',
        description='The verb `export`: converts a network for another runtime, and compares it '
        'with the original.',
    )
    add = parser.add_argument
    # fmt: off
    add('--model', default=DEFAULT_MODEL, metavar='DIR', help=MODEL_HELP)
    add('--backend', required=True, choices=EXPORT_FILES,
        help='openvino: for CPUs; onnx: for TensorRT, by ONNX Runtime')
    add('--precision', required=True, choices=EXPORT_PRECISIONS,
        help='int8 is calibrated with frames; bf16 of onnx needs TensorRT')
    add('--output', type=Path, required=True, metavar='DIR',
        help='a new folder; gets all that is in the model folder, and the export')
    add('--calibration', type=Path, metavar='DATA_DIR',
        help='a data set (default: synthetic scenes, for a model trained on nothing else)')
    add('--held-out', type=Path, metavar='DATA_DIR',
        help='a data set to compare on (default: half of the videos of --calibration)')
    add('--frames', type=positive_int, default=100, metavar='N',
        help='largest number to calibrate with, and to compare on (default: %(default)s)')
    # fmt: on
    return parser


def _describe_export(entry: dict[str, Any]) -> str:
    agreement = entry['agreement']
    frames = counted(agreement['frames'], 'held-out frame')
    return (
        f'{agreement["runtime"]}; {100 * agreement["class_agreement"]:.3f} % of pixels as the '
        f'original, official mIoU {agreement["exported"]["mIoU"]:.4f} against '
        f'{agreement["original"]["mIoU"]:.4f}, on {frames} of '
        f'{counted(agreement["videos"], "video")}'
    )

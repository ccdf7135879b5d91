# SPDX-License-Identifier: Apache-2.0
"""The verb `predict`: writes masks of videos or images as PNG, and their instruments."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from surgseg_ros.cli.arguments import MODEL_HELP, PRECISION_HELP, fraction, positive_int
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import check_folder, check_new_folder, folder_for, new_folder
from surgseg_ros.core.gates import GATES, OFF
from surgseg_ros.core.parameters import DEFAULTS, OFFLINE, PRECISIONS
from surgseg_ros.core.params_file import (
    GivenParameters,
    add_parameter_arguments,
    resolve_parameters,
)
from surgseg_ros.core.runtimes import RUNTIMES
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import VIDEO_EVERY, find_sources
from surgseg_ros.evaluation.instrument_folders import (
    Locator,
    check_names,
    predict_from_masks,
)
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.predict import (
    OUTPUT_LAYOUT,
    RECORD_FILE,
    PredictOptions,
    nothing_without_masks,
    predict,
    prepare,
)

OF_IMAGES: Final = (
    *('input', 'model', 'device', 'runtime', 'precision', 'every', 'least_region'),
    *('min_confidence', 'steady_frames', 'steady_sure'),
)
"""Options for predicting masks of images; they exclude --masks."""

OF_INSTRUMENTS: Final = frozenset({'least_area', 'min_detection_score', 'track_lost_ms'})
"""Parameters that do not affect masks."""

OF_MASKS: Final = OF_INSTRUMENTS | {'roi_mode'}
"""Parameters that apply to --masks."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Predict masks or instruments.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 1 if frames of a video are missing or damaged, and have no mask, or
        if some could not be processed, whose mask is NO_DECISION.
    :raises ValueError: if a frame, the model or the device cannot be used.
    :raises OSError: if masks cannot be written.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if error := _option_error(options):
        raise ValueError(error)
    if options.masks:
        return _predict_from_masks(options)
    parameters = _parameters(options)
    if parameters.model is None:
        parser.error('a model is needed, and the parameter model is empty: name one')
    return _predict_from_images(options, parameters)


def _predict_from_images(options: argparse.Namespace, parameters: GivenParameters) -> int:
    predict_options = PredictOptions(
        parameters.pipeline, parameters.roi, options.least_region, options.instruments
    )
    check_folder(options.output)
    locator = Locator(options.input) if options.instruments else None
    sources = find_sources(options.input, options.every)
    for source in sources:
        source.check()  # before there is an output
        check_names(source)
    if text := parameters.ignored_line():
        print(f'predict: {text}', file=sys.stderr)
    segmenter = _load(parameters)
    with folder_for(options.output / RECORD_FILE), nothing_without_masks(options.output):
        prepare(options.output, segmenter, parameters.values['precision'], predict_options)
        totals = predict(segmenter, sources, options.output, predict_options, locator)
        if not (totals.sizes or totals.found):
            raise FrameError('\n'.join(totals.losses) or _no_frames(options.input))
    print(f'{totals} in {options.output / OUTPUT_LAYOUT}')
    unlocated = locator.report() if locator else ''
    for text in filter(None, (totals.warning_line(), totals.failure_line(), unlocated)):
        print(f'predict: {text}', file=sys.stderr)
    if totals.losses:
        lost = '\n'.join(totals.losses)
        print(f'predict: no masks of missing or damaged frames:\n{lost}', file=sys.stderr)
    return 1 if totals.losses or totals.failures else 0


def _predict_from_masks(options: argparse.Namespace) -> int:
    parameters = resolve_parameters(options, {}, {}, OF_MASKS)
    check_new_folder(options.output)
    if text := parameters.ignored_line():
        print(f'predict: {text}', file=sys.stderr)
    locator = Locator(options.masks)
    with new_folder(options.output) as making:
        count = predict_from_masks(options.masks, making, parameters.pipeline, locator)
    print(f'instruments of {counted(count, "mask")} in {options.output / "video_*"}')
    if text := locator.report():
        print(f'predict: {text}', file=sys.stderr)
    return 0


def _option_error(options: argparse.Namespace) -> str:
    """Describe options that are missing or exclude each other; empty if there are none."""
    if not options.masks:
        return '' if options.input else 'give --input, or --masks'
    if not options.instruments:
        return '--masks requires --instruments, which finds the instruments in these masks'
    given = [f'--{name.replace("_", "-")}' for name in OF_IMAGES if getattr(options, name)]
    return f'{", ".join(given)} cannot be combined with --masks' if given else ''


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros predict', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--model', metavar='DIR', help=f'{MODEL_HELP}; also the parameter model')
    add('--input', type=Path, metavar='PATH',
        help='a video, a folder of images, or a data set: a folder of video_*')
    add('--output', type=Path, required=True, metavar='DIR',
        help='gets video_*/segmentation/000000060.png, or the names of the images of a folder; '
        'an interrupted run continues from there')
    add('--instruments', action='store_true',
        help='write the instruments in the masks too: their pixels as '
        'video_*/instances/000000060.png, their points as video_*/instruments/000000060.json')
    add('--masks', type=Path, metavar='DIR',
        help='with --instruments: find those of these masks, video_*/segmentation/*.png, instead '
        'of images; no model is needed, and --output must be new or empty; with --param '
        'roi_mode:=auto, the images beside the masks show what the endoscope fills')
    add('--every', type=positive_int, metavar='N',
        help='take frames whose number is a multiple of N (default: all images of a folder, '
        f'the frames of a data set that have a mask, each {VIDEO_EVERY}th of a video)')
    add_parameter_arguments(parser)
    add('--device', help='auto, cpu, cuda or cuda:N (default: auto)')
    add('--runtime', choices=RUNTIMES, help='default: torch')
    add('--precision', choices=PRECISIONS, help=PRECISION_HELP)
    add('--least-region', action='store_true',
        help="drop regions that are smaller than the model's least_region of their class")
    add('--min-confidence', type=fraction, metavar='P',
        help='turn pixels below it into 255, no decision (default: 0, none)')
    add('--steady-frames', type=positive_int, metavar='N',
        help='let a pixel change its class only after N frames that show the new one, or a sure '
        'one; for frames that follow each other closely (default: off)')
    add('--steady-sure', type=float, metavar='P',
        help=f'confidence of a sure one (default: {DEFAULTS["steady_sure"]})')
    # fmt: on
    return parser


def _parameters(options: argparse.Namespace) -> GivenParameters:
    """Read the node's parameters; options override them, and all gates are off by default."""
    if options.steady_frames == 1:
        raise ValueError('steady_frames is 1, expected 2 or more: leave it out to switch it off')
    of_model = ('model', 'device', 'runtime', 'precision')
    names = (*of_model, 'min_confidence', 'steady_frames', 'steady_sure')
    chosen = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in chosen.items() if value is not None}
    defaults = {'runtime': 'torch', **{f'gates.{name}.action': OFF for name in GATES}}
    unused = frozenset() if options.instruments else OF_INSTRUMENTS
    return resolve_parameters(options, given, defaults, OFFLINE - unused)


def _load(parameters: GivenParameters) -> Segmenter:
    values = parameters.values
    if values['cpu_threads']:
        torch.set_num_threads(values['cpu_threads'])
    how = values['device'], values['runtime']
    return Segmenter.load(values['model'], *how, precision=values['precision'])


def _no_frames(path: Path) -> str:
    return f'{str(path)!r} has none of the requested frames: choose another --every'

# SPDX-License-Identifier: Apache-2.0
"""The verb `export`: converts a network for another runtime, and compares it with the original."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgseg_ros.cli.arguments import MODEL_HELP, positive_int
from surgseg_ros.core.default_model import DEFAULT_MODEL, find_model
from surgseg_ros.core.model_folder import PRECISIONS
from surgseg_ros.exporting.export import BACKENDS, RefusedError, export


def main(argv: Sequence[str] | None = None) -> int:
    """
    Export.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if the export agrees too little.
    :raises ValueError: of the model or a data set, if it cannot be used.
    :raises OSError: if the export cannot be written.
    """
    options = _parser().parse_args(argv)
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
    print(f'{options.output}: {_describe(written.exports[options.backend])}')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros export', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--model', default=DEFAULT_MODEL, metavar='DIR', help=MODEL_HELP)
    add('--backend', required=True, choices=BACKENDS,
        help='openvino: for CPUs; onnx: for TensorRT, by ONNX Runtime')
    add('--precision', required=True, choices=PRECISIONS,
        help='int8 is calibrated by frames; bf16 of onnx takes TensorRT')
    add('--output', type=Path, required=True, metavar='DIR',
        help='a new folder; gets all that is in the model folder, and the export')
    add('--calibration', type=Path, metavar='DATA_DIR',
        help='a data set (default: synthetic scenes, for a model that has seen no others)')
    add('--held-out', type=Path, metavar='DATA_DIR',
        help='a data set to compare on (default: half of the videos of --calibration)')
    add('--frames', type=positive_int, default=100, metavar='N',
        help='to calibrate by, and to compare on, at most (default: %(default)s)')
    # fmt: on
    return parser


def _describe(entry: dict[str, Any]) -> str:
    agreement = entry['agreement']
    return (
        f'{agreement["runtime"]}; {100 * agreement["class_agreement"]:.3f} % of pixels as the '
        f'original, official mIoU {agreement["exported"]["mIoU"]:.4f} against '
        f'{agreement["original"]["mIoU"]:.4f}, on {agreement["frames"]} held-out frames of '
        f'{agreement["videos"]} videos'
    )

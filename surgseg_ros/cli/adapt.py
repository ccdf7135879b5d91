# SPDX-License-Identifier: Apache-2.0
"""The verb `adapt`: adapts a model to unlabelled videos of one's own, without training."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from surgseg_ros.cli.arguments import MODEL_HELP, fraction, positive_int
from surgseg_ros.core.default_model import DEFAULT_MODEL, find_model
from surgseg_ros.training.adaptation import WEIGHT, adapt


def main(argv: Sequence[str] | None = None) -> int:
    """
    Adapt.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status; 1 if images of a video are missing or damaged, and were left out.
    :raises ValueError: of the model, a video or the output, if it cannot be used.
    :raises OSError: if the model cannot be written.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.weight:
        parser.error('argument --weight: 0 changes nothing; give a number above 0, up to 1')
    adapted = adapt(
        find_model(options.model), options.video, options.output, options.images, options.weight
    )
    if adapted.losses:
        lost = '\n'.join(adapted.losses)
        print(f'adapt: left out what is missing or damaged:\n{lost}', file=sys.stderr)
    made_of = adapted.spec.training['adapted']
    print(
        f'{options.output}: adapted to {made_of["images"]} images of '
        f'{len(made_of["videos"])} videos; measure whether that helps (`evaluate --labelled`)'
    )
    return 1 if adapted.losses else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros adapt', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--model', default=DEFAULT_MODEL, metavar='DIR', help=MODEL_HELP)
    add('--video', type=Path, required=True, nargs='+', metavar='PATH',
        help='videos, folders of images or data sets of one camera; masks are not read')
    add('--output', type=Path, required=True, metavar='DIR', help='a new folder, for the model')
    add('--images', type=positive_int, default=64, metavar='N',
        help='to adapt to, spread over all videos, at most (default: %(default)s)')
    add('--weight', type=fraction, default=WEIGHT, metavar='W',
        help="of the images' statistics against those of the training, up to 1 "
        '(default: %(default)s)')
    # fmt: on
    return parser

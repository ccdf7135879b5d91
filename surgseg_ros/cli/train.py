# SPDX-License-Identifier: Apache-2.0
"""The verb `train`: from a folder of videos and a file of settings to a model folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from surgseg_ros.training.config import read_config
from surgseg_ros.training.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """
    Train.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: of the settings, the data or the network, if they cannot be used.
    :raises OSError: if the model, or a file of the run, cannot be written.
    """
    options = _parser().parse_args(argv)
    train(read_config(options.config, options.settings), resume=options.resume)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros train', description=__doc__)
    add = parser.add_argument
    add('--config', type=Path, required=True, metavar='FILE', help='YAML settings')
    add(
        '--resume',
        action='store_true',
        help='go on from the last checkpoint in the output folder, if there is one',
    )
    add('settings', nargs='*', metavar='key=value', help='instead of what the file says')
    return parser

# SPDX-License-Identifier: Apache-2.0
"""
Makes the model of the benchmark from nothing: draws scenes, trains, exports for OpenVINO.

python -m tools.benchmarks.model --output DIR [key=value …]

It takes some minutes on two cores. What is done already is not done again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from surgseg_ros.exporting import export
from tools.runs import StepError, Videos, draw, train_once

CONFIG: Final = Path(__file__).parents[2] / 'config' / 'train_benchmark.yaml'

SCENES: Final = Videos(seed=2, videos=160, frames=4, stride=25, size=(360, 640))
"""Twice the network's input each way, which is quick to draw."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Make the model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if the export agrees too little, 2 if a step can't be done.
    """
    options = _parser().parse_args(argv)
    try:
        scenes = draw(options.work / 'scenes', SCENES._replace(videos=options.videos))
        settings = [f'data={scenes}', *options.settings]
        trained = train_once(CONFIG, options.work / 'trained', settings)
    except StepError as error:
        print(f'model: ended at {error}', file=sys.stderr)
        return 2
    words = ['--model', f'{trained}', '--output', f'{options.output}', '--backend', 'openvino']
    return export.main([*words, '--precision', options.precision])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmarks.model',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, required=True, metavar='DIR', help='the model folder, new')
    add('--work', type=Path, default=Path('runs/benchmark_model'), metavar='DIR',
        help='scenes and training run (default: %(default)s)')
    add('--videos', type=int, default=SCENES.videos, metavar='N', help='default: %(default)s')
    add('--precision', default='bf16', help='of the export (default: %(default)s)')
    add('settings', nargs='*', metavar='key=value', help='given to `train`')
    # fmt: on
    return parser


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""
Creates the models of the benchmarks from scratch: draws scenes, trains, exports for OpenVINO.

python -m tools.benchmarks.model [--recipe small|resnet34] --output DIR [key=value …]

Each takes some minutes on two cores. Finished steps are not repeated.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from surgseg_ros.__main__ import main as run_verb
from tools.runs import StepError, Videos, draw, train_once

RECIPES: Final = {name: Path(__file__).with_name(f'{name}.yaml') for name in ('small', 'resnet34')}

SCENES: Final = Videos(seed=2, videos=160, frames=4, stride=25, size=(360, 640))
"""Scenes of twice the network's input in each dimension, which are quick to draw."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Create the model.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if the export agrees too little, 2 if a step fails.
    """
    options = _parser().parse_args(argv)
    try:
        trained = train(options.recipe, options.work, options.videos, options.settings)
    except StepError as error:
        print(f'model: ended at {error}', file=sys.stderr)
        return 2
    words = ['--model', f'{trained}', '--output', f'{options.output}', '--backend', 'openvino']
    return run_verb(['export', *words, '--precision', options.precision])


def train(recipe: str, work: Path, videos: int, settings: Sequence[str] = ()) -> Path:
    """
    Draw scenes and train, unless this has been done.

    :param recipe: a key of RECIPES.
    :param work: folder of scenes and training runs.
    :param videos: number of videos to draw.
    :param settings: `key=value`, which override the recipe's.
    :return: the model folder.
    :raises StepError: if a step fails.
    """
    scenes = draw(work / 'scenes', SCENES._replace(videos=videos))
    return train_once(RECIPES[recipe], work / recipe, [f'data={scenes}', *settings])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmarks.model',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, required=True, metavar='DIR', help='the model folder, new')
    add('--recipe', choices=RECIPES, default='small', help='default: %(default)s')
    add('--work', type=Path, default=Path('runs/benchmark_model'), metavar='DIR',
        help='scenes and training run (default: %(default)s)')
    add('--videos', type=int, default=SCENES.videos, metavar='N', help='default: %(default)s')
    add('--precision', default='bf16', help='of the export (default: %(default)s)')
    add('settings', nargs='*', metavar='key=value', help='given to `train`')
    # fmt: on
    return parser


if __name__ == '__main__':
    sys.exit(main())

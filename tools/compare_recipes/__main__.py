# SPDX-License-Identifier: Apache-2.0
"""
Trains the paper's recipe and ours in the same way, and scores both on unseen videos.

Both use the same videos, encoder, initial weights and number of steps. The minimum region size is
tuned for both on separate videos, and the scores are reported with and without it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgseg_ros.core.files import write_atomically
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.training.dataset import DatasetError, Sample, find_samples
from surgseg_ros.training.scoring import ValidationFrame, score, tune_min_region
from tools.compare_recipes.recipes import CONFIGS, SCALES, STEPS, settings
from tools.compare_recipes.report import report, summarize
from tools.runs import StepError, Videos, draw, is_done, train_once

VIDEOS: Final = {
    'train': Videos(seed=1, videos=321, frames=4, stride=25),
    'tune': Videos(seed=12, videos=16, frames=4, stride=40),
    'test': Videos(seed=13, videos=24, frames=6, stride=25),
}
"""Frames are far apart, so that they differ; no two of these videos share a scene."""


@dataclass(frozen=True)
class Folder:
    """
    Videos for scoring.

    :param samples: frames of the videos.
    """

    samples: tuple[Sample, ...]

    def __call__(self) -> Iterator[ValidationFrame]:
        """Decode the frames, one at a time."""
        for sample in self.samples:
            yield sample.video, *sample.read()


def main(argv: Sequence[str] | None = None) -> int:
    """
    Compare both recipes.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _parser().parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        _compare(options)
    except (StepError, DatasetError) as error:
        print(f'compare_recipes: {error}; the same command continues from there', file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m tools.compare_recipes', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--work', type=Path, required=True, metavar='DIR', help='videos, models and results')
    add('--scale', choices=SCALES, default='small', help='small, for two cores, or full')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='S', help='default: 0 1 2')
    add('--recipes', nargs='+', choices=CONFIGS, default=[*CONFIGS], help='which to train now')
    add('--steps', type=int, metavar='N',
        help='optimizer steps of each run (default: {small} or {full})'.format(**STEPS))
    for part, wanted in VIDEOS.items():
        name = 'training' if part == 'train' else part
        add(f'--{name}-videos', dest=part, type=int, default=wanted.videos, metavar='N',
            help=f'to draw, {wanted.frames} frames each (default: %(default)s)')
        add(f'--{name}-data', dest=f'{part}_data', type=Path, metavar='DIR',
            help='an existing folder of videos to use instead')
    add('--size', default='1280x720', metavar='WxH', help='of drawn videos (default: %(default)s)')
    add('--device', default='auto', help='to train and score on (default: auto)')
    add('settings', nargs='*', metavar='key=value', help='given to `train`, for both recipes')
    # fmt: on
    return parser


def _compare(options: argparse.Namespace) -> None:
    """Draw, train, score, and write the available results."""
    data = {part: _folder(options, part) for part in VIDEOS}
    tune, test = (Folder(find_samples(data[part])) for part in ('tune', 'test'))
    steps = options.steps or STEPS[options.scale]
    runs = options.work / 'models'
    for seed in options.seeds:
        for recipe in options.recipes:
            own = settings(options.scale, recipe, seed, steps)
            own += [f'data={data["train"]}', f'cache={options.work / "cache"}']
            own += [f'device={options.device}', *options.settings]
            train_once(CONFIGS[recipe], runs / f'{recipe}_{seed}', own)
    models = [
        {'recipe': recipe, 'seed': seed, **_scored(runs / name, tune, test, options)}
        for recipe in CONFIGS
        for seed in options.seeds
        if is_done(runs / (name := f'{recipe}_{seed}'))
    ]
    trained = {model['recipe'] for model in models}
    if missing := [recipe for recipe in CONFIGS if recipe not in trained]:
        print(f'nothing to compare yet: {", ".join(missing)} not trained')
        return
    result = {
        'scale': options.scale,
        'steps': steps,
        'settings': options.settings,
        'data': {part: _count(folder) for part, folder in data.items()},
        'models': models,
        'summary': summarize(models),
    }
    write_atomically(options.work / 'comparison.json', json.dumps(result, indent=2).encode())
    write_atomically(options.work / 'comparison.md', report(result).encode())
    print(report(result))


def _folder(options: argparse.Namespace, part: str) -> Path:
    given: Path | None = getattr(options, f'{part}_data')
    if given:
        return given
    width, height = (int(side) for side in options.size.split('x'))
    wanted = VIDEOS[part]._replace(videos=getattr(options, part), size=(height, width))
    return draw(options.work / part, wanted)


def _count(folder: Path) -> dict[str, int]:
    samples = find_samples(folder)
    return {'videos': len({sample.video for sample in samples}), 'frames': len(samples)}


def _scored(
    model: Path, tune: Folder, test: Folder, options: argparse.Namespace
) -> dict[str, Any]:
    """Tune and score a model, unless this has been done."""
    segmenter = Segmenter.load(model, options.device, 'torch')
    kept = options.work / 'scores' / f'{model.name}.json'
    # Converted as if it were read again: a list, not a tuple.
    of = [segmenter.spec.weights_sha256, [str(s.mask) for f in (tune, test) for s in f.samples]]
    if kept.exists() and (result := json.loads(kept.read_text()))['of'] == of:
        return dict(result['result'])
    minimum = tune_min_region(segmenter, tune)
    result = {
        'weights_sha256': segmenter.spec.weights_sha256,
        'steps_done': segmenter.spec.training.get('steps_done'),
        'least_region': list(minimum),
        'scores': score(segmenter, test, minimum),
    }
    kept.parent.mkdir(exist_ok=True)
    write_atomically(kept, json.dumps({'of': of, 'result': result}).encode())
    return result


if __name__ == '__main__':
    sys.exit(main())

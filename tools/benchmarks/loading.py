# SPDX-License-Identifier: Apache-2.0
"""
Compares training steps with the real loader and the same steps on a batch in memory.

python -m tools.benchmarks.loading --json FILE [--workers 0 1 2] [key=value …]

Both alternate, in pairs, in one process. A step is forward, loss, backward and optimizer; the
other work of a run (weight averaging, logs, validation) would hide the cost of the loader.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from surgseg_ros.cli.data import run_synthesize
from surgseg_ros.core.runtimes import choose_device
from surgseg_ros.training.config import ConfigError, TrainConfig, read_config
from tools.benchmarks.machine import describe
from tools.benchmarks.steps import Pair, time_loader

MIN_RATIO: Final = 0.9
RECIPE: Final = Path(__file__).parents[2] / 'config' / 'train_default.yaml'

_PACKAGES: Final = ('torch', 'numpy', 'opencv-python-headless')
_SHOWN: Final = (
    'architecture',
    'encoder',
    'input_size',
    'crop_size',
    'batch_size',
    'precision',
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Time the steps, print the table, and write the results.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if no number of workers reaches the ratio, 2 if there is no run.
    """
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            overrides = [*options.settings, f'data={options.data or folder / "data"}']
            config = read_config(options.config, [*overrides, f'output={folder / "model"}'])
            device = torch.device(choose_device(config.device))
        except (ConfigError, ValueError) as error:
            print(f'loading: {error}', file=sys.stderr)
            return 2
        if not options.data:
            draw(folder / 'data')
        reported = _report(config, device)
        timings = {}
        for workers in options.workers:
            changed = dataclasses.replace(config, workers=workers)
            timings[workers] = time_loader(changed, folder, options.pairs, options.steps)
            print(_line(workers, timings[workers]), flush=True)
    result = summarize(timings)
    if options.json:
        whole = {**reported, 'steps': options.steps, **result}
        options.json.write_text(json.dumps(whole, indent=2) + '\n')
    best = result['best']
    print(f'best ratio: {best["ratio"]:.3f} with {best["workers"]} workers')
    return 0 if best['ratio'] >= MIN_RATIO else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tools.benchmarks.loading',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--config',
        type=Path,
        default=RECIPE,
        metavar='FILE',
        help="default: the shipped model's",
    )
    add('--data', type=Path, metavar='DIR', help='a data set (default: some synthetic frames)')
    add('--workers', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='default: 0 1 2')
    add('--pairs', type=int, default=5, help='for each number of workers (default: %(default)s)')
    add('--steps', type=int, default=12, help='of each measurement (default: %(default)s)')
    add('--json', type=Path, metavar='FILE', help='where to write the numbers')
    add('settings', nargs='*', metavar='key=value', help='settings that override the recipe')
    return parser


def _report(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Print the machine and the settings of the measurement."""
    cores = len(os.sched_getaffinity(0))
    on = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'steps on the CPU'
    machine = describe(f'{cores} cores, {on}', _PACKAGES)
    print(machine)
    print(', '.join(f'{key} {getattr(config, key)}' for key in _SHOWN))
    recipe = {key: getattr(config, key) for key in _SHOWN}
    return {
        'machine': machine,
        'recipe': {**recipe, 'augmentation': dataclasses.asdict(config.augmentation)},
    }


def draw(folder: Path, size: str = '1280x720') -> None:
    """
    Draw a small data set; once resized, its frames take as long to load as those of a large one.

    :param folder: folder of the data set.
    :param size: size of the images, width x height.
    """
    words = ['--videos', '3', '--frames', '8', '--stride', '15', '--seed', '77', '--jpeg']
    run_synthesize(['--output', str(folder), *words, '--size', size])


def summarize(timings: dict[int, list[Pair]]) -> dict[str, Any]:
    """
    Summarize the measurements.

    :param timings: pairs of measurements by number of workers.
    :return: content of the JSON file.
    """
    ratios = {workers: median(pair.ratio for pair in pairs) for workers, pairs in timings.items()}
    best = max(ratios, key=lambda workers: ratios[workers])
    return {
        'min_ratio': MIN_RATIO,
        'best': {'workers': best, 'ratio': ratios[best]},
        'workers': {
            str(workers): {
                'ratio': ratios[workers],
                'loader_frames_per_s': median(pair.loader for pair in pairs),
                'memory_frames_per_s': median(pair.memory for pair in pairs),
                'pairs': [pair._asdict() for pair in pairs],
            }
            for workers, pairs in timings.items()
        },
    }


def _line(workers: int, pairs: Sequence[Pair]) -> str:
    ratios = sorted(pair.ratio for pair in pairs)
    loader, memory = (median(getattr(pair, key) for pair in pairs) for key in Pair._fields)
    return (
        f'{workers} workers: loader {loader:7.1f} frames/s   memory {memory:7.1f} frames/s   '
        f'ratio {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})'
    )


if __name__ == '__main__':
    sys.exit(main())

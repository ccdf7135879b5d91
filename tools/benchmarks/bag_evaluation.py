# SPDX-License-Identifier: Apache-2.0
"""Compares the time of `evaluate_bag` with that of the network alone; prints Markdown."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag
from surgseg_ros.cli.benchmark import draw
from surgseg_ros.core.model_folder import read_model
from surgseg_ros.core.preprocessing import fit
from surgseg_ros.core.runtimes import AUTO
from surgseg_ros.core.runtimes.pytorch import load_network
from surgseg_ros.core.segmenter import Segmenter
from tools.benchmarks.machine import describe

IMAGE_TOPIC: Final = '/camera/image_raw'
SIZE: Final = (1080, 1920)
LONGER: Final = 4
"""Length of the long bag, by which memory is compared, as a multiple of the short one."""

RgbArray = NDArray[np.uint8]


class Evaluated(NamedTuple):
    """A run of `evaluate_bag`: ms per frame, peak memory of the main process, ms by stage."""

    ms_per_frame: float
    peak_mib: float
    stages: dict[str, dict[str, float]]


class Round(NamedTuple):
    """
    Times in milliseconds per frame.

    :param plain: time of the network alone, in PyTorch.
    :param network: time of the network alone, in the model's runtime.
    :param segment: time of the whole model.
    :param evaluate_bag: time of the verb.
    """

    plain: float
    network: float
    segment: float
    evaluate_bag: float


def main(argv: Sequence[str] | None = None) -> int:
    """
    Measure and print.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _parser().parse_args(argv)
    how = options.device, options.runtime
    segmenter = Segmenter.load(options.model, *how, precision=options.precision)
    segmenter.warm_up()
    plain = load_network(*read_model(options.model)).to(segmenter.runtime.device)
    images = draw(SIZE)
    with tempfile.TemporaryDirectory() as name:
        bag, longer = (Path(name) / word for word in ('bag', 'longer'))
        write_image_bag(bag, _frames(images, options.frames))
        rounds = [
            _measure(plain, segmenter, images, lambda: _evaluate_bag(options, bag), number)
            for number in range(options.rounds)
        ]
        last = _evaluate_bag(options, bag)
        write_image_bag(longer, _frames(images, LONGER * options.frames))
        growth_mib = _evaluate_bag(options, longer).peak_mib - last.peak_mib
    print(_table(rounds))
    print(f'\nMedian of each stage, ms: {_stages(last.stages)}.\n')
    print(
        f'With a bag {LONGER} times as long the main process took {growth_mib:.1f} MiB more '
        f'memory at its peak than the {last.peak_mib:.0f} MiB before. {segmenter.spec.name}, '
        f'{segmenter.runtime.description}, {options.frames} frames of 1920x1080 rgb8 in MCAP, '
        f'{options.rounds} rounds in turn.'
    )
    print(describe(f'{torch.get_num_threads()} threads', ('torch', 'rosbags', 'numpy')))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='tools.benchmarks.bag_evaluation', description=__doc__)
    add = parser.add_argument
    add('--model', type=Path, default=Path('models/default'), metavar='DIR')
    add('--device', default='auto')
    add('--runtime', default=AUTO)
    add('--precision', default=AUTO)
    add('--frames', type=int, default=100, metavar='N')
    add('--rounds', type=int, default=5, metavar='N')
    return parser


def _frames(images: Sequence[RgbArray], count: int) -> Iterator[tuple[int, RgbArray, None]]:
    for number in range(count):
        yield START_TIME_NS + number * 10**8, images[number % len(images)], None


def _measure(
    plain: Callable[[Tensor], Tensor],
    segmenter: Segmenter,
    images: Sequence[RgbArray],
    evaluate_bag: Callable[[], Evaluated],
    number: int,
) -> Round:
    """Measure all variants; each round starts with another one, in case the machine slows down."""
    spec, device = segmenter.spec, segmenter.runtime.device
    inputs = [
        fit(torch.from_numpy(image.copy())[None].to(device), spec.input_size, spec.fit)
        for image in images
    ]
    acts: list[Callable[[], float]] = [
        lambda: _per_frame_ms(lambda n: plain(inputs[n]), len(images), device),
        lambda: _per_frame_ms(lambda n: segmenter.runtime(inputs[n]), len(images), device),
        lambda: _per_frame_ms(
            lambda n: segmenter.segment(images[n], grid_confidence=True), len(images), device
        ),
        lambda: evaluate_bag().ms_per_frame,
    ]
    order = [(number + index) % len(acts) for index in range(len(acts))]
    found = {index: acts[index]() for index in order}
    return Round(*(found[index] for index in range(len(acts))))


@torch.inference_mode()
def _per_frame_ms(action: Callable[[int], Any], images: int, device: torch.device) -> float:
    count = 4 * images
    start_s = time.perf_counter()
    for number in range(count):
        action(number % images)
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start_s) / count


def _evaluate_bag(options: argparse.Namespace, bag: Path) -> Evaluated:
    """Run the verb as users do, in a separate process."""
    report, output = bag.with_name('out.json'), bag.with_name('out.mcap')
    output.unlink(missing_ok=True)
    command = [
        *(sys.executable, '-m', 'surgseg_ros', 'evaluate_bag', '--bag', f'{bag}'),
        *('--model', f'{options.model}', '--runtime', options.runtime),
        *('--device', options.device, '--precision', options.precision),
        *('--image-topic', IMAGE_TOPIC),
        *('--output', f'{output}', '--json', f'{report}'),
    ]
    peak_mib = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, _peak_mib(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f'evaluate_bag ended with {process.returncode}')
    numbers = json.loads(report.read_text())
    ms = 1e3 * numbers['elapsed_s'] / numbers['frames']
    return Evaluated(ms, peak_mib, numbers['latency_ms'])


def _peak_mib(process_id: int) -> float:
    """Return the peak of resident memory; the system's own value would include the parent's."""
    lines = Path(f'/proc/{process_id}/status').read_text().splitlines()
    return next((int(x.split()[1]) for x in lines if x.startswith('VmHWM')), 0) / 1024


def _table(rounds: Sequence[Round]) -> str:
    lines = [
        '| ms per frame | median | ratio to the plain network | to that of the runtime |',
        '| --- | --- | --- | --- |',
    ]
    for name in Round._fields:
        values = [getattr(each, name) for each in rounds]
        to_plain, to_network = (
            _spread(values, [getattr(each, bare) for each in rounds])
            for bare in ('plain', 'network')
        )
        lines.append(f'| {name} | {median(values):.1f} | {to_plain} | {to_network} |')
    return '\n'.join(lines)


def _spread(values: Sequence[float], bare: Sequence[float]) -> str:
    """Format the median of the ratios of all rounds, with the lowest and the highest."""
    ratios = [value / base for value, base in zip(values, bare, strict=True)]
    return f'{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})'


def _stages(latencies: dict[str, dict[str, float]]) -> str:
    return ', '.join(f'{name} {times["p50"]:.1f}' for name, times in latencies.items())


if __name__ == '__main__':
    sys.exit(main())

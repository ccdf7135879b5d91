# SPDX-License-Identifier: Apache-2.0
"""
Compares the paper's path from a 1080p image to a 1080p mask with ours, alternating.

python -m tools.benchmarks.paper [--sizes 256x256 640x512] [--precisions bf16 int8] [--json FILE]

The paper's path: PIL resize, ToTensor, eager float32, logits interpolated to 1080p, argmax. Ours:
the Segmenter on OpenVINO. The compared paths compute only the mask; the cost of the confidence,
which the node also needs, is listed beside them. The network is a U-Net with ResNet-34, trained
briefly (tools/benchmarks/resnet34.yaml) so that masks can be compared: noise would never agree.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from surgseg_ros.benchmarking import floors
from surgseg_ros.benchmarking.report import machine_line, markdown
from surgseg_ros.cli.arguments import image_size
from surgseg_ros.cli.benchmark import draw
from tools.benchmarks.model import SCENES, train
from tools.benchmarks.variants import Variant, alternate, export_at
from tools.runs import StepError

MIN_RATIO: Final = 3.0
LARGEST_SHARE: Final = 0.25
"""Maximum time of our postprocessing, as a share of the network's, at the largest input."""
MIN_AGREEMENT: Final = 0.999
"""Minimum agreement of our postprocessing with the plain one, on the same logits."""

_SIZE: Final = (1080, 1920)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Time both paths, print tables, and write the results.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if our fastest path misses a bound, 2 if there is no model.
    """
    options = _parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        model = options.model or train('resnet34', options.work, SCENES.videos)
        report = _measure(options, model)
    except (StepError, ValueError) as error:
        print(f'paper: {error}', file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + '\n')
    print('\n\n'.join([_times(report), _upsampling(report), machine_line(report)]))
    missed = find_missed(report['inputs'])
    print('\n'.join(missed or ['All bounds are met.']))
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m tools.benchmarks.paper',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add('--model', type=Path, metavar='DIR', help='a trained one (default: trained in --work)')
    add('--work', type=Path, default=Path('runs/benchmark_model'), metavar='DIR',
        help='scenes and training run (default: %(default)s)')
    add('--sizes', type=image_size, nargs='+', default=[(256, 256), (640, 512)], metavar='WxH',
        help="the network's inputs (default: 256x256 640x512)")
    add('--precisions', nargs='+', default=['bf16', 'int8'], choices=['f32', 'bf16', 'int8'],
        help='of OpenVINO (default: bf16 int8)')
    add('--rounds', type=int, default=16, help='of all variants in turn (default: %(default)s)')
    add('--frames', type=int, default=30, help='to export by (default: %(default)s)')
    add('--threads', type=int, default=0, help="0: torch's choice")
    add('--json', type=Path, metavar='FILE', help='where to write the numbers')
    # fmt: on
    return parser


def _measure(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    images = draw(_SIZE)
    rates = floors.measure_rates(torch.device('cpu'))
    inputs = []
    with tempfile.TemporaryDirectory() as scratch:
        for width, height in options.sizes:
            folder = Path(scratch, f'{width}x{height}')
            spec, exports, refused = export_at(
                model, (height, width), options.precisions, folder, options.frames
            )
            print(f'paper: {width}x{height}, {options.rounds} rounds', file=sys.stderr)
            variants = alternate(folder / 'plain', exports, images, options.rounds)
            inputs.append({
                'input': f'{width}x{height}',
                'flops': floors.count_flops(spec),
                'refused': refused,
                'variants': {
                    name: _summary(each, variants['plain']) for name, each in variants.items()
                },
                'floor_ms': {
                    name: floors.stage_floors(spec, _SIZE, variant.runtime, rates)
                    for name, variant in variants.items()
                },
            })  # fmt: skip
    return {
        'inputs': inputs,
        'hardware': floors.hardware(),
        'rates': floors.described(rates),
        'model': floors.model(spec, 'OpenVINO, and torch float32 as the paper'),
    }


def _summary(variant: Variant, plain: Variant) -> dict[str, Any]:
    ratios = [theirs / ours for theirs, ours in zip(plain.whole_ms, variant.whole_ms, strict=True)]
    stages = {name: median(times) for name, times in variant.stages_ms.items()}
    return {
        'whole_ms': median(variant.whole_ms),
        'ratio': median(ratios),
        'ratios': [min(ratios), max(ratios)],
        'stages_ms': stages,
        'share': stages['upsample'] / stages['network'],
        'share_with_confidence': (
            median(variant.with_confidence_ms) / stages['network']
            if variant.with_confidence_ms
            else None
        ),
        'same_upsampled': variant.same_upsampled,
        'same_as_plain': variant.same_as_plain,
        'export': variant.agreement,
    }


def find_missed(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    Compare our fastest path with the bounds.

    :param inputs: inputs of the report, the largest last.
    :return: a sentence for each bound that is missed.
    """
    missed = []
    for row in inputs:
        name, best = max(
            ((name, variant) for name, variant in row['variants'].items() if name != 'plain'),
            key=lambda pair: pair[1]['ratio'],
        )
        at = f'{row["input"]}, {name}'
        if best['ratio'] < MIN_RATIO:
            missed.append(f'{at}: {best["ratio"]:.2f} times as fast, less than {MIN_RATIO:g}')
        if best['same_upsampled'] < MIN_AGREEMENT:
            missed.append(
                f'{at}: the postprocessing gives {best["same_upsampled"]:.5f} of the plain classes'
            )
    share = best['share']
    if share > LARGEST_SHARE:
        missed.append(
            f'{at}: the postprocessing takes {share:.2f} of the network, more than {LARGEST_SHARE}'
        )
    return missed


def _times(report: Mapping[str, Any]) -> str:
    return markdown(
        ['network input', 'variant', 'fit, ms', 'network, ms', 'its floor',
         'upsampling and argmax, ms', 'all, ms', 'times as fast (minimum to maximum)'],
        (
            [row['input'], name, timed['stages_ms']['fit'], timed['stages_ms']['network'],
             row['floor_ms'][name]['network'], timed['stages_ms']['upsample'], timed['whole_ms'],
             f'{timed["ratio"]:.2f} ({timed["ratios"][0]:.2f} to {timed["ratios"][1]:.2f})']
            for row in report['inputs'] for name, timed in row['variants'].items()
        ),
    )  # fmt: skip


def _upsampling(report: Mapping[str, Any]) -> str:
    rows = []
    for row in report['inputs']:
        for name, timed in row['variants'].items():
            if name != 'plain':
                held = timed['export']['class_agreement']
                rows.append([
                    row['input'], name, f'{timed["share"]:.3f}',
                    f'{timed["share_with_confidence"]:.3f}',
                    f'{100 * timed["same_upsampled"]:.3f} %',
                    f'{100 * timed["same_as_plain"]:.3f} %', f'{100 * held:.3f} %',
                ])  # fmt: skip
        rows += [[row['input'], name, f'refused: {why}'] for name, why in row['refused'].items()]
    return markdown(
        ['network input', 'precision', 'upsampling / network', 'with confidence',
         'same as plain upsampling of the same logits', "same as the paper's path",
         'same as float32 on held-out scenes'],
        rows,
    )  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""
The verb `evaluate_bag`: a bag through a model, frame by frame, without ROS running.

Exit status: 0 if all was evaluated; 1 if it was as far as possible, but a bag is damaged or could
not be read (the numbers are written and say it); 2 if nothing was evaluated or written.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.files import write_whole
from surgseg_ros.core.runtimes import AUTO, RUNTIMES
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.lockstep.lockstep import evaluate
from surgseg_ros.lockstep.options import Options
from surgseg_ros.lockstep.results import merge


def main(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate bags.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    arguments = _parser().parse_args(argv)
    try:
        options = _options(arguments)
        (bag,) = arguments.bag
        if options.threads:
            torch.set_num_threads(options.threads)
        segmenter = Segmenter.load(options.model or '', options.device, options.runtime)
        segmenter.warm_up()
        result = evaluate(bag, arguments.output, segmenter, options)
        model = {
            'name': segmenter.spec.name,
            'weights_sha256': segmenter.spec.weights_sha256,
            'runtime': segmenter.runtime.description,
            'threads': torch.get_num_threads(),
        }
        merged = merge({bag.name: result}, {}, model, options)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.json, (json.dumps(merged, indent=1) + '\n').encode())
    except (ValueError, OSError) as error:  # of which all errors of bags, models and devices are
        print(f'evaluate_bag: {error}', file=sys.stderr)
        return 2
    return _report(merged)


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        image_topic=arguments.image_topic,
        ground_truth_topic=arguments.ground_truth_topic,
        tolerance_ns=round(arguments.tolerance_ms * 1e6),
        model=arguments.model,
        device=arguments.device,
        runtime=arguments.runtime,
        threads=arguments.threads,
        roi=None if arguments.roi is None else Roi(*arguments.roi),
        least_area=arguments.least_area,
        confidence=arguments.confidence,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros evaluate_bag', description=__doc__)
    add = parser.add_argument
    # fmt: off
    add('--model', type=Path, required=True, metavar='DIR', help='the model folder')
    add('--bag', type=Path, required=True, nargs='+', metavar='BAG')
    add('--image-topic', required=True, metavar='TOPIC')
    add('--ground-truth-topic', metavar='TOPIC')
    add('--tolerance-ms', type=float, default=0.0, metavar='MS')
    add('--roi', type=int, nargs=4)
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)')
    add('--runtime', default=AUTO, choices=(AUTO, *RUNTIMES), help='default: %(default)s')
    add('--threads', type=int, default=0)
    add('--least-area', type=float, default=DEFAULT_LEAST_AREA)
    add('--confidence', action='store_true')
    add('--output', type=Path, metavar='OUT.mcap')
    add('--json', type=Path, required=True, metavar='FILE')
    # fmt: on
    return parser


def _report(merged: dict[str, Any]) -> int:
    """Say what is to be said; the exit status."""
    for name, numbers in merged['bags'].items():
        if numbers['damage']:
            print(f'evaluate_bag: {name}: {numbers["damage"]}', file=sys.stderr)
        for trouble in numbers['troubles']:
            print(
                f'evaluate_bag: {name}: {trouble["count"]} x {trouble["first"]}', file=sys.stderr
            )
    damaged = any(numbers['damage'] for numbers in merged['bags'].values())
    return 1 if damaged or merged['unreadable'] else 0

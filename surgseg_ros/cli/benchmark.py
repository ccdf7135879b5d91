# SPDX-License-Identifier: Apache-2.0
"""Measures the times of a frame: by stage, or from camera to listener over DDS."""

import argparse
import importlib
import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import surgseg_ros
from surgseg_ros.benchmarking.report import plot, table
from surgseg_ros.cli.arguments import (
    MODEL_HELP,
    image_size,
    non_negative_int,
    positive_float,
    positive_int,
    svg_file,
)
from surgseg_ros.core.errors import counted
from surgseg_ros.core.files import check_file, check_folder, scratch_folder, write_atomically
from surgseg_ros.core.model_folder import DEFAULT_MODEL, find_model
from surgseg_ros.core.params_file import check_values
from surgseg_ros.core.timing import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from surgseg_ros.benchmarking.floors import Rates
    from surgseg_ros.core.segmenter import Segmenter

OVERHEAD_S: Final = 120.0
"""Maximum time of a measurement on any machine; over DDS, in addition to its rounds."""
_SPARE_S: Final = 20.0
"""Part of that time for frames in progress, for the end of the processes, and for the report."""
_TOOL: Final = 'tools.end_to_end.measurement'

_FRAMES: Final = 100
"""Number of frames of a measurement without DDS."""

OUTPUTS: Final = ('detections', 'confidence', 'overlay')
"""Topics that the listener can subscribe to besides the mask; the last two are optional."""

IMAGE_COUNT: Final = 4
_DRAWN_ROWS: Final = 1080
"""Larger scenes are drawn at this height and enlarged, since drawing takes seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Measure, print a table, and write a JSON file if requested.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    :raises ValueError: if the model cannot be used.
    :raises RuntimeError: if a process fails.
    :raises OSError: if results cannot be written.
    """
    begun_s = time.monotonic()
    options = _read_options(argv)
    for path in (options.json, options.plot):
        if path:
            check_file(path)
    if options.logs:
        check_folder(Path(options.logs))
    options.model = str(find_model(options.model))
    measure = _end_to_end if options.end_to_end else _stages
    with Progress('benchmark') as progress:
        report: dict[str, Any] = measure(options, progress, begun_s)
    if options.json:
        write_atomically(options.json, (json.dumps(report, indent=2) + '\n').encode())
    if options.plot:
        write_atomically(options.plot, plot(report).encode())
    print(table(report))
    return 0


def _read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """
    Read the arguments; exit if they contradict each other.

    :param argv: the arguments; those of the command line by default.
    :return: the options; `sizes` are (width, height) in pixels, `frames` is the number per
        measurement, which may be reduced if it is `bounded`.
    """
    parser = argparse.ArgumentParser(prog='surgseg_ros benchmark', description=__doc__)
    _add_measurement(parser)
    parser.add_argument(
        '--cameras',
        type=positive_int,
        nargs='+',
        default=[1],
        metavar='N',
        help='default: 1; over DDS, 2 are views side by side in each image, and the slower counts',
    )
    _add_end_to_end(parser.add_argument_group('over DDS'))
    options = parser.parse_args(argv)
    options.bounded = options.frames is None
    given = round(options.rate * options.seconds) if options.end_to_end else _FRAMES
    options.frames = options.frames or max(1, given)
    options.sizes = options.sizes or [options.size or (1920, 1080)]
    if options.end_to_end and (len(options.sizes) > 1 or options.cameras not in ([1], [2])):
        parser.error('--end-to-end takes one --size, and one or two --cameras: run it for each')
    names = {'runtime': 'runtime', 'precision': 'precision', 'threads': 'cpu_threads'}
    check_values({name: getattr(options, option) for option, name in names.items()})
    if options.against and not (options.end_to_end and options.cameras == [1]):
        parser.error('--against needs --end-to-end, and one camera')
    return options


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--model', default=DEFAULT_MODEL, metavar='DIR', help=MODEL_HELP)
    add('--json', type=Path, metavar='FILE', help='JSON file for the results')
    add('--plot', type=svg_file, metavar='FILE.svg', help='plot of the result')
    add('--size', type=image_size, metavar='WxH', help='default: 1920x1080')
    add('--sizes', type=image_size, nargs='+', metavar='WxH', help='several sizes, for a table')
    add('--runtime', default='auto', help='as the parameter of the node (default: auto)')
    add('--precision', default='auto', help='as the parameter of the node (default: auto)')
    add('--device', default='auto', help='auto, cpu, cuda ... (default: auto)')
    add('--threads', type=non_negative_int, default=0, help="CPU threads (0: torch's default)")
    add(
        '--frames',
        type=positive_int,
        help=f'frames of a measurement (default: {_FRAMES}, or as many as two minutes allow; over '
        'DDS those of --seconds)',
    )


def _add_end_to_end(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        '--end-to-end',
        action='store_true',
        help='measure from camera to listener over DDS, in a checkout',
    )
    add('--rate', type=positive_float, default=30.0, metavar='HZ', help='default: 30')
    add('--seconds', type=positive_float, default=10.0, help='duration of each run (default: 10)')
    add(
        '--rounds',
        type=positive_int,
        default=3,
        help='default: %(default)s; fewer if starting the processes takes over two minutes',
    )
    add(
        '--against',
        choices=['plain'],
        help='alternate with a plain node, and with a camera without the DDS profile',
    )
    add(
        '--outputs',
        nargs='+',
        choices=OUTPUTS,
        default=['detections'],
        help='further topics to subscribe to (default: detections)',
    )
    add('--profile', metavar='XML', help="Fast DDS profile, or none (default: the package's)")
    add('--logs', metavar='DIR', help='folder for the logs of the processes')


def _stages(options: argparse.Namespace, progress: Progress, begun_s: float) -> dict[str, Any]:
    from surgseg_ros.core.processes import limit_spinning

    progress.print_line('loading the model')
    limit_spinning()  # as the node's process does, before torch is imported
    import torch

    from surgseg_ros.benchmarking import floors
    from surgseg_ros.core.processes import freeze_garbage, limit_arenas, limit_waiting
    from surgseg_ros.core.segmenter import Segmenter

    limit_arenas()
    limit_waiting()
    freeze_garbage()
    if options.threads:
        torch.set_num_threads(options.threads)
    segmenter = Segmenter.load(
        options.model,
        options.device,
        options.runtime,
        precision=options.precision,
        max_batch_size=max(options.cameras),
        quickest=True,  # as the node
    )
    rates = floors.measure_rates(segmenter.runtime.device, progress.print_line)
    progress.print_line('detecting the instruction set')
    hardware = floors.hardware()
    end_s = begun_s + OVERHEAD_S - _SPARE_S if options.bounded else math.inf
    rows = _rows(options, progress, segmenter, rates, end_s)
    facts = {
        'hardware': hardware,
        'rates': floors.described(rates),
        'model': floors.model(segmenter.spec, segmenter.runtime.description),
    }
    return {**rows[0], **facts, 'table': rows}


def _show(progress: Progress, what: str, done: int) -> None:
    progress.update(f'{what}: {done} frames each')


def _rows(
    options: argparse.Namespace,
    progress: Progress,
    segmenter: 'Segmenter',
    rates: 'Rates',
    end_s: float,
) -> list[dict[str, Any]]:
    """Measure each size with each number of cameras; each measurement has its share of time."""
    from surgseg_ros.benchmarking import floors, stages

    rows: list[dict[str, Any]] = []
    for width, height in options.sizes:
        progress.print_line(f'drawing images of {width}x{height}')
        images = draw((height, width))
        for cameras in options.cameras:
            what = f'measuring {width}x{height} with {counted(cameras, "camera")}'
            progress.print_line(what)
            now_s, left = time.monotonic(), len(options.sizes) * len(options.cameras) - len(rows)
            rounds = stages.measure(
                segmenter,
                images,
                options.frames,
                cameras,
                now_s + (end_s - now_s) / left,
                partial(_show, progress, what),
            )
            row = {'size': f'{width}x{height}', 'pixels': width * height, 'cameras': cameras}
            counts = {'rounds': len(rounds), 'rounds_wanted': options.frames}
            runtime = segmenter.runtime.description
            min_ms = floors.stage_floors(segmenter.spec, (height, width), runtime, rates)
            rows.append({**row, **counts, **stages.summary(rounds), 'floor_ms': min_ms})
    return rows


def _end_to_end(options: argparse.Namespace, progress: Progress, begun_s: float) -> dict[str, Any]:
    tool = _end_to_end_tool()
    progress.print_line('loading torch')
    import torch

    from surgseg_ros.benchmarking import floors, report
    from surgseg_ros.core.model_folder import read_spec
    from surgseg_ros.core.runtimes import choose_device

    spec = read_spec(options.model)
    (width, height), *_ = options.sizes
    rates = floors.measure_rates(torch.device(choose_device(options.device)), progress.print_line)
    progress.print_line('detecting the instruction set')
    hardware = floors.hardware()
    names = ['end_to_end', 'plain', 'no_profile'] if options.against else ['end_to_end']
    sending_s = options.rounds * len(names) * options.frames / options.rate
    end_s = begun_s + sending_s + OVERHEAD_S - _SPARE_S
    with scratch_folder() as scratch:
        progress.print_line(f'drawing images of {width}x{height}')
        settings = tool.common_settings(options, draw((height, width)), scratch)
        runs = tool.alternate(options, names, settings, end_s, progress.print_line)
    found = {name: report.sum_up(of_one) for name, of_one in runs.items()}
    if options.against:
        plain = found['plain']
        found['ratio'] = report.ratios(found['end_to_end'], plain)
        found['ratio_no_profile'] = report.ratios(found['no_profile'], plain)
    runtime = runs['end_to_end'][-1]['runtime']
    facts = {
        'rounds': len(runs['end_to_end']),
        'rounds_wanted': options.rounds,
        'size': f'{width}x{height}',
        'cameras': options.cameras[0],
        'rate_hz': options.rate,
        'floor_ms': floors.path_floors(spec, (height, width), runtime, rates),
        'hardware': hardware,
        'rates': floors.described(rates),
        'model': floors.model(spec, runtime),
    }
    return {**found, **facts}


def _end_to_end_tool() -> Any:
    """
    Import the measurement over DDS, which is part of a checkout, but not of an installed package.

    :return: the module `tools.end_to_end.measurement` beside this package.
    :raises ValueError: if it does not exist.
    """
    root = Path(surgseg_ros.__path__[0]).resolve().parent
    if str(root) not in sys.path:  # in an executable, or another working directory
        sys.path.insert(0, str(root))
    try:
        tool = importlib.import_module(_TOOL)
    except ModuleNotFoundError as error:
        if not _TOOL.startswith(error.name or '-'):
            raise
        tool = None
    if tool is None or root not in Path(tool.__file__ or '').resolve().parents:
        raise ValueError(
            f'--end-to-end needs {_TOOL}, which cannot be imported from {root}: run it from a '
            'checkout of surgseg_ros (.venv/bin/python -m surgseg_ros benchmark)'
        )
    return tool


def draw(size: tuple[int, int]) -> 'list[NDArray[np.uint8]]':
    """
    Draw images with instruments, so that edges and detections take a realistic time.

    :param size: (height, width) in pixels.
    :return: some images of one synthetic scene, (H, W, 3) uint8 RGB each.
    """
    import cv2
    import numpy as np

    from surgseg_ros.synthetic import Scene

    height, width = size
    shrink = min(1.0, _DRAWN_ROWS / height)
    scene = Scene(1, (round(height * shrink), round(width * shrink)))
    drawn = (scene.frame(20 * number).image for number in range(IMAGE_COUNT))
    if shrink == 1.0:
        return list(drawn)
    return [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image in drawn]

# SPDX-License-Identifier: Apache-2.0
"""Measures what a frame costs: stage by stage, or from camera to listener over DDS."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICTURES: Final = 4
_DRAWN_ROWS: Final = 1080
"""Larger scenes are drawn at this height and enlarged: drawing takes seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Measure, print a table and write a JSON file.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _options(argv)
    try:
        report = (_end_to_end if options.end_to_end else _stages)(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'benchmark: {error}', file=sys.stderr)
        return 1
    options.json.write_text(json.dumps(report, indent=2) + '\n')
    if options.plot:
        options.plot.write_text(_plot(report))
    print(_table(report))
    return 0


def _stages(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from surgseg_ros.benchmarking import machine, stages
    from surgseg_ros.core.segmenter import Segmenter

    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = {} if options.runtime is None else {'runtime': options.runtime}
    segmenter = Segmenter.load(options.model, options.device, **chosen)
    rows = []
    for width, height in options.sizes:
        pictures = draw((height, width))
        for cameras in options.cameras:
            rounds = stages.measure(segmenter, pictures, options.frames, cameras)
            row = {'size': f'{width}x{height}', 'pixels': width * height, 'cameras': cameras}
            rows.append({**row, **stages.summary(rounds)})
    facts = {
        'hardware': machine.hardware(),
        'model': machine.model(segmenter.spec, segmenter.runtime.description),
    }
    return {**rows[0], **facts, 'table': rows}


def _end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from surgseg_ros.benchmarking import comparison, end_to_end, machine, processes
    from surgseg_ros.core.model_spec import read_spec
    from surgseg_ros.node.dds_profile import NO_PROFILE, shipped_profile

    spec = read_spec(options.model)
    (width, height), *_ = options.sizes
    names = ['end_to_end', 'plain', 'no_profile'] if options.against else ['end_to_end']
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, 'pictures.npy')
        np.save(pictures, np.stack(draw((height, width))))
        profile = NO_PROFILE if options.profile == NO_PROFILE else options.profile
        for turn in range(options.rounds):
            for name in names:
                folder = Path(options.logs or scratch, f'{turn}_{name}')
                folder.mkdir(parents=True, exist_ok=True)
                settings = processes.Settings(
                    model=options.model,
                    pictures=pictures,
                    rate_hz=options.rate,
                    frames=max(1, round(options.rate * options.seconds)),
                    folder=folder,
                    profile=str(profile or shipped_profile()),
                    device=options.device,
                    threads=options.threads,
                    parameters={'runtime': options.runtime} if options.runtime else {},
                )
                print(f'benchmark: round {turn + 1} of {options.rounds}, {name}', flush=True)
                runs[name].append(end_to_end.run(processes.VARIANTS[name], settings))
    found = {name: comparison.sum_up(of_one) for name, of_one in runs.items()}
    if options.against:
        plain = found['plain']
        found['ratio'] = comparison.ratios(found['end_to_end'], plain)
        found['ratio_no_profile'] = comparison.ratios(found['no_profile'], plain)
    facts = {
        'size': f'{width}x{height}',
        'rate_hz': options.rate,
        'hardware': machine.hardware(),
        'model': machine.model(spec, options.runtime or 'the default of the node'),
    }
    return {**found, **facts}


def draw(size: tuple[int, int]) -> 'list[NDArray[np.uint8]]':
    """
    Draw pictures with instruments in them, for detections and edges cost what they really do.

    :param size: (height, width) in pixels.
    :return: some (H, W, 3) uint8 RGB of one synthetic scene.
    """
    import cv2
    import numpy as np

    from surgseg_ros.training.scenes import Scene

    height, width = size
    shrink = min(1.0, _DRAWN_ROWS / height)
    scene = Scene(1, (round(height * shrink), round(width * shrink)))
    drawn = (scene.frame(20 * number).image for number in range(PICTURES))
    if shrink == 1.0:
        return list(drawn)
    return [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image in drawn]


def _table(report: Mapping[str, Any]) -> str:
    if 'table' not in report:
        return '\n'.join(_line_over_dds(name, report) for name in _variants(report))
    lines = [f'{"size":>10} {"cameras":>7} {"p50 ms":>8} {"p95":>8} {"p99":>8} {"frames/s":>9}']
    for row in report['table']:
        times = ' '.join(f'{row["total"][p]:8.1f}' for p in ('p50', 'p95', 'p99'))
        head = f'{row["size"]:>10} {row["cameras"]:7}'
        lines.append(f'{head} {times} {row["frames_per_s"]:9.2f}')
        medians = (f'{name} {times["p50"]:.2f}' for name, times in row['stages'].items())
        lines.append('           ' + ', '.join(medians))
    return '\n'.join(lines)


def _variants(report: Mapping[str, Any]) -> list[str]:
    return [name for name in ('end_to_end', 'no_profile', 'plain') if name in report]


def _line_over_dds(name: str, report: Mapping[str, Any]) -> str:
    row = report[name]
    latency, rest = row['latency_ms'], row['rest_ms']['p50']
    counted = ', '.join(f'{key} {row[key]}' for key in ('sent', 'received', 'dropped', 'lost'))
    return (
        f'{name}: latency p50 {latency["p50"]:.1f}, p99 {latency["p99"]:.1f} ms; model '
        f'{row["model_ms"]["p50"]:.1f}, slot {row["slot_ms"]["p50"]:.1f}, rest {rest:.1f}; {counted}'
    )


def _plot(report: Mapping[str, Any]) -> str:
    from surgseg_ros.benchmarking.plot import Bar, bars

    machine, model = report['hardware'], report['model']
    note = f'{machine["processor"]}, {machine["cores"]} cores; {model["name"]}; {model["runtime"]}'
    if 'table' in report:
        rows = [
            Bar(
                f'{row["size"]}, cameras: {row["cameras"]}',
                {name: times['p50'] for name, times in row['stages'].items()},
                {key: row['total'][key] for key in ('p95', 'p99')},
            )
            for row in report['table']
        ]
        return bars('Median of each stage, ms; p95 and p99 of the whole', note, rows)
    rows = []
    for name in _variants(report):
        row = report[name]
        parts = {'rest': row['rest_ms']['p50']}
        parts |= {key: row[f'{key}_ms']['p50'] for key in ('slot', 'model')}
        rows.append(Bar(name, parts, {key: row['latency_ms'][key] for key in ('p95', 'p99')}))
    return bars(f'Camera to listener, {report["size"]} at {report["rate_hz"]:g} Hz', note, rows)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='surgseg_ros benchmark', description=__doc__)
    parser.add_argument('--model', required=True, metavar='DIR', help='model folder')
    parser.add_argument('--json', required=True, type=Path, metavar='FILE', help='what to write')
    parser.add_argument('--plot', type=_svg, metavar='FILE.svg', help='draw it as well')
    parser.add_argument('--size', type=_size, metavar='WxH', help='default: 1920x1080')
    parser.add_argument(
        '--sizes', type=_size, nargs='+', metavar='WxH', help='several, for a table'
    )
    parser.add_argument('--runtime', help="default: the node's")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda ... (default: auto)')
    parser.add_argument('--threads', type=int, default=0, help="on the CPU (0: torch's choice)")
    alone = parser.add_argument_group('stage by stage, without DDS')
    alone.add_argument('--frames', type=_count, default=100, help='default: %(default)s')
    alone.add_argument(
        '--cameras', type=_count, nargs='+', default=[1], metavar='N', help='default: 1'
    )
    over = parser.add_argument_group('over DDS')
    over.add_argument('--end-to-end', action='store_true', help='camera, node and listener')
    over.add_argument('--rate', type=float, default=30.0, metavar='HZ', help='default: 30')
    over.add_argument('--seconds', type=float, default=10.0, help='of each run (default: 10)')
    over.add_argument('--rounds', type=_count, default=3, help='default: %(default)s')
    over.add_argument(
        '--against',
        choices=['plain'],
        help='take turns with a plain node, and with a camera without DDS profile',
    )
    over.add_argument('--profile', metavar='XML', help="Fast DDS profile, or none (the package's)")
    over.add_argument('--logs', metavar='DIR', help='keep what the processes say')
    options = parser.parse_args(argv)
    options.sizes = options.sizes or [options.size or (1920, 1080)]
    if options.end_to_end and (len(options.sizes) > 1 or options.cameras != [1]):
        parser.error('--end-to-end takes one --size and one camera; run it for each')
    if options.against and not options.end_to_end:
        parser.error('--against is for --end-to-end')
    if not (options.rate > 0 and options.seconds > 0):
        parser.error(f'--rate {options.rate} and --seconds {options.seconds} must be above 0')
    return options


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is no size: write it like 1920x1080')
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def _svg(text: str) -> Path:
    if not text.endswith('.svg'):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .svg, the format of the plot')
    return Path(text)


if __name__ == '__main__':
    sys.exit(main())

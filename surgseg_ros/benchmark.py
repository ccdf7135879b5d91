# SPDX-License-Identifier: Apache-2.0
"""Measures what a frame costs: stage by stage, or from camera to listener over DDS."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgseg_ros.benchmarking.report import plot, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from surgseg_ros.benchmarking.processes import Settings

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
        report: dict[str, Any] = (_end_to_end if options.end_to_end else _stages)(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'benchmark: {error}', file=sys.stderr)
        return 1
    options.json.write_text(json.dumps(report, indent=2) + '\n')
    if options.plot:
        options.plot.write_text(plot(report))
    print(table(report))
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
    from surgseg_ros.benchmarking import comparison, end_to_end, machine, processes
    from surgseg_ros.core.model_folder import read_spec

    spec = read_spec(options.model)
    (width, height), *_ = options.sizes
    names = ['end_to_end', 'plain', 'no_profile'] if options.against else ['end_to_end']
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with processes.ending_on_sigterm(), tempfile.TemporaryDirectory() as scratch:
        settings = _settings(options, Path(scratch))
        for turn in range(1, options.rounds + 1):
            for name in names:
                folder = Path(options.logs or scratch, f'{turn}_{name}')
                folder.mkdir(parents=True, exist_ok=True)
                print(f'benchmark: round {turn} of {options.rounds}, {name}', flush=True)
                of_one = settings._replace(folder=folder)
                runs[name].append(end_to_end.run(processes.VARIANTS[name], of_one))
    found = {name: comparison.sum_up(of_one) for name, of_one in runs.items()}
    if options.against:
        plain = found['plain']
        found['ratio'] = comparison.ratios(found['end_to_end'], plain)
        found['ratio_no_profile'] = comparison.ratios(found['no_profile'], plain)
    facts = {
        'size': f'{width}x{height}',
        'rate_hz': options.rate,
        'hardware': machine.hardware(),
        'model': machine.model(spec, options.runtime or "the node's default runtime"),
    }
    return {**found, **facts}


def _settings(options: argparse.Namespace, scratch: Path) -> 'Settings':
    """Draw the camera's pictures into a file, and say what all runs have in common."""
    import numpy as np

    from surgseg_ros.benchmarking.processes import Settings
    from surgseg_ros.node.dds_profile import shipped_profile

    (width, height), *_ = options.sizes
    pictures = scratch / 'pictures.npy'
    np.save(pictures, np.stack(draw((height, width))))
    return Settings(
        model=options.model,
        pictures=pictures,
        rate_hz=options.rate,
        frames=max(1, round(options.rate * options.seconds)),
        folder=scratch,
        profile=options.profile or str(shipped_profile()),
        device=options.device,
        threads=options.threads,
        parameters={'runtime': options.runtime} if options.runtime else {},
    )


def draw(size: tuple[int, int]) -> 'list[NDArray[np.uint8]]':
    """
    Draw pictures with instruments in them, so that edges and detections cost what they do.

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

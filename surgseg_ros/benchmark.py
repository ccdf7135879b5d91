# SPDX-License-Identifier: Apache-2.0
"""Measures what a frame costs: stage by stage, or from camera to listener over DDS."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgseg_ros.benchmarking.options import read_options
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
    options = read_options(argv, __doc__)
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
    from surgseg_ros.core.threads import share_cores

    share_cores()  # as the node's process does, before torch is imported
    import torch

    from surgseg_ros.benchmarking import floors, machine, stages
    from surgseg_ros.core.memory import limit_arenas, settle
    from surgseg_ros.core.segmenter import Segmenter

    limit_arenas()
    settle()
    if options.threads:
        torch.set_num_threads(options.threads)
    segmenter = Segmenter.load(
        options.model, options.device, options.runtime, pictures=max(options.cameras)
    )
    rates = floors.measure_rates(segmenter.runtime.device)
    runtime, rows = segmenter.runtime.description, []
    for width, height in options.sizes:
        pictures = draw((height, width))
        for cameras in options.cameras:
            rounds = stages.measure(segmenter, pictures, options.frames, cameras)
            row = {'size': f'{width}x{height}', 'pixels': width * height, 'cameras': cameras}
            least_ms = floors.stage_floors(segmenter.spec, (height, width), runtime, rates)
            rows.append({**row, **stages.summary(rounds), 'floor_ms': least_ms})
    facts = {
        'hardware': machine.hardware(),
        'rates': floors.described(rates),
        'model': machine.model(segmenter.spec, runtime),
    }
    return {**rows[0], **facts, 'table': rows}


def _end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from surgseg_ros.benchmarking import comparison, end_to_end, floors, machine, processes
    from surgseg_ros.core.model_folder import read_spec
    from surgseg_ros.core.runtimes import choose_device

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
    runtime = runs['end_to_end'][-1]['runtime']
    rates = floors.measure_rates(torch.device(choose_device(options.device)))
    facts = {
        'size': f'{width}x{height}',
        'rate_hz': options.rate,
        'floor_ms': floors.way_floors(spec, (height, width), runtime, rates),
        'hardware': machine.hardware(),
        'rates': floors.described(rates),
        'model': machine.model(spec, runtime),
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
        frames=options.frames,
        folder=scratch,
        profile=options.profile or str(shipped_profile()),
        device=options.device,
        threads=options.threads,
        parameters={'runtime': options.runtime},
        outputs=tuple(options.outputs),
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


if __name__ == '__main__':
    sys.exit(main())

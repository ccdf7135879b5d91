# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a bag goes through segmenter and bag player over DDS, and is scored and drawn."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from surgseg_ros.bags.sources import BagError
from tools.demo.report import report, table, write_bag
from tools.demo.session import (
    MARGIN,
    Recorded,
    Recorder,
    measure_rate_hz,
    play,
    segmenter,
    wait_until_active,
)
from tools.demo.source import Source, make_scene_bag, make_video_bag

ROOT = Path(__file__).resolve().parents[2]
LONGEST_PLAY_S = 60.0


def main() -> int:
    """
    Run the demo.

    :return: exit status; 0 only if each frame has its mask and detections, but for a few dropped.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.demo', description=__doc__)
    parser.add_argument('--input', type=Path, metavar='VIDEO', help='a video of your own')
    parser.add_argument('--model', type=Path, default=ROOT / 'models/demo', metavar='DIR')
    parser.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR')
    options = parser.parse_args()
    try:
        return run(options, new_folder(options.output))
    except (BagError, OSError, RuntimeError, ValueError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1


def run(options: argparse.Namespace, folder: Path) -> int:
    """
    Make the bag, play it, report.

    :param options: of the command line.
    :param folder: for everything that is written.
    :return: exit status.
    """
    bag = folder / 'input_bag'
    source = make_video_bag(bag, options.input) if options.input else make_scene_bag(bag)
    log = folder / 'segmenter.log'
    recorder = Recorder()
    try:
        with segmenter(options.model, log) as node:
            wait_until_active(recorder, node, log)
            node_hz = measure_rate_hz(recorder, source)
            print(f'the node makes {node_hz:.1f} masks/s', flush=True)
            recorded, rate, dropped = play_in_step(recorder, source, node_hz)
    finally:
        recorder.close()
    write_bag(folder / 'output_bag', recorded)
    outcome = report(source, recorded, folder)
    print(table(source, outcome, node_hz, rate, dropped))
    print(f'\nmasks and detections, pictures and overlay.mp4 are in {folder.resolve()}')
    # Only what the node itself dropped may be missing: a busy machine is no fault.
    explained = outcome.masks > 0 and source.frames - outcome.masks <= dropped
    whole = explained and not outcome.strangers and outcome.detections == outcome.masks
    if not whole:
        print('demo: frames are unaccounted for; see the table and segmenter.log', file=sys.stderr)
    return 0 if whole else 1


def play_in_step(
    recorder: Recorder, source: Source, node_hz: float
) -> tuple[list[Recorded], float, int]:
    """
    Play at a rate that the node keeps up with; where it drops frames after all, slower once more.

    :param recorder: listens.
    :param source: what to play.
    :param node_hz: masks a second in the trial.
    :return: what was recorded, the factor of the speed, and frames dropped for a newer one.
    """
    shortest = source.frames / source.rate_hz / LONGEST_PLAY_S
    rate = min(1.0, max(MARGIN * node_hz / source.rate_hz, shortest))
    while True:
        seconds = source.frames / source.rate_hz / rate
        print(f'playing for {seconds:.0f} s', flush=True)
        before = count(recorder.counts)
        recorded = play(recorder, source, rate)
        recorder.listen(lambda: False, 1.5)  # for the last counts
        dropped = count(recorder.counts) - before
        if not dropped or 2 * seconds > LONGEST_PLAY_S:
            return recorded, rate, dropped
        rate /= 2


def count(counts: Mapping[str, str]) -> int:
    """Frames that the node dropped for a newer one, of its diagnostics."""
    return int(counts.get('dropped_for_newer', 0))


def new_folder(folder: Path) -> Path:
    """
    Make a folder for this run inside the one for all.

    :param folder: `demo_output`.
    :return: `demo_output/01`, `02` …: nothing that an earlier run showed is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
    made = folder / f'{number:02d}'
    made.mkdir()
    return made


if __name__ == '__main__':
    sys.exit(main())

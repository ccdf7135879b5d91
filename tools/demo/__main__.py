# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a bag goes through segmenter and bag player over DDS, and is scored and drawn."""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from surgseg_ros.bags.sources import BagError
from surgseg_ros.core.model_folder import DEFAULT_MODEL
from surgseg_ros.core.timing import Progress
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

LONGEST_PLAY_S = 60.0
"""Maximum duration for which the user's own video is played."""
MIN_PLAY_S = 15.0
PLAYED_S = 75.0
"""Time after the start by which the scene must have been played: the demo takes at most 90 s."""


def main() -> int:
    """
    Run the demo.

    :return: exit status; 0 only if all frames, except dropped ones, have a mask and detections.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.demo', description=__doc__)
    parser.add_argument('--input', type=Path, metavar='VIDEO', help='a video of your own')
    parser.add_argument('--model', default=DEFAULT_MODEL, metavar='DIR')
    parser.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR')
    options = parser.parse_args()
    try:
        with Progress('demo') as progress:
            return run(options, new_folder(options.output), progress)
    except (BagError, OSError, RuntimeError, ValueError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1


def run(options: argparse.Namespace, folder: Path, progress: Progress) -> int:
    """
    Create the bag, play it, and report.

    :param options: options of the command line.
    :param folder: folder for all output.
    :param progress: shows the current step.
    :return: exit status.
    """
    begun_s = time.monotonic()
    source = make_source(options.input, folder / 'input_bag', progress)
    log = folder / 'segmenter.log'
    recorder = Recorder()
    try:
        progress.print_line('starting the segmenter')
        with segmenter(options.model, log) as node:
            wait_until_active(recorder, node, log)
            progress.print_line('measuring the rate of the node')
            node_hz = measure_rate_hz(recorder, source)
            progress.print_line(f'the node makes {node_hz:.1f} masks per second')
            left_s = begun_s + PLAYED_S - time.monotonic()
            longest_s = LONGEST_PLAY_S if options.input else max(MIN_PLAY_S, left_s)
            recorded, rate, dropped = play_in_step(recorder, source, node_hz, longest_s, progress)
            progress.print_line('stopping the segmenter')
    finally:
        recorder.close()
    progress.print_line('drawing the results')
    write_bag(folder / 'output_bag', recorded)
    outcome = report(source, recorded, folder)
    text = f'{recorder.status}, because {recorder.reason}' if recorder.reason else recorder.status
    print(table(source, outcome, node_hz, rate, dropped, text))
    print(f'\nmasks and detections, images and overlay.mp4 are in {folder.resolve()}')
    # Only frames that the node itself dropped may be missing: a busy machine is not an error.
    explained = outcome.masks > 0 and source.frames - outcome.masks <= dropped
    whole = explained and not outcome.unmatched and outcome.detections == outcome.masks
    if not whole:
        print('demo: masks are missing or wrong: see the table and segmenter.log', file=sys.stderr)
    return 0 if whole else 1


def make_source(video: Path | None, bag: Path, progress: Progress) -> Source:
    """
    Create the bag to play.

    :param video: the user's own video, or None for a synthetic scene.
    :param bag: path of the bag.
    :param progress: shows the progress.
    :return: the source.
    """
    what = f'copying the beginning of {video.name}' if video else 'drawing a scene'
    progress.print_line(what)

    def report(how_far: str) -> None:
        progress.update(f'{what}: {how_far}')

    return make_video_bag(bag, video, report) if video else make_scene_bag(bag, report=report)


def play_in_step(
    recorder: Recorder, source: Source, node_hz: float, longest_s: float, progress: Progress
) -> tuple[list[Recorded], float, int]:
    """
    Play at a rate that the node can sustain; if it still drops frames, play more slowly.

    :param recorder: receives the results.
    :param source: the source to play.
    :param node_hz: masks per second in the trial.
    :param longest_s: maximum duration; if it is too short for the node, frames are dropped.
    :param progress: shows the duration.
    :return: the recorded messages, the factor of the speed, and the number of dropped frames.
    """
    end_s = time.monotonic() + longest_s
    slowest = source.frames / source.rate_hz / longest_s
    rate = min(1.0, max(MARGIN * node_hz / source.rate_hz, slowest))
    while True:
        seconds = source.frames / source.rate_hz / rate
        progress.print_line(f'playing for {seconds:.0f} s')
        before = count(recorder.counts)
        recorded = play(recorder, source, rate)
        recorder.listen(lambda: False, 1.5)  # for the last counts
        dropped = count(recorder.counts) - before
        if not dropped or time.monotonic() + 2 * seconds > end_s:
            return recorded, rate, dropped
        rate /= 2


def count(counts: Mapping[str, str]) -> int:
    """Return the number of frames dropped for a newer one, from the node's diagnostics."""
    return int(counts.get('dropped_for_newer', 0))


def new_folder(folder: Path) -> Path:
    """
    Create a folder for this run inside the one for all runs.

    :param folder: `demo_output`.
    :return: `demo_output/01`, `02` …, so that results of earlier runs are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
    made = folder / f'{number:02d}'
    made.mkdir()
    return made


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""
Compares the CPU time of our metric with MONAI's, alternating frame by frame, on one core.

python -m tools.benchmarks.metrics
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from monai.metrics import MeanIoU, SurfaceDiceMetric
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.evaluation.metrics import SCORED, TOLERANCE_PX, count_frame
from surgseg_ros.synthetic import Scene
from tools.benchmarks.machine import describe

SIZE: Final = (1080, 1920)
MIN_RATIO: Final = 10
AGREEMENT: Final = 1e-6

_NETWORK_SIZE: Final = (640, 360)
_PACKAGES: Final = ('monai', 'scipy', 'torch', 'numpy', 'opencv-python-headless')

Mask = NDArray[np.uint8]
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]


class Timing(NamedTuple):
    """
    The times of one frame.

    :param classes: number of classes in it, without background.
    :param ours_s: seconds of each run of ours.
    :param monai_s: seconds of each run of MONAI's, without creating its one-hot tensors.
    :param differ: the largest difference between the scores.
    """

    classes: int
    ours_s: list[float]
    monai_s: list[float]
    differ: float


def main(argv: Sequence[str] | None = None) -> int:
    """
    Time both metrics, and print the table.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if ours is not ten times faster, or the scores differ.
    """
    parser = argparse.ArgumentParser(prog='tools.benchmarks.metrics', description=__doc__)
    parser.add_argument('--frames', type=int, default=6, help='default: %(default)s')
    parser.add_argument('--runs', type=int, default=5, help='of each frame (default: %(default)s)')
    options = parser.parse_args(argv)
    keep_to_one_core()
    print(describe('one core', _PACKAGES))
    timings = []
    for truth, predicted in draw_frames(options.frames, SIZE):
        timings.append(time_frame(truth, predicted, options.runs))
        print(_line(f'frame with {timings[-1].classes} classes', *_medians(timings[-1:])))
    ours_s, monai_s = _medians(timings)
    differ = max(timing.differ for timing in timings)
    print(_line('mean of the frames', ours_s, monai_s))
    print(f'greatest difference of any score: {differ:.1e}')
    return 0 if monai_s >= MIN_RATIO * ours_s and differ <= AGREEMENT else 1


def keep_to_one_core() -> None:
    """Restrict this process to one core, and each library to one thread."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def draw_frames(count: int, size: tuple[int, int]) -> Iterator[tuple[Mask, Mask]]:
    """
    Draw frames of synthetic scenes.

    :param count: number of frames, each of another scene.
    :param size: (height, width).
    :return: truth, and as prediction the mask of the next frame, upsampled from a network's size.
    """
    for seed in range(count):
        scene = Scene(seed, size)
        truth, later = scene.frame(10).mask, scene.frame(11).mask
        small = cv2.resize(later, _NETWORK_SIZE, interpolation=cv2.INTER_NEAREST)
        enlarged = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
        yield truth, enlarged.astype(np.uint8)


def time_frame(truth: Mask, predicted: Mask, runs: int) -> Timing:
    """
    Time one frame with both metrics, alternating.

    :param truth: (H, W) uint8 class index.
    :param predicted: likewise.
    :param runs: number of runs of each metric.
    :return: the times.
    """
    theirs = Monai(truth, predicted)
    ours_s, monai_s = [], []
    for _ in range(runs):
        ours_s.append(_seconds(lambda: ours(truth, predicted)))
        monai_s.append(_seconds(theirs.scores))
    pairs = zip(ours(truth, predicted), theirs.scores())
    differ = max(float(np.abs(a - b).max()) for a, b in pairs)
    return Timing(len(np.unique(truth[truth > 0])), ours_s, monai_s, differ)


def ours(truth: Mask, predicted: Mask) -> Scores:
    """
    Score with our metric.

    :param truth: (H, W) uint8 class index.
    :param predicted: likewise.
    :return: nine IoU, nine NSD.
    """
    counts = count_frame(truth, predicted)
    return counts.iou, counts.nsd


class Monai:
    """
    MONAI's metrics of one frame; its tensors are created before, and so are not timed.

    :param truth: (H, W) uint8 class index.
    :param predicted: likewise.
    """

    def __init__(self, truth: Mask, predicted: Mask) -> None:
        self._tensors = [_one_hot(predicted), _one_hot(truth)]
        self._iou = MeanIoU(include_background=False, ignore_empty=False)
        self._nsd = SurfaceDiceMetric([float(TOLERANCE_PX)] * len(SCORED))

    def scores(self) -> Scores:
        """
        Compute the scores.

        :return: nine IoU, nine NSD; 1 for a class in neither mask, as officially.
        """
        with warnings.catch_warnings():
            # MONAI warns about absent classes, and calls a deprecated function of its own.
            warnings.simplefilter('ignore')
            iou, nsd = (metric(*self._tensors)[0].numpy() for metric in (self._iou, self._nsd))
        return iou.astype(float), np.where(np.isnan(nsd), 1, nsd).astype(float)


def _one_hot(mask: Mask) -> torch.Tensor:
    planes = torch.nn.functional.one_hot(torch.from_numpy(mask).long(), CLASS_COUNT)
    return planes.permute(2, 0, 1)[None].contiguous()


def _seconds(action: Callable[[], object]) -> float:
    # CPU time, not wall time, so that other processes on the machine have no effect.
    start = time.process_time()
    action()
    return time.process_time() - start


def _medians(timings: Sequence[Timing]) -> tuple[float, float]:
    """Return the mean over frames of the median over runs, in seconds: ours and MONAI's."""
    ours_s = [median(timing.ours_s) for timing in timings]
    monai_s = [median(timing.monai_s) for timing in timings]
    return sum(ours_s) / len(timings), sum(monai_s) / len(timings)


def _line(name: str, ours_s: float, monai_s: float) -> str:
    times = f'ours {1e3 * ours_s:7.1f} ms   MONAI {1e3 * monai_s:7.1f} ms'
    return f'{name:24}{times}   {monai_s / ours_s:5.1f} times as fast'


if __name__ == '__main__':
    sys.exit(main())

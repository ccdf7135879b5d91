# SPDX-License-Identifier: Apache-2.0
"""One bag's evaluation as a job that any process can do."""

import functools
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from surgseg_ros.bag_evaluation.evaluation import evaluate
from surgseg_ros.bag_evaluation.options import Options
from surgseg_ros.bag_evaluation.recorded import score_recorded
from surgseg_ros.bag_evaluation.results import BagResult
from surgseg_ros.core.memory import keep_freed
from surgseg_ros.core.segmenter import Segmenter


class Job(NamedTuple):
    """
    What a process has to do.

    :param name: of the bag, among those of the run.
    :param bag: where it is.
    :param output: the bag to make, if any; what is there is left from an attempt that was cut off.
    :param options: what is asked for.
    """

    name: str
    bag: Path
    output: Path | None
    options: Options


class Done(NamedTuple):
    """
    What came of a job.

    :param result: of the bag.
    :param model: what made the masks; None where the bag held them.
    """

    result: BagResult
    model: dict[str, Any] | None


def do(job: Job, *, progress: bool = False) -> Done:
    """
    Evaluate a bag in this process.

    :param job: what to do.
    :param progress: whether to draw how far it is; several processes would draw over one another.
    :return: what came of it.
    :raises BagError: if the bag cannot be read at all.
    :raises ValueError: if the model cannot be used.
    """
    options = job.options
    if options.model is None:
        return Done(score_recorded(job.bag, options), None)
    if job.output is not None:
        clear(job.output)
    keep_freed()
    if options.threads:
        torch.set_num_threads(options.threads)
    how = options.device, options.runtime, options.precision, options.threads
    segmenter = _segmenter(options.model, *how)
    result = evaluate(job.bag, job.output, segmenter, options, progress=progress)
    model = {
        'name': segmenter.spec.name,
        'weights_sha256': segmenter.spec.weights_sha256,
        'runtime': segmenter.runtime.description,
        'threads': torch.get_num_threads(),
    }
    return Done(result, model)


@functools.lru_cache(maxsize=1)
def _segmenter(folder: Path, device: str, runtime: str, precision: str, threads: int) -> Segmenter:
    """Keep the model for the process's next bag; some runtimes keep the number of threads."""
    segmenter = Segmenter.load(folder, device, runtime, precision=precision)
    segmenter.warm_up()
    return segmenter


def clear(output: Path) -> None:
    """
    Remove what an attempt left: the bag, and the folders in which it was being written.

    :param output: of the job.
    """
    output.unlink(missing_ok=True)
    for folder in output.parent.glob(f'.{output.name}.*'):
        shutil.rmtree(folder, ignore_errors=True)

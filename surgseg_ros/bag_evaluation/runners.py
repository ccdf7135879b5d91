# SPDX-License-Identifier: Apache-2.0
"""Evaluation of many bags: one job per bag, in this process, in other processes, or on Ray."""

import functools
import multiprocessing
import os
import re
import shutil
import socket
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from surgseg_ros.bag_evaluation.bag_scan import folder_of
from surgseg_ros.bag_evaluation.evaluation import evaluate, score_recorded
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bag_evaluation.results import BagResult
from surgseg_ros.bag_evaluation.stages import WorkerError
from surgseg_ros.core.processes import (
    end_pool,
    exit_with_parent,
    ignore_terminal_signals,
    keep_freed,
)
from surgseg_ros.core.runtimes.base import import_library
from surgseg_ros.core.segmenter import Segmenter


class Job(NamedTuple):
    """
    The evaluation of one bag.

    :param name: name of the bag, unique in the run.
    :param bag: path of the bag.
    :param output: the output bag, if any; an existing file is from an interrupted attempt.
    :param options: options of the evaluation.
    """

    name: str
    bag: Path
    output: Path | None
    options: Options


class JobResult(NamedTuple):
    """
    The outcome of a job.

    :param result: result of the bag.
    :param model: the model that made the masks; None for recorded masks.
    """

    result: BagResult
    model: dict[str, Any] | None


def run_job(job: Job, *, progress: bool = False) -> JobResult:
    """
    Evaluate a bag in this process.

    :param job: the job.
    :param progress: whether to show a progress bar; with several processes, they would overlap.
    :return: the outcome.
    :raises BagError: if the bag cannot be read at all.
    :raises ValueError: if the model cannot be used.
    """
    options = job.options
    video = folder_of(options.instruments, job.name) if options.instruments else None
    if options.model is None:
        return JobResult(score_recorded(job.bag, options, video), None)
    if job.output is not None:
        remove_output(job.output)
    keep_freed()
    if options.threads:
        torch.set_num_threads(options.threads)
    how = options.device, options.runtime, options.precision, options.threads
    segmenter = _segmenter(options.model, *how)
    result = evaluate(job.bag, job.output, segmenter, options, video, progress=progress)
    return JobResult(result, {**segmenter.described(), 'threads': torch.get_num_threads()})


@functools.lru_cache(maxsize=1)
def _segmenter(folder: Path, device: str, runtime: str, precision: str, threads: int) -> Segmenter:
    """Load a model, or return the cached one; some runtimes fix the number of threads."""
    segmenter = Segmenter.load(folder, device, runtime, precision=precision)
    segmenter.warm_up()
    return segmenter


def remove_output(output: Path) -> None:
    """
    Remove the files of an attempt: the bag, and its temporary folders.

    :param output: output of the job.
    """
    output.unlink(missing_ok=True)
    for folder in output.parent.glob(f'.{output.name}.*'):
        shutil.rmtree(folder, ignore_errors=True)


ATTEMPTS: Final = 3
"""Number of attempts at a bag whose worker dies; after three, a fourth is pointless."""

_TIMEOUT_S: Final = 10.0

RAY_REMEDY: Final = "install it (pip install 'ray>=2.40'), or leave out --ray"

Outcome = tuple[Job, JobResult | Exception]
Runner = Callable[[Sequence[Job]], Generator[Outcome, None, None]]


def run_serial(jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """
    Run jobs one at a time in this process.

    :param jobs: the jobs.
    :return: each job with its outcome, in order.
    """
    for job in jobs:
        try:
            yield job, run_job(job, progress=True)
        except Exception as error:  # one bag must not stop the others
            yield job, error


def in_processes(workers: int) -> Runner:
    """
    Run jobs in processes on this machine.

    :param workers: number of processes.
    :return: a runner, which yields each job with its outcome when the job is done.
    """

    def runner(jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        slots = [_Slot() for _ in range(workers)]
        free = list(slots)

        def work(job: Job) -> JobResult:
            slot = free.pop()
            try:
                return slot.run(job)
            finally:
                free.append(slot)

        threads = ThreadPoolExecutor(workers)
        try:
            futures = {threads.submit(work, job): job for job in jobs}
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield futures[future], error or future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for slot in slots:
                slot.end()  # the result of a bag in progress is not needed
            threads.shutdown()

    return runner


class _Slot:
    """A worker process, which is restarted if it dies; it keeps the model from bag to bag."""

    def __init__(self) -> None:
        self._pool = self._new_pool()
        self._is_ended = False

    def run(self, job: Job) -> JobResult:
        for _ in range(ATTEMPTS):
            try:
                with ignore_terminal_signals():
                    done = self._pool.submit(run_job, job)
                return done.result()
            except BrokenProcessPool:
                if self._is_ended:
                    raise
                self._pool.shutdown()
                self._pool = self._new_pool()
        raise WorkerError(
            f'the process that evaluated it died {ATTEMPTS} times: check the memory '
            '(fewer --workers need less) and the system log'
        )

    def end(self) -> None:
        self._is_ended = True
        end_pool(self._pool)

    @staticmethod
    def _new_pool() -> ProcessPoolExecutor:
        # A forked child would wait for threads of OpenCV or torch that do not exist in it.
        context = multiprocessing.get_context('spawn')
        return ProcessPoolExecutor(1, context, initializer=exit_with_parent)


def on_ray(address: str) -> Runner:
    """
    Run jobs on a Ray cluster, one task per bag; a task is retried if its worker dies.

    Bags, model and output folder must have the same paths on all machines. A running cluster has
    its own environment, so `limit_spinning` has no effect on its workers.

    :param address: address of the cluster; `auto` for the cluster of this machine, or `local` to
        start one here.
    :return: a runner, which yields each job with its outcome when the job is done, and raises
        ValueError if no cluster answers at the address.
    """

    def runner(jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        _check_cluster(address)
        # By default, Ray sends usage statistics.
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        ray = import_library('ray', RAY_REMEDY)
        ray.init(address=address, log_to_driver=False)
        try:
            options = jobs[0].options
            gpus = int(options.device != 'cpu' and ray.cluster_resources().get('GPU', 0) > 0)
            cores = max(1, options.threads)
            task = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=cores, num_gpus=gpus)(run_job)
            pending = {task.remote(job): job for job in jobs}
            while pending:
                (ready,), _ = ray.wait(list(pending), num_returns=1)
                try:
                    outcome: JobResult | Exception = ray.get(ready)
                except ray.exceptions.RayTaskError as error:  # the task raised it
                    outcome = error
                except ray.exceptions.RayError as error:  # its worker died too often
                    outcome = WorkerError(
                        f'it was started {ATTEMPTS} times on the cluster: {error}'
                    )
                yield pending.pop(ready), outcome
        finally:
            ray.shutdown()

    return runner


def _check_cluster(address: str) -> None:
    """Check that a cluster answers, since Ray would silently retry for minutes."""
    if found := re.fullmatch(r'(?:ray://)?(.+):([0-9]+)', address):
        try:
            socket.create_connection((found[1].strip('[]'), int(found[2])), _TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            raise ValueError(
                f'no Ray cluster answers at {address!r} ({error}): check --ray'
            ) from error

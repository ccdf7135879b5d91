# SPDX-License-Identifier: Apache-2.0
"""Evaluates several bags: stores finished results, and merges them like videos of a data set."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from tqdm import tqdm

from surgseg_ros.bag_evaluation.bag_scan import bag_files, error_text, fingerprint
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bag_evaluation.results import FORMAT, BagResult, merge
from surgseg_ros.bag_evaluation.runners import Job, JobResult, Outcome, Runner, remove_output
from surgseg_ros.bag_evaluation.stages import WorkerError
from surgseg_ros.bags.reading import BagError
from surgseg_ros.bags.sources import METADATA_FILE, STORAGES, storage_ending
from surgseg_ros.core.files import cleaned_up, make_folder, remove_empty, write_atomically, writing
from surgseg_ros.core.model_folder import SPEC_FILE, read_spec
from surgseg_ros.evaluation.metrics import FrameCounts

_THREADS: Final = 'threads'
_COUNTS: Final = ('confusion', 'met_edge_px', 'edge_px', 'missing')


def is_bag(path: Path) -> bool:
    """
    Distinguish a bag from a folder of bags.

    :param path: a file or a folder.
    :return: True for a file, or a folder with metadata.yaml or with files of a bag.
    """
    if path.is_dir():
        return any(
            x.name == METADATA_FILE or storage_ending(x) in STORAGES for x in path.iterdir()
        )
    return True


def find_bags(paths: Sequence[Path], without: Path | None = None) -> dict[str, Path]:
    """
    Find the bags among paths and in folders of bags, at any depth.

    :param paths: bags, and folders that contain bags.
    :param without: a folder that is not searched, since it is for output bags.
    :return: mapping from name to path, sorted. Bags of the same name get the names of as many
        parents as needed to distinguish them.
    :raises BagError: if there is no bag, or one is a file of another bag.
    """
    found: list[Path] = []
    for path in paths:
        found += [path] if is_bag(path) else _bags_in(path, without and without.resolve())
    unique = sorted({path.resolve() for path in found})
    for path in unique:
        if path.is_file() and path.parent in unique:
            raise BagError(f'{str(path)!r} is a part of the bag beside it: give only one of them')
    if not unique:
        names = ', '.join(repr(str(path)) for path in paths)
        raise BagError(f'there is no bag in {names}: give bags, or a folder that contains bags')
    parts = 1
    while len({path.parts[-parts:] for path in unique}) < len(unique):
        parts += 1
    return {'/'.join(path.parts[-parts:]): path for path in unique}


def _bags_in(folder: Path, without: Path | None) -> list[Path]:
    children = sorted(x for x in folder.iterdir() if x.is_dir() and not x.name.startswith('.'))
    paths = [x for x in children if x.resolve() != without]
    return [bag for x in paths for bag in ([x] if is_bag(x) else _bags_in(x, without))]


class Task(NamedTuple):
    """
    One bag of a run.

    :param job: the job of a process; its output is a temporary file beside `output`.
    :param output: path of the output bag, once it is complete; None if there is none.
    :param key: key of the result, a hash of everything on which it depends.
    """

    job: Job
    output: Path | None
    key: str


def plan(bags: Mapping[str, Path], outputs: Mapping[str, Path], options: Options) -> list[Task]:
    """
    Create the tasks of a run.

    :param bags: name to path.
    :param outputs: name to the output bag; may be empty.
    :param options: the options of the evaluation.
    :return: the tasks, in order.
    :raises BagError: if a bag does not exist.
    :raises ModelError: if the model folder cannot be used.
    """
    tasks = []
    for name, bag in bags.items():
        if not bag.exists():
            raise BagError(f'bag {str(bag)!r} does not exist: check the path')
        key, output = _key(bag, options), outputs.get(name)
        # In the same folder, so that it can be renamed, and with the same extension.
        scratch = output and output.with_name(f'.{key[:16]}{output.suffix}')
        tasks.append(Task(Job(name, bag, scratch, options), output, key))
    return tasks


def _key(bag: Path, options: Options) -> str:
    """Hash all inputs of the result; a model's spec contains the hash of its weights."""
    model = options.model and _spec_hash(options.model)
    parts = {
        'format': FORMAT,
        'bag': [fingerprint(bag), *(file.stat().st_mtime_ns for file in bag_files(bag))],
        'model': model,
        'how': [options.threads, options.confidence, str(options.instruments)],
        **options.described(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _spec_hash(model: Path) -> str:
    read_spec(model)  # raises if it is not a model
    return hashlib.sha256((model / SPEC_FILE).read_bytes()).hexdigest()


class Store:
    """
    Stores results of finished bags, one file each, so that an interrupted run can continue.

    :param folder: the folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        """Create the folder."""
        with writing(folder):
            self._made = make_folder(folder)
        self._folder = folder

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Remove the folder again if the block raises before a result is stored."""
        try:
            yield
        except BaseException:
            self.remove_if_empty()
            remove_empty(self._made)
            raise

    def threads(self, default: int) -> int:
        """
        Return the number of threads of the first run, so that later runs use the same number.

        :param default: the number to use if this is the first run.
        :return: the number.
        """
        path = self._folder / _THREADS
        if not path.is_file():
            write_atomically(path, f'{default}\n'.encode())
        return int(path.read_text())

    def remove_if_empty(self) -> None:
        """Remove the folder again if it contains no result."""
        if not any(self._folder.glob('*.npz')):
            (self._folder / _THREADS).unlink(missing_ok=True)
            remove_empty([self._folder])  # unless it has other files

    def load(self, key: str) -> JobResult | None:
        """
        Load a result.

        :param key: key of the task.
        :return: the outcome; None if the task is not finished.
        """
        path = self._folder / f'{key}.npz'
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            numbers, model = json.loads(bytes(file['json']))
            columns = zip(*(file[name] for name in _COUNTS), strict=True)
            counts = [FrameCounts(a, b, c, bool(missing)) for a, b, c, missing in columns]
        return JobResult(BagResult(numbers, counts), model)

    def save(self, key: str, done: JobResult) -> None:
        """
        Save a result.

        :param key: key of the task.
        :param done: outcome of the task.
        """
        numbers, counts = done.result
        text = json.dumps([numbers, done.model]).encode()
        columns: dict[str, Any] = {
            name: np.array([getattr(count, name) for count in counts]) for name in _COUNTS
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, json=np.frombuffer(text, np.uint8), **columns)
        write_atomically(self._folder / f'{key}.npz', buffer.getvalue())


def _refuse_to_overwrite(outputs: Sequence[Path]) -> None:
    for output in outputs:
        if output.exists():
            raise BagError(
                f'{str(output)!r} exists already, and is not the output of a bag that this run '
                'finished before: choose another output or remove it'
            )


def run(
    tasks: Sequence[Task], runner: Runner, store: Store | None, options: Options
) -> dict[str, Any]:
    """
    Evaluate the bags that are not finished, and merge all results.

    :param tasks: the tasks of the bags.
    :param runner: executes the jobs.
    :param store: stores results; None to store none.
    :param options: options of the evaluation.
    :return: the JSON file's content; see `results`.
    :raises BagError: if an output exists that is not of a finished task, or no bag could be read.
    """
    done = _finished(tasks, store)
    todo = [task for task in tasks if task.job.name not in done]
    outputs = [task.output for task in todo if task.output]
    _refuse_to_overwrite(outputs)
    new_folders = [x for output in outputs for x in output.parents[::-1] if not x.exists()]
    unreadable: dict[str, str] = {}
    of_name = {task.job.name: task for task in todo}
    with _outcomes(runner, todo, new_folders) as outcomes:
        for job, outcome in tqdm(
            outcomes, 'bags', len(todo), leave=False, disable=len(tasks) == 1
        ):
            if isinstance(outcome, BagError | WorkerError):
                unreadable[job.name] = _reason(outcome, job)
                if job.output:
                    remove_output(job.output)  # a killed process could not
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                _store_result(of_name[job.name], outcome, store)
                done[job.name] = outcome
    if not done:
        if store is not None:
            store.remove_if_empty()
        remove_empty(new_folders)
        raise BagError('; '.join(unreadable.values()))
    results = {name: outcome.result for name, outcome in done.items()}
    return merge(results, unreadable, _model(done), options)


def _reason(error: BagError | WorkerError, job: Job) -> str:
    if isinstance(error, BagError):
        return error_text(error, job.bag)
    return f'bag {job.bag.name!r} was not evaluated: {error}'


@contextmanager
def _outcomes(
    runner: Runner, todo: Sequence[Task], new_folders: list[Path]
) -> Iterator[Iterable[Outcome]]:
    """Run jobs; if the block raises, stop the running ones, and remove their unfinished output."""
    if not todo:
        yield ()
        return

    def clean_up() -> None:  # killed processes could not
        for job, _, _ in todo:
            if job.output:
                remove_output(job.output)
        remove_empty(new_folders)

    with cleaned_up(clean_up), closing(runner([task.job for task in todo])) as outcomes:
        yield outcomes


def _finished(tasks: Sequence[Task], store: Store | None) -> dict[str, JobResult]:
    """Load results of an earlier run; move outputs into place that it did not move."""
    done = {}
    for job, output, key in tasks:
        found = store and store.load(key)
        if not found:
            continue
        if output and job.output and job.output.exists() and not output.exists():
            job.output.rename(output)
        if output is None or output.exists():
            done[job.name] = found
    return done


def _store_result(task: Task, done: JobResult, store: Store | None) -> None:
    """Save a result first, then move its bag into place: `_finished` handles a stop in between."""
    if store is not None:
        store.save(task.key, done)
    if task.output is not None and task.job.output is not None:
        task.job.output.rename(task.output)


def _model(done: Mapping[str, JobResult]) -> dict[str, Any] | None:
    """Describe the model that made the masks; machines of a cluster may run it differently."""
    models = [done[name].model for name in sorted(done)]
    joined = {
        key: ' and '.join(sorted({model.get(key, 'unknown') for model in models if model}))
        for key in ('runtime', 'precision')
    }
    return models[0] and {**models[0], **joined}

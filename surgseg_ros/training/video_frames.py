# SPDX-License-Identifier: Apache-2.0
"""Frames of videos that are not unpacked, decoded once into a cache of PNG files."""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final, NoReturn

from tqdm import tqdm

from surgseg_ros.evaluation.frames import PARTIAL, read_frames, write_png
from surgseg_ros.evaluation.layout import FrameError

_NUMBERED: Final = 'by time stamps and index'
"""How frames are numbered; caches with frames that were counted instead are not used."""


def default_cache(root: Path) -> Path:
    """
    Return the default cache: beside the data set if writable, else among the user's caches.

    :param root: the data set.
    :return: a folder, which need not exist.
    """
    whole = root.resolve()
    beside = whole.parent / f'{whole.name}.frames'
    if os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return beside
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return caches / 'surgseg_ros' / f'{whole.name}-{_digest(str(whole))}'


def cache_folder(video: Path, cache: Path) -> Path:
    """
    Return the folder of a video's frames in the cache, each named `000000060.png`.

    The name contains a digest of the file's size and time: a changed file is decoded again.

    :param video: the video's file, in the video's folder.
    :param cache: the cache.
    :return: a folder, which need not exist.
    """
    state = video.stat()
    source = _digest(f'{_NUMBERED} {state.st_size} {state.st_mtime_ns}')
    return cache / f'{video.parent.name}-{source}'


def unpack(
    wanted: Mapping[Path, Sequence[int]], cache: Path, workers: int = 1
) -> dict[Path, dict[int, str]]:
    """
    Decode frames of videos that are not in the cache, several videos at a time.

    A file in the cache is always complete, even after an interruption, and the next call
    continues. Several processes may call this at the same time: one decodes, the others wait.

    :param wanted: for each video, the numbers of the frames, ascending.
    :param cache: the folder; created if it does not exist.
    :param workers: number of videos at a time; threads are used, since OpenCV releases the GIL.
    :return: for each video, the frames that are missing or do not decode, with the reason.
    :raises OSError: if the cache cannot be written.
    """
    lacking = {
        video: rest
        for video, indices in wanted.items()
        if (rest := _lacking(indices, cache_folder(video, cache)))
    }
    if not lacking:
        return {}
    total, stop = sum(map(len, lacking.values())), Event()
    with (
        tqdm(total=total, desc=f'decoding into {cache}', unit='frame', leave=False) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):

        def unpack_one(video: Path) -> dict[int, str]:
            return _unpack_video(video, lacking[video], cache_folder(video, cache), bar, stop)

        try:
            reasons = zip(lacking, pool.map(unpack_one, lacking), strict=True)
            return {video: reason for video, reason in reasons if reason}
        except BaseException:
            stop.set()  # otherwise, this would wait for whole videos
            raise


def _unpack_video(
    video: Path, indices: Sequence[int], folder: Path, bar: 'tqdm[NoReturn]', stop: Event
) -> dict[int, str]:
    """Decode one video, and return the errors of its frames."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, stop):
        if stop.is_set():
            return {}
        for leftover in folder.glob(f'*{PARTIAL}'):
            leftover.unlink()
        rest = _lacking(indices, folder)
        bar.update(len(indices) - len(rest))
        data_errors: dict[int, str] = {}
        reached: set[int] = set()
        try:
            for index, image in read_frames(video, rest, data_errors):
                if stop.is_set():
                    return {}
                write_png(folder / f'{index:09d}.png', image)
                reached.add(index)
                bar.update()
        except FrameError as error:
            return dict.fromkeys(rest, str(error))
    late = f'{video}: ends before frame {{}}, which has a mask; copy the video again'
    beyond = {n: late.format(n) for n in rest if n not in reached and n not in data_errors}
    return {**data_errors, **beyond}


def _lacking(indices: Sequence[int], folder: Path) -> list[int]:
    return [index for index in indices if not (folder / f'{index:09d}.png').exists()]


@contextmanager
def _locked(folder: Path, stop: Event) -> Iterator[None]:
    """Lock the folder against other processes; the system releases it if this one is killed."""
    with (folder / '.lock').open('a') as file:
        while not stop.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stop.wait(0.2)
        yield


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

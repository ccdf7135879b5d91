# SPDX-License-Identifier: Apache-2.0
"""
Measures from the camera's publication to the listener's receipt, in three processes over DDS.

The verb `benchmark` calls it for `--end-to-end`.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.timing import Percentiles
from surgseg_ros.node.middleware import shipped_profile
from tools.end_to_end.processes import VARIANTS, Child, Settings, Variant, processes

WARM_UP_FRAMES: Final = 500
"""Number of frames after which the node should have allocated all memory."""

REPORTED: Final = 300
"""Number of frames that /diagnostics summarizes."""

_REPORT_S: Final = 60.0
"""Time for two reports of the node, which publishes one per second."""
_QUIET_S: Final = 4.0
"""Minimum time without a mask after which no more masks are expected."""
_ANSWER_S: Final = 5.0
_IN_A_ROW: Final = 3
"""Consecutive single frames that must arrive before the measurement starts."""
_MIN_TIMEOUT_S: Final = 60.0
"""Minimum time that a node may take to start."""


class Sample(NamedTuple):
    """
    The node's memory at a point in time.

    :param frames: masks that it had published; 0 if it reports none.
    :param mib: resident memory.
    """

    frames: int
    mib: float


class Watch:
    """
    Collects reports that have no frames in common, and samples of the memory.

    :param report: returns the node's last values in /diagnostics; empty if it reports none.
    :param resident_mib: returns its resident memory.
    :param rate_hz: rate of the camera.
    """

    def __init__(
        self,
        report: Callable[[], Mapping[str, str]],
        resident_mib: Callable[[], float],
        rate_hz: float,
    ) -> None:
        self.reports: list[Mapping[str, str]] = []
        self.samples: list[Sample] = []
        self._report, self._resident_mib = report, resident_mib
        self._window_s = REPORTED / rate_hz
        self._before: int | None = None
        self._reported_s = time.monotonic()

    def __call__(self) -> None:
        """Take a sample, and a report if there is a new one."""
        now_s, values = time.monotonic(), self._report()
        self.samples.append(Sample(self._frames(values), self._resident_mib()))
        if values and now_s - self._reported_s >= self._window_s:
            self._reported_s = now_s
            self.reports.append(values)

    def _frames(self, values: Mapping[str, str]) -> int:
        published = int(values.get('published', 0))
        if self._before is None:
            self._before = published
        return published - self._before


def memory(samples: Sequence[Sample]) -> dict[str, Any]:
    """
    Summarize the memory of a run.

    :param samples: in the order of time.
    :return: MiB `after_500_frames` and `last`, the `frames` at the last sample, `growth` between
        both as a share of the former, and `bytes_per_frame`, the slope of a line through all
        samples from the former on; None if the run is too short.
    """
    later = [sample for sample in samples if sample.frames >= WARM_UP_FRAMES]
    last = samples[-1] if samples else Sample(0, 0.0)
    found: dict[str, Any] = {
        f'after_{WARM_UP_FRAMES}_frames': later[0].mib if later else None,
        'last': last.mib if samples else None,
        'frames': last.frames,
        'growth': last.mib / later[0].mib - 1 if later else None,
        'bytes_per_frame': None,
    }
    if len({sample.frames for sample in later}) > 1:
        slope = np.polyfit(*zip(*later), 1)[0]  # MiB over frames
        found['bytes_per_frame'] = float(slope) * 2**20
    return found


def resident_mib(process_id: int) -> float:
    """
    Return the resident memory of a process.

    :param process_id: id of the process.
    :return: MiB.
    """
    pages = int(Path(f'/proc/{process_id}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def common_settings(
    options: argparse.Namespace, images: Sequence[NDArray[np.uint8]], folder: Path
) -> Settings:
    """
    Write the camera's images to a file, and collect the common settings of all runs.

    :param options: options of the verb `benchmark`.
    :param images: (H, W, 3) uint8 RGB, all of one size; for two cameras, those of each.
    :param folder: folder for that file, and for logs that are not kept.
    :return: the settings.
    """
    path = folder / 'images.npy'
    (cameras,) = options.cameras
    np.save(path, np.concatenate([np.stack(images)] * cameras, 2))
    return Settings(
        model=options.model,
        images=path,
        rate_hz=options.rate,
        frames=options.frames,
        folder=folder,
        profile=options.profile or str(shipped_profile()),
        device=options.device,
        threads=options.threads,
        cameras=cameras,
        parameters={'runtime': options.runtime, 'precision': options.precision},
        outputs=tuple(options.outputs),
    )


def alternate(
    options: argparse.Namespace,
    names: Sequence[str],
    settings: Settings,
    end_s: float,
    print_line: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    """
    Run each variant once in every round; no round starts that would end too late.

    :param options: `rounds`, and `logs`, the folder for logs.
    :param names: names in VARIANTS.
    :param settings: settings of all runs.
    :param end_s: time at which to end, by `time.monotonic`.
    :param print_line: called with a line before each run.
    :return: the results of `run` by variant.
    :raises RuntimeError: if a process ends, or no mask arrives.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    longest_s = 0.0
    for turn in range(1, options.rounds + 1):
        started_s = time.monotonic()
        if started_s + longest_s > end_s:
            break
        for name in names:
            folder = Path(options.logs or settings.folder, f'{turn}_{name}')
            folder.mkdir(parents=True, exist_ok=True)
            print_line(f'round {turn} of {options.rounds}, {name}')
            left_s = max(_MIN_TIMEOUT_S, end_s - time.monotonic())
            of_one = settings._replace(folder=folder, patience_s=left_s)
            runs[name].append(run(VARIANTS[name], of_one))
        longest_s = max(longest_s, time.monotonic() - started_s)
    return runs


def run(variant: Variant, settings: Settings) -> dict[str, Any]:
    """
    Run one variant once, in separate processes.

    :param variant: the variant.
    :param settings: settings of the run.
    :return: `latencies_ms`, counts, `memory_mib`; for further outputs `heard`, the number of
        messages, and `heard_ms`, their latencies; and `model_ms` and `slot_ms`: percentiles of our
        node, single times of the plain node; for our node also `stages_ms` and `runtime`.
    :raises RuntimeError: if a process ends, or no mask arrives.
    """
    with processes(variant, settings) as (node, camera, listener):
        quiet_s = _connect(node, camera, listener, settings.patience_s)
        before = _next_report(listener) if not variant.plain else {}
        watch = _watch(node, listener, settings.rate_hz, variant.plain)
        lasting_s = settings.frames / settings.rate_hz
        sent = camera.ask(f'send {settings.frames} {settings.rate_hz}', watch, lasting_s)
        masks = _remaining(node, listener, quiet_s)
        after = _next_report(listener) if not variant.plain else {}
        watch()
        heard = listener.ask('heard')
        times = node.ask('times') if variant.plain else []
    result = {'sent': len(sent), **latencies(sent, masks)}
    result['heard'] = {name: len(messages) for name, messages in heard.items()}
    result['heard_ms'] = {
        name: latencies(sent, messages)['latencies_ms'] for name, messages in heard.items()
    }
    result['memory_mib'] = memory(watch.samples)
    if variant.plain:
        return {**result, **plain_times(times, sent), **counts(result, {}, {})}
    reported = {'runtime': after.get('device', ''), **node_times([*watch.reports, after])}
    return {**result, **reported, **counts(result, before, after)}


def latencies(sent: Sequence[tuple[int, int]], masks: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """
    Match masks with their frames.

    :param sent: stamp and time of sending of each frame.
    :param masks: stamp and time of receipt of each mask.
    :return: `received`, and `latencies_ms` of the received masks.
    """
    sent_ns = dict(sent)
    found = [(at_ns - sent_ns[stamp]) / 1e6 for stamp, at_ns in masks if stamp in sent_ns]
    return {'received': len(found), 'latencies_ms': found}


def counts(
    result: Mapping[str, Any], before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, int]:
    """
    Count the frames that have no mask by cause.

    :param result: `sent` and `received`.
    :param before: the node's report before the run; empty if there is none.
    :param after: the report after the run.
    :return: `dropped` by design, `rejected`, and `lost`: all others.
    """

    def more(name: str) -> int:
        return int(after.get(name, 0)) - int(before.get(name, 0))

    dropped, rejected = more('dropped_for_newer'), more('rejected')
    return {
        'dropped': dropped,
        'rejected': rejected,
        'lost': result['sent'] - result['received'] - dropped - rejected,
        'lost_on_the_way': more('lost_on_the_way'),
        'overwritten_unread': more('overwritten_unread'),
    }


def node_times(reports: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """
    Read the percentiles that the node reports in /diagnostics.

    :param reports: values of reports, each over the last frames.
    :return: `model_ms`, `slot_ms`, and in `stages_ms` all times by name, averaged over the
        reports.
    :raises ValueError: if the reports contain none.
    """
    median = '_p50_ms'
    names = [key.removesuffix(median) for key in reports[-1] if key.endswith(median)]
    stages = {name: _mean(name, reports) for name in names}
    if missing := {'model', 'wait'} - set(names):
        raise ValueError(f'the node reports no times of {missing}: no mask went out')
    return {'model_ms': stages['model'], 'slot_ms': stages['wait'], 'stages_ms': stages}


def plain_times(
    times: Sequence[Mapping[str, float]], sent: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """
    Select the plain node's times of the measured frames.

    :param times: `stamp_ns`, `model_ms` and `slot_ms` of each frame that it processed.
    :param sent: stamp and time of sending of each measured frame.
    :return: `model_ms` and `slot_ms` of each measured frame.
    """
    stamps = dict(sent)
    seen = [row for row in times if row['stamp_ns'] in stamps]
    return {name: [row[name] for row in seen] for name in ('model_ms', 'slot_ms')}


def _watch(node: Child, listener: Child, rate_hz: float, plain: bool) -> Watch:
    """Create the watch of a node; the plain node reports nothing."""

    def report() -> Mapping[str, str]:
        node.check()
        return {} if plain else listener.ask('diagnostics')['values']

    return Watch(report, lambda: resident_mib(node.process_id), rate_hz)


def _connect(node: Child, camera: Child, listener: Child, start_s: float) -> float:
    """
    Send single frames until several consecutive ones return.

    Return the time after which no more masks are expected.
    """
    end_s = time.monotonic() + start_s
    in_a_row, patience_s, longest_s = 0, _ANSWER_S, 0.0
    while in_a_row < _IN_A_ROW:
        node.check()
        if time.monotonic() > end_s:
            raise RuntimeError(f'no mask arrived within {start_s:.0f} s: see the logs of the run')
        if not _until(lambda: camera.ask('readers') > 0, _ANSWER_S):
            continue
        asked_s = time.monotonic()
        ((stamp_ns, _),) = camera.ask('send 1 1')

        def came(stamp_ns: int = stamp_ns) -> bool:
            return stamp_ns in [stamp for stamp, _ in listener.ask('masks')]

        if _until(came, patience_s):
            in_a_row, longest_s = in_a_row + 1, max(longest_s, time.monotonic() - asked_s)
        else:  # it is slower, or is subscribing again
            in_a_row, patience_s = 0, 1.5 * patience_s
    quiet_s = max(_QUIET_S, 3 * longest_s)
    _remaining(node, listener, quiet_s)
    return quiet_s


def _remaining(node: Child, listener: Child, quiet_s: float) -> list[tuple[int, int]]:
    """Collect masks until no more arrive."""
    masks: list[tuple[int, int]] = []
    last_s = time.monotonic()
    while time.monotonic() - last_s < quiet_s:
        node.check()
        if more := listener.ask('masks'):
            masks += more
            last_s = time.monotonic()
        time.sleep(0.1)
    return masks


def _next_report(listener: Child) -> dict[str, str]:
    """Wait for a report that was created after this call."""
    first = listener.ask('diagnostics')['count']
    if not _until(lambda: listener.ask('diagnostics')['count'] >= first + 2, _REPORT_S):
        raise RuntimeError('/diagnostics is silent: see the logs of the run')
    values: dict[str, str] = listener.ask('diagnostics')['values']
    return values


def _until(holds: Callable[[], bool], timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def _mean(stage: str, reports: Sequence[Mapping[str, str]]) -> Percentiles:
    keys = [f'{stage}_{percentile}_ms' for percentile in Percentiles._fields]
    rows = [[float(report[key]) for key in keys] for report in reports if keys[0] in report]
    return Percentiles(*(sum(column) / len(rows) for column in zip(*rows)))

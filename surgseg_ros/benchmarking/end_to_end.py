# SPDX-License-Identifier: Apache-2.0
"""Measures the latency from camera to listener over DDS, with three processes per run."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from surgseg_ros.benchmarking.conversation import Child
from surgseg_ros.benchmarking.floors import resident_mib
from surgseg_ros.benchmarking.processes import Settings, Variant, processes, times_file
from surgseg_ros.benchmarking.watch import Watch, memory
from surgseg_ros.core.timing import Percentiles

_REPORT_S: Final = 60.0
"""Timeout for two reports of the node, which publishes one per second."""
_QUIET_S: Final = 4.0
"""Minimum time without a mask after which no more is expected."""
_ANSWER_S: Final = 5.0
_IN_A_ROW: Final = 3
"""Number of consecutive frames that must arrive, one by one, before the measurement."""


def run(variant: Variant, settings: Settings) -> dict[str, Any]:
    """
    Run one variant once, in separate processes.

    :param variant: what to run.
    :param settings: how to run it.
    :return: `latencies_ms`, counts, `memory_mib`, messages `heard` on further topics, `model_ms`
        and `slot_ms` as reported; for the node of this package also `stages_ms` and `runtime`.
    :raises RuntimeError: if a process exits, or no mask arrives.
    """
    with processes(variant, settings) as (node, camera, listener):
        quiet_s = _connect(node, camera, listener, settings.patience_s)
        before = _settled(listener) if not variant.plain else {}
        watch = _watch(node, listener, settings.rate_hz, variant.plain)
        lasting_s = settings.frames / settings.rate_hz
        sent = camera.ask(f'send {settings.frames} {settings.rate_hz}', watch, lasting_s)
        masks = _remaining(node, listener, quiet_s)
        after = _settled(listener) if not variant.plain else {}
        watch()
        heard = listener.ask('heard')
    result = {'sent': len(sent), **latencies(sent, masks), 'heard': heard}
    result['memory_mib'] = memory(watch.samples)
    if variant.plain:
        times = json.loads(times_file(settings).read_text())
        return {**result, **plain_times(times, sent), **counts(result, {}, {})}
    reported = {'runtime': after.get('device', ''), **node_times([*watch.reports, after])}
    return {**result, **reported, **counts(result, before, after)}


def latencies(sent: Sequence[tuple[int, int]], masks: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """
    Match masks with their frames.

    :param sent: stamp and sending time of each frame.
    :param masks: stamp and time of receipt of each mask.
    :return: `received`, and `latencies_ms` of those.
    """
    sent_ns = dict(sent)
    found = [(at_ns - sent_ns[stamp]) / 1e6 for stamp, at_ns in masks if stamp in sent_ns]
    return {'received': len(found), 'latencies_ms': found}


def counts(
    result: Mapping[str, Any], before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, int]:
    """
    Count the frames that got no mask, by cause.

    :param result: `sent` and `received`.
    :param before: the node's report before the run; empty if it has none.
    :param after: the report after the run.
    :return: `dropped` by design, `rejected`, and `lost` for any other reason.
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
    Read the percentiles that the node publishes in /diagnostics.

    :param reports: values of its reports, each over the last frames.
    :return: `model_ms`, `slot_ms`, and in `stages_ms` all times by name; means over the reports.
    :raises ValueError: if no report holds any.
    """
    median = '_p50_ms'
    names = [key.removesuffix(median) for key in reports[-1] if key.endswith(median)]
    stages = {name: _mean(name, reports) for name in names}
    if missing := {'model', 'wait'} - set(names):
        raise ValueError(f'the node reports no times of {missing}: it has published no mask')
    return {'model_ms': stages['model'], 'slot_ms': stages['wait'], 'stages_ms': stages}


def plain_times(
    times: Sequence[Mapping[str, float]], sent: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """
    Select the plain node's times of the measured frames.

    :param times: `stamp_ns`, `model_ms` and `slot_ms` of each frame that it processed.
    :param sent: stamp and sending time of each measured frame.
    :return: `model_ms` and `slot_ms` of each.
    """
    stamps = dict(sent)
    seen = [row for row in times if row['stamp_ns'] in stamps]
    return {name: [row[name] for row in seen] for name in ('model_ms', 'slot_ms')}


def _watch(node: Child, listener: Child, rate_hz: float, plain: bool) -> Watch:
    """Watch a node; the plain one publishes no reports."""

    def report() -> Mapping[str, str]:
        node.check()
        return {} if plain else listener.ask('diagnostics')['values']

    return Watch(report, lambda: resident_mib(node.process_id), rate_hz)


def _connect(node: Child, camera: Child, listener: Child, start_s: float) -> float:
    """Send single frames until some in a row return; return how long to wait for late masks."""
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
        else:  # it is slower than that, or is just subscribing again
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


def _settled(listener: Child) -> dict[str, str]:
    """Wait for a report that was made after this call."""
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

# SPDX-License-Identifier: Apache-2.0
"""Sums up runs that took turns, and holds one variant against another."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from surgseg_ros.core.percentiles import Percentiles, percentiles

_COUNTS: Final = (
    *('sent', 'received', 'dropped', 'rejected', 'lost', 'lost_on_the_way', 'overwritten_unread'),
)


def sum_up(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Sum up the runs of one variant.

    Latencies of all runs are taken together. Where the node told percentiles instead of single
    times, their mean over the runs is given.

    :param runs: as surgseg_ros.benchmarking.end_to_end.run gives them.
    :return: `latency_ms`, `model_ms`, `slot_ms`, `rest_ms` (p50 of the first less those of the
        other two), counts, `memory_mib` and messages `heard` of the last run, and `stages_ms`
        where the node told them.
    """
    latency = percentiles(time for run in runs for time in run['latencies_ms'])
    model, slot = (_together([run[name] for run in runs]) for name in ('model_ms', 'slot_ms'))
    reported = [run['stages_ms'] for run in runs if 'stages_ms' in run]
    names = (
        [name for name in reported[0] if all(name in run for run in reported)] if reported else []
    )
    stages = {name: _together([times[name] for times in reported])._asdict() for name in names}
    return {
        'latency_ms': latency._asdict(),
        'model_ms': model._asdict(),
        'slot_ms': slot._asdict(),
        'rest_ms': {'p50': latency.p50 - model.p50 - slot.p50},
        **{name: sum(run[name] for run in runs) for name in _COUNTS},
        **({'stages_ms': stages} if stages else {}),
        'memory_mib': runs[-1]['memory_mib'],
        'heard': runs[-1]['heard'],
        'runs': len(runs),
    }


def ratios(ours: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, float]:
    """
    Say how many times as long the plain node takes.

    :param ours: summed up.
    :param plain: summed up.
    :return: of the median `latency`, and of the `rest`: the same less model and slot.
    """
    return {
        'rest': plain['rest_ms']['p50'] / ours['rest_ms']['p50'],
        'latency': plain['latency_ms']['p50'] / ours['latency_ms']['p50'],
    }


def _together(parts: Sequence[Any]) -> Percentiles:
    if all(isinstance(part, Percentiles) for part in parts):
        return Percentiles(*(sum(values) / len(parts) for values in zip(*parts)))
    return percentiles(time for part in parts for time in part)

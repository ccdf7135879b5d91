# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found, for people: lines for a terminal, and a picture."""

from collections.abc import Mapping
from typing import Any

from surgseg_ros.benchmarking.plot import Bar, bars


def table(report: Mapping[str, Any]) -> str:
    """
    Lay a report out for a terminal.

    :param report: what the JSON file holds.
    :return: lines.
    """
    if 'table' not in report:
        return '\n'.join(_line_over_dds(name, report) for name in _variants(report))
    lines = [f'{"size":>10} {"cameras":>7} {"p50 ms":>8} {"p95":>8} {"p99":>8} {"frames/s":>9}']
    for row in report['table']:
        times = ' '.join(f'{row["total"][p]:8.1f}' for p in ('p50', 'p95', 'p99'))
        head = f'{row["size"]:>10} {row["cameras"]:7}'
        lines.append(f'{head} {times} {row["frames_per_s"]:9.2f}')
        medians = (f'{name} {times["p50"]:.2f}' for name, times in row['stages'].items())
        lines.append('           ' + ', '.join(medians))
    return '\n'.join(lines)


def _variants(report: Mapping[str, Any]) -> list[str]:
    return [name for name in ('end_to_end', 'no_profile', 'plain') if name in report]


def _line_over_dds(name: str, report: Mapping[str, Any]) -> str:
    row = report[name]
    latency, rest = row['latency_ms'], row['rest_ms']['p50']
    counted = ', '.join(f'{key} {row[key]}' for key in ('sent', 'received', 'dropped', 'lost'))
    return (
        f'{name}: latency p50 {latency["p50"]:.1f}, p99 {latency["p99"]:.1f} ms; p50 of the '
        f'model {row["model_ms"]["p50"]:.1f}, of the slot {row["slot_ms"]["p50"]:.1f}, '
        f'rest {rest:.1f}; {counted}'
    )


def plot(report: Mapping[str, Any]) -> str:
    """
    Draw a report.

    :param report: what the JSON file holds.
    :return: SVG.
    """
    machine, model = report['hardware'], report['model']
    note = f'{machine["processor"]}, {machine["cores"]} cores; {model["name"]}; {model["runtime"]}'
    if 'table' in report:
        rows = [
            Bar(
                f'{row["size"]}, cameras: {row["cameras"]}',
                {name: times['p50'] for name, times in row['stages'].items()},
                {key: row['total'][key] for key in ('p95', 'p99')},
            )
            for row in report['table']
        ]
        return bars('Median of each stage, ms; p95 and p99 of the whole', note, rows)
    rows = []
    for name in _variants(report):
        row = report[name]
        parts = {'rest': row['rest_ms']['p50']}
        parts |= {key: row[f'{key}_ms']['p50'] for key in ('slot', 'model')}
        rows.append(Bar(name, parts, {key: row['latency_ms'][key] for key in ('p95', 'p99')}))
    return bars(f'Camera to listener, {report["size"]} at {report["rate_hz"]:g} Hz', note, rows)

# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of the benchmark's times, and ratios of variants."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from surgseg_ros.core.errors import counted
from surgseg_ros.core.timing import Percentiles, percentiles

if TYPE_CHECKING:
    from surgseg_ros.reports.pages import Bar

_SUMMED_COUNTS: Final = (
    *('sent', 'received', 'dropped', 'rejected', 'lost', 'lost_on_the_way', 'overwritten_unread'),
)


def sum_up(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Summarize the runs of one variant.

    Latencies of all runs are pooled. Percentiles that the node reported are averaged over the
    runs.

    :param runs: as tools.end_to_end.measurement.run returns them.
    :return: `latency_ms`, `model_ms`, `slot_ms`, `rest_ms` (p50 of the first less those of the
        other two), counts, `heard_ms` (latencies of further outputs), `memory_mib` and messages
        `heard` of the last run, and `stages_ms` if the node reported them.
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
        **{name: sum(run[name] for run in runs) for name in _SUMMED_COUNTS},
        **({'stages_ms': stages} if stages else {}),
        'heard_ms': _pooled_latencies(runs),
        'memory_mib': runs[-1]['memory_mib'],
        'heard': runs[-1]['heard'],
        'runs': len(runs),
    }


def ratios(segmenter: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, float]:
    """
    Compare the plain node with segmenter_node.

    :param segmenter: summary of the runs of segmenter_node.
    :param plain: summary of the runs of the plain node.
    :return: ratio of the median `latency`, and of the `rest`, which excludes model and slot.
    """
    return {
        'rest': plain['rest_ms']['p50'] / segmenter['rest_ms']['p50'],
        'latency': plain['latency_ms']['p50'] / segmenter['latency_ms']['p50'],
    }


def _pooled_latencies(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Pool the latencies of further outputs; leave out those without messages."""
    pooled = {
        name: [time for run in runs for time in run['heard_ms'].get(name, ())]
        for name in runs[0]['heard_ms']
    }
    return {name: percentiles(times)._asdict() for name, times in pooled.items() if times}


def _together(parts: Sequence[Any]) -> Percentiles:
    if all(isinstance(part, Percentiles) for part in parts):
        return Percentiles(*(sum(values) / len(parts) for values in zip(*parts)))
    return percentiles(time for part in parts for time in part)


_COLOURS: Final = {
    **{'rest': '#c44e52', 'slot': '#ccb974', 'model': '#4c72b0', 'wait': '#ccb974'},
    **{'parse': '#c44e52', 'fit': '#8fb3dd', 'network': '#4c72b0', 'upsample': '#2f4b7c'},
    **{'download': '#937860', 'detections': '#55a868', 'publish': '#dd8452'},
    **{'instruments': '#8cc39b', 'publish_others': '#eeb48d', 'gates': '#bbbbbb'},
}
_MEANINGS: Final = {
    'rest': 'everything but the model',
    'slot': 'wait for the frame before',
    'model': 'model: fit, network, upsampling and argmax',
}

_PERCENTILES: Final = ('p50', 'p95', 'p99')
_COUNTS: Final = ('sent', 'received', 'dropped', 'lost', 'lost_on_the_way', 'overwritten_unread')
_NODE_TIMES: Final = (
    *('transport', 'wait', 'parse', 'postprocessing', 'publish', 'age', 'detections'),
    *('instruments', 'publish_others', 'detections_age'),
)
"""Stages that the node reports per frame, besides those of the model."""


def table(report: Mapping[str, Any]) -> str:
    """
    Format a report.

    :param report: content of the JSON file.
    :return: Markdown.
    """
    parts = _by_stage(report) if 'table' in report else _over_dds(report)
    return '\n\n'.join([*parts, *_cut(report), machine_line(report)])


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """
    Format a table.

    :param head: names of the columns.
    :param rows: the cells; floats have two decimals below 10, and one above.
    :return: Markdown.
    """
    lines = [head, ['---'] * len(head), *([_cell(value) for value in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def machine_line(report: Mapping[str, Any]) -> str:
    """
    Describe the machine and the model of a report.

    :param report: with `hardware`, `rates` and `model`.
    :return: a paragraph.
    """
    machine, rates, model = report['hardware'], report['rates'], report['model']
    products = ', '.join(
        f'{name} {rate:.0f}' for name, rate in rates['matrix_gflop_per_s'].items()
    )
    absent = ''.join(
        f'; {name} not measured: {why}' for name, why in rates['not_measured'].items()
    )
    height, width = model['input_size']
    versions = ', '.join(f'{name} {number}' for name, number in machine['versions'].items())
    return (
        f'{machine["processor"]}, {counted(machine["cores"], "core")}, '
        f'{counted(machine["torch_threads"], "thread")}, '
        f'{machine["memory_gib"]} GiB{", " + machine["gpu"] if machine["gpu"] else ""}; load '
        f'of the last minute {machine["load_average_1min"]}. Instruction set: '
        f'{machine["instruction_set"]}. Products of matrices {products} GFLOP/s{absent}; a copy '
        f'of a 1080p image {rates["copy_gb_per_s"]:.0f} GB/s. '
        f'Model: {model["name"]}, {model["architecture"]} with {model["encoder"]} at '
        f'{width}x{height}; {model["runtime"]}. Python {machine["python"]}, {versions}.'
    )


def _cut(report: Mapping[str, Any]) -> list[str]:
    """Report measurements that were shortened for lack of time."""
    if 'table' not in report:
        done, wanted = report['rounds'], report['rounds_wanted']
        more = 'the time for all of them and two minutes more had passed'
        return [f'{done} of {wanted} rounds: {more}.'] if done < wanted else []
    short = [
        f'{row["rounds"]} of {row["rounds_wanted"]} at {row["size"]} with {row["cameras"]}'
        for row in report['table']
        if row['rounds'] < row['rounds_wanted']
    ]
    if not short:
        return []
    return [
        f'Frames of each camera, by size and number of cameras: {", ".join(short)}; two minutes '
        'allow no more (--frames N measures N, however long that takes).'
    ]


def _cell(value: object) -> str:
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:.2f}' if abs(value) < 9.995 else f'{value:.1f}'
    return str(value)


def _by_stage(report: Mapping[str, Any]) -> list[str]:
    rows = report['table']
    whole = markdown(
        ['size', 'cameras', *(f'mask {p}, ms' for p in _PERCENTILES),
         *(f'all {p}, ms' for p in _PERCENTILES), 'floor, ms', 'frames/s',
         'ms per frame', 'ms per frame and megapixel'],
        (
            [row['size'], row['cameras'],
             *(row[part][p] for part in ('mask', 'total') for p in _PERCENTILES),
             row['cameras'] * row['floor_ms']['total'], row['frames_per_s'],
             1e3 / row['frames_per_s'], 1e9 / row['frames_per_s'] / row['pixels']]
            for row in rows
        ),
    )  # fmt: skip
    names = list(rows[0]['stages'])
    stages = markdown(
        ['size', 'cameras', *(f'{name}, ms' for name in names)],
        (
            [row['size'], row['cameras'], *(_with_minimum(row, name) for name in names)]
            for row in rows
        ),
    )
    return [whole, 'The median of each stage, and its floor in brackets:', stages]


def _with_minimum(row: Mapping[str, Any], stage: str) -> str:
    """Format the median of a stage with its floor."""
    median, minimum = row['stages'][stage]['p50'], row['floor_ms'][stage]
    return f'{_cell(median)} ({_cell(minimum)})' if minimum else _cell(median)


def _over_dds(report: Mapping[str, Any]) -> list[str]:
    names, minimum = _variants(report), report['floor_ms']
    found = markdown(
        [f'{report["size"]} at {report["rate_hz"]:g} Hz', *(f'{p}, ms' for p in _PERCENTILES),
         'model p50', 'slot p50', 'rest p50', *(name.replace('_', ' ') for name in _COUNTS)],
        [
            *([name, *(report[name]['latency_ms'][p] for p in _PERCENTILES),
               *(report[name][f'{part}_ms']['p50'] for part in ('model', 'slot', 'rest')),
               *(report[name][count] for count in _COUNTS)] for name in names),
            ['floor', *'   ', minimum['model'], 0.0, minimum['rest'], *(' ' * len(_COUNTS))],
        ],
    )  # fmt: skip
    parts = [found]
    if 'ratio' in report:
        ratio, bare = report['ratio'], report['ratio_no_profile']
        parts.append(
            f'The plain node takes {ratio["rest"]:.1f} times as long for the rest, and '
            f'{ratio["latency"]:.1f} times as long from camera to listener; '
            f'{bare["rest"]:.1f} and {bare["latency"]:.1f} times as long as the segmenter without '
            'a camera profile.'
        )
    if heard := _latencies_of_others(report, names):
        parts.append(heard)
    reported = [name for name in names if 'stages_ms' in report[name]]
    stages = [name for name in _NODE_TIMES if name in report[reported[0]]['stages_ms']]
    parts.append(
        'Times that the node reports (`age`: from the receipt of an image to its mask, '
        '`detections_age`: to its detections):'
    )
    parts.append(
        markdown(
            ['p50 / p99, ms', *stages],
            ([name, *(_median_and_last(report[name]['stages_ms'][stage]) for stage in stages)]
             for name in reported),
        )
    )  # fmt: skip
    parts.append(_memory(report, names))
    return parts


def _latencies_of_others(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Format the latencies of further outputs; empty if there are none."""
    rows = [
        [name, output, *(times[p] for p in _PERCENTILES)]
        for name in names
        for output, times in report[name]['heard_ms'].items()
    ]
    head = ['from camera to listener', 'output', *(f'{p}, ms' for p in _PERCENTILES)]
    return markdown(head, rows) if rows else ''


def _median_and_last(times: Mapping[str, float]) -> str:
    return f'{_cell(times["p50"])} / {_cell(times["p99"])}'


def _memory(report: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        held = report[name]['memory_mib']
        growth, slope = held['growth'], held['bytes_per_frame']
        rows.append([
            name, held['after_500_frames'], held['last'], held['frames'],
            None if growth is None else f'{100 * growth:+.2f} %',
            None if slope is None else f'{slope:.0f}',
            ', '.join(f'{topic} {count}' for topic, count in report[name]['heard'].items()),
        ])  # fmt: skip
    return markdown(
        ['resident memory', 'after 500 frames, MiB', 'last, MiB', 'frames then', 'growth',
         'bytes per frame', 'subscribed to besides the mask'],
        rows,
    )  # fmt: skip


def _variants(report: Mapping[str, Any]) -> list[str]:
    return [name for name in ('end_to_end', 'no_profile', 'plain') if name in report]


def plot(report: Mapping[str, Any]) -> str:
    """
    Plot a report.

    :param report: content of the JSON file.
    :return: SVG.
    """
    from surgseg_ros.reports.pages import Bar, time_bars  # imports Matplotlib, only for a plot

    machine, model = report['hardware'], report['model']
    note = f'{machine["processor"]}, {machine["cores"]} cores; {model["name"]}; {model["runtime"]}'
    if 'table' in report:
        title = 'Median of each stage, ms; p95 and p99 of the whole'
        rows = [
            Bar(
                f'{row["size"]}, cameras: {row["cameras"]}',
                {
                    name: times['p50']
                    for name, times in row['stages'].items()
                    if name != 'gates'  # run in parallel with the network
                },
                {key: row['total'][key] for key in ('p95', 'p99')},
            )
            for row in report['table']
        ]
        return time_bars(title, note, rows, _kinds(rows))
    title = f'Camera to listener, {report["size"]} at {report["rate_hz"]:g} Hz'
    rows = [
        Bar(
            name,
            {part: report[name][f'{part}_ms']['p50'] for part in ('rest', 'slot', 'model')},
            {key: report[name]['latency_ms'][key] for key in ('p95', 'p99')},
        )
        for name in _variants(report)
    ]
    return time_bars(title, note, rows, _kinds(rows))


def _kinds(rows: Iterable['Bar']) -> dict[str, tuple[str, str]]:
    """Return colour and label of all parts of the bars."""
    names = (name for row in rows for name in row.parts)
    return {name: (_COLOURS.get(name, '#888888'), _MEANINGS.get(name, name)) for name in names}

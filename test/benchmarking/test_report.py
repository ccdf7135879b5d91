# SPDX-License-Identifier: Apache-2.0
"""The report: Markdown tables with the floor beside each value, and a plot."""

from typing import Any
from xml.etree import ElementTree

from surgseg_ros.benchmarking.report import markdown, plot, table

FACTS = {
    'hardware': {
        **{
            'processor': 'P',
            'instruction_set': 'torch AVX2; oneDNN Intel AVX2',
            'cores': 2,
            'torch_threads': 2,
            'memory_gib': 8.0,
            'gpu': None,
        },
        **{'load_average_1min': 0.1, 'python': '3.11', 'versions': {'torch': '2.6'}},
    },
    'rates': {
        'matrix_gflop_per_s': {'f32': 100.4},
        'not_measured': {'bf16': 'emulated'},
        'copy_gb_per_s': 20.0,
    },
    'model': {
        **{'name': 'tiny', 'architecture': 'Unet', 'encoder': 'resnet18'},
        **{'input_size': [64, 96], 'runtime': 'torch float32 on CPU'},
    },
}
MS = {'p50': 1.0, 'p95': 2.0, 'p99': 30.04}


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def over_dds(**changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(('sent', 'received', 'dropped', 'lost'), 7)
    return {
        **counts,
        **{'lost_on_the_way': 0, 'overwritten_unread': 5, 'heard': {'overlay': 3}},
        'heard_ms': {'overlay': MS},
        **{f'{name}_ms': MS for name in ('latency', 'model', 'slot', 'rest')},
        'memory_mib': {
            **{'after_500_frames': 100.0, 'last': 101.0, 'frames': 900},
            **{'growth': 0.01, 'bytes_per_frame': 12.3},
        },
        **changes,
    }


def test_numbers_have_few_digits_and_unknown_values_are_a_dash() -> None:
    lines = markdown(['a', 'b', 'c', 'd'], [[0.123, 9.999, None, 'x']]).splitlines()
    assert lines == ['| a | b | c | d |', '| --- | --- | --- | --- |', '| 0.12 | 10.0 | - | x |']


def test_cost_by_pixels_and_cameras_is_beside_its_floor() -> None:
    row = {
        **{'size': '1000x1000', 'pixels': 10**6, 'cameras': 2, 'frames_per_s': 50.0},
        **{'mask': {'p50': 0.5, 'p95': 0.6, 'p99': 0.7}, 'total': MS},
        'stages': {'wait': MS, 'network': MS},
        'floor_ms': {'wait': 0.0, 'network': 0.25, 'total': 0.5},
        **{'rounds': 37, 'rounds_wanted': 100},
    }
    lines = table({'table': [row], **FACTS}).splitlines()
    assert columns(lines[2]) == [
        *('1000x1000', '2', '0.50', '0.60', '0.70', '1.00', '2.00', '30.0'),
        *('1.00', '50.0', '20.0', '20.0'),
    ]
    assert '| 1000x1000 | 2 | 1.00 | 1.00 (0.25) |' in lines
    assert 'f32 100 GFLOP/s; bf16 not measured: emulated; a copy' in lines[-1]
    assert 'Instruction set: torch AVX2; oneDNN Intel AVX2.' in lines[-1]
    assert '37 of 100 at 1000x1000 with 2; two minutes allow no more' in lines[-3]
    assert 'two minutes' not in table({'table': [{**row, 'rounds': 100}], **FACTS})


def test_all_variants_their_counts_memory_and_ratios_are_reported() -> None:
    ours = over_dds(stages_ms={'wait': MS, 'age': MS, 'network': MS})
    report = {
        **{'end_to_end': ours, 'no_profile': ours, 'plain': over_dds(), **FACTS},
        **{'size': '96x64', 'rate_hz': 30.0, 'floor_ms': {'model': 0.1, 'rest': 0.2}},
        **{'rounds': 1, 'rounds_wanted': 3},
        **{name: {'rest': 3.0, 'latency': 4.0} for name in ('ratio', 'ratio_no_profile')},
    }
    text = table(report)
    heads = columns(text.splitlines()[0])
    (plain,) = [columns(line) for line in text.splitlines() if line.startswith('| plain | 1.00 |')]
    assert len(plain) == len(heads)
    assert plain[heads.index('overwritten unread')] == '5'
    assert 'takes 3.0 times as long for the rest, and 4.0 times' in text
    assert '| end_to_end | 1.00 / 30.0 | 1.00 / 30.0 |' in text, 'wait and age, not the network'
    assert '| plain | overlay | 1.00 | 2.00 | 30.0 |' in text
    assert '1 of 3 rounds: the time for all of them and two minutes more had passed.' in text
    assert 'two minutes' not in table({**report, 'rounds': 3})
    assert '| end_to_end | 100.0 | 101.0 | 900 | +1.00 % | 12 | overlay 3 |' in text


def texts(svg: str) -> set[str]:
    return {f'{element.text}' for element in ElementTree.fromstring(svg).iter() if element.text}


def test_a_plot_has_all_stages_that_follow_each_other_with_or_without_their_own_color() -> None:
    stages = {'network': MS, 'gates': MS, 'new': MS}
    row = {'size': '96x64', 'cameras': 2, 'total': MS, 'stages': stages}
    written = texts(plot({'table': [row], **FACTS}))
    assert {'96x64, cameras: 2', '2.0 ms (p95 2.0, p99 30.0)', 'network 1.00, new 1.00'} <= written
    assert {'network', 'new', 'P, 2 cores; tiny; torch float32 on CPU'} <= written


def test_a_plot_over_dds_has_every_variant_and_explains_the_parts() -> None:
    report = {**{'end_to_end': over_dds(), 'plain': over_dds()}, **FACTS}
    written = texts(plot({**report, 'size': '96x64', 'rate_hz': 30.0}))
    assert {'Camera to listener, 96x64 at 30 Hz', 'end_to_end', 'plain'} <= written
    assert {'everything but the model', 'rest 1.00, slot 1.00, model 1.00'} <= written

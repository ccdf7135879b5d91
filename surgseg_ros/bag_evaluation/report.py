# SPDX-License-Identifier: Apache-2.0
"""The report of `evaluate_bag` for people: one HTML file that needs nothing beside itself."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from surgseg_ros.bag_evaluation import confidence_plot, losses, timeline, timeline_style
from surgseg_ros.bag_evaluation.series import Series, read_series
from surgseg_ros.bag_evaluation.worst_frames import Moment, read_moments, worst_of
from surgseg_ros.core.files import write_whole
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation import charts
from surgseg_ros.evaluation.metrics import SCORED
from surgseg_ros.evaluation.panels import draw_frame
from surgseg_ros.evaluation.report import FILE_NAME, MEANINGS

_MOMENTS: Final = 8
"""So many of the worst moments are drawn."""

_TIMELINES: Final = 40
"""So many bags are drawn over time, the lowest scores first; the others are in the tables."""

_NAMES: Final = tuple(CLASS_NAMES[label] for label in SCORED)

_NOTES: Final = {
    'time': (
        'Of each class: above where the truth shows it, below where the mask does; pale where '
        'that is so in a part of the frames only; grey where there is a truth without it. IoU '
        'and NSD are the official means over all nine classes.'
    ),
    'time_without_truth': (
        'Of each class: where the mask shows it; pale where that is so in a part of the frames.'
    ),
    'worst': (
        'The lowest official IoU of the frames that have a mask, the worst of each bag first, and '
        'no two close together. The numbers are IoU and NSD of the classes that are in the truth '
        'or in the prediction.'
    ),
    'unsure': 'The lowest confidence, of each bag first, and no two close together.',
    'classes': (
        'IoU and NSD are the official ones: a class that is in neither mask of a frame scores 1, '
        'and the mean goes over frames, then over bags. The dark tick is the floor.'
    ),
    'calibration': (
        'Frames by their confidence, ten groups of about the same size. A confidence that is '
        'worth something falls where the IoU falls.'
    ),
    'latency': 'Milliseconds per frame.',
    'overlap': 'The stages overlap, so that their sum is no time per frame.',
}


def write_report(
    folder: Path,
    results: Mapping[str, Any],
    bags: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> Path:
    """
    Write the report.

    :param folder: where; it is made if need be.
    :param results: what the JSON file of `evaluate_bag` holds.
    :param bags: name to the bag with the images and truths, for the worst moments' images.
    :param masks: name to the bag that was written; may be empty.
    :return: the file.
    """
    over_time = {name: bag['over_time'] for name, bag in results['bags'].items()}
    series = {name: read_series(frames) for name, frames in over_time.items() if frames}
    is_scored = results['score'] is not None
    sections = [
        charts.section('Official score' if is_scored else 'No ground truth', *_scores(results)),
        losses.section(results),
        _over_time(results, series),
        _worst(results, series, bags, masks),
    ]
    if is_scored:
        sections += [
            charts.section('Classes', _classes(results, series), _NOTES['classes']),
            charts.section(
                'Confidence', confidence_plot.calibration(series), _NOTES['calibration']
            ),
        ]
    sections += [
        charts.section('Bags', _bags(results, series)),
        charts.section('Latency', *_latency(results)),
        charts.section('What was evaluated', losses.identity(results)),
    ]
    path = folder / FILE_NAME
    style = timeline_style.STYLE + confidence_plot.STYLE
    write_whole(path, charts.page('Segmentation of bags', ''.join(sections), style).encode())
    return path


def _scores(results: Mapping[str, Any]) -> tuple[str, str]:
    """Give the cards, and what they are about."""
    count = len(results['bags'])
    about = f'{results["frames"]} frames of {count} bag{"s" * (count != 1)}'
    if (floor := results['floor']) is None:
        return '', f'{about}, none with a ground truth: there is nothing to score.'
    cards = charts.cards([(key, results[key], floor[key]) for key in floor])
    scored = results['with_ground_truth']
    about += f', {scored} with a ground truth. The floor is {MEANINGS["floor"]}.'
    if 'score_of_masks' in results:
        rows = [(key, results[key], results[f'{key}_of_masks']) for key in floor]
        cards += charts.table(('', 'frames without a mask score 0', 'left out'), rows)
    return cards, about


def _over_time(results: Mapping[str, Any], series: Mapping[str, Series]) -> str:
    scores = {name: results['bags'][name]['score'] for name in series}
    order = sorted(series, key=lambda name: (scores[name] is None, scores[name] or 0, name))
    shown = set(order[:_TIMELINES])
    drawn = ''
    for name in (name for name in series if name in shown):
        drawn += f'<h3>{escape(name)}</h3>{timeline.draw_timeline(series[name], name)}'
    if left := len(series) - len(shown):
        drawn += charts.explain(f'{left} bags with higher scores are not drawn.')
    keys = ''.join(
        f'<span><span class="key {kind}"></span>{escape(said)}</span>'
        for kind, said in timeline_style.keys(series.values())
    )
    note = _NOTES['time' if results['score'] is not None else 'time_without_truth']
    return charts.section('Over time', f'<p class="keys">{keys}</p>{drawn}', note)


def _worst(
    results: Mapping[str, Any],
    series: Mapping[str, Series],
    bags: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> str:
    """Draw the worst moments, worst first."""
    worst = worst_of(series, _MOMENTS)
    worst_frames: dict[tuple[str, int], Moment] = {}
    troubles = []
    for name in sorted({name for name, _ in worst}):
        if name not in bags:
            troubles.append(f'bag {name!r} is not at hand')
            continue
        places = [place for bag, place in worst if bag == name]
        over_time = results['bags'][name]['over_time']
        found, trouble = read_moments(
            places, over_time, bags[name], masks.get(name), results['options']
        )
        worst_frames |= {(name, place): moment for place, moment in found.items()}
        troubles += [trouble] if trouble else []
    drawn = ''.join(
        _figure(
            name, place, results['bags'][name]['over_time'][place], worst_frames.get((name, place))
        )
        for name, place in worst
    )
    said = charts.explain(f'Not all images could be read: {"; ".join(troubles)}')
    note = _NOTES['worst' if results['score'] is not None else 'unsure']
    title = 'Worst moments' if results['score'] is not None else 'Least sure moments'
    return charts.section(title, drawn + (said if troubles else ''), note)


def _figure(name: str, place: int, frame: Mapping[str, Any], moment: Moment | None) -> str:
    stamp = '' if frame['stamp_ns'] is None else f' · stamp {frame["stamp_ns"] / 1e9:.3f} s'
    panels = draw_frame(*moment) if moment else []
    return charts.figure(
        f'{name} · frame {place}{stamp}', _values(frame), panels, ''.join(_chips(frame))
    )


def _values(frame: Mapping[str, Any]) -> str:
    said = [] if frame['fate'] == 'mask' else [str(frame['fate'])]
    if frame['iou'] is not None:
        said += [f'IoU {np.mean(frame["iou"]):.3f}', f'NSD {np.mean(frame["nsd"]):.3f}']
    if frame['confidence'] is not None:
        said.append(f'confidence {frame["confidence"]:.3f}')
    return ' · '.join(said)


def _chips(frame: Mapping[str, Any]) -> Iterator[str]:
    """Name the classes of a frame, the lowest IoU first."""
    labels = {*(frame['truth'] or ()), *(frame['predicted'] or ())}
    if frame['iou'] is None:
        yield from (charts.chip(label, CLASS_NAMES[label]) for label in sorted(labels))
        return
    for label in sorted(labels, key=lambda label: frame['iou'][label - 1]):
        iou, nsd = frame['iou'][label - 1], frame['nsd'][label - 1]
        yield charts.chip(label, f'{CLASS_NAMES[label]} {iou:.2f} / {nsd:.2f}')


def _classes(results: Mapping[str, Any], series: Mapping[str, Series]) -> str:
    """Bars for each class, and the same as numbers."""
    scored = [s.truth[~np.isnan(s.truth[:, 0])] for s in series.values()]
    floor = np.mean([1 - truth.mean(0) for truth in scored if len(truth)], 0).tolist()
    seen = np.sum([truth.sum(0) for truth in scored], 0).astype(int).tolist()
    masks = np.sum([np.nansum(s.predicted, 0) for s in series.values()], 0).astype(int).tolist()
    iou, nsd = results['class_mIoU'], results['class_mNSD']
    present, pooled = results['present_class_IoU'], results['pooled_class_IoU']
    bars = charts.bars(
        _NAMES,
        {'IoU': (iou, floor), 'NSD': (nsd, floor), 'IoU where present': (present, None)},
    )
    head = ('class', 'truths with it', 'masks with it', 'IoU', 'NSD', 'floor of both',
            'IoU where present', 'pooled IoU')  # fmt: skip
    rows = zip(_NAMES, seen, masks, iou, nsd, floor, present, pooled, strict=True)
    meanings = '. '.join(f'{word}: {meaning}' for word, meaning in MEANINGS.items())
    return bars + charts.table(head, rows) + charts.explain(f'{meanings}.')


def _bags(results: Mapping[str, Any], series: Mapping[str, Series]) -> str:
    head = ('bag', 'frames', 'scored', 'mIoU', 'mNSD', 'score', 'floor of all', 'confidence')
    rows = []
    for name, bag in results['bags'].items():
        floor = bag['floor'] and bag['floor']['score']
        sure = np.zeros(0) if name not in series else series[name].confidence
        known = sure[~np.isnan(sure)]
        numbers = (bag['mIoU'], bag['mNSD'], bag['score'], floor)
        confidence = float(known.mean()) if known.size else None
        rows.append((name, bag['frames'], bag['with_ground_truth'], *numbers, confidence))
    return charts.table(head, rows)


def _latency(results: Mapping[str, Any]) -> tuple[str, str]:
    rows = [
        (stage, *(f'{times[key]:.2f}' for key in ('p50', 'p95', 'p99')))
        for stage, times in results['latency_ms'].items()
    ]
    if not rows:
        return '<p>No time was measured.</p>', ''
    said = [_NOTES['latency']] + ([_NOTES['overlap']] if len(rows) > 1 else [])
    return charts.table(('stage', 'p50', 'p95', 'p99'), rows), ' '.join(said)

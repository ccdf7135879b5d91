# SPDX-License-Identifier: Apache-2.0
"""The report of `evaluate_bag`: one self-contained HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from surgseg_ros.bag_evaluation.timeline_data import (
    FrameImages,
    Series,
    read_frame_images,
    read_series,
    worst_of,
)
from surgseg_ros.core.labels import CLASS_NAMES, LABELS, ROBOTIC_TOOL
from surgseg_ros.evaluation.metrics import MEANINGS, SCORED
from surgseg_ros.evaluation.report import ShownFrame, draw_frame
from surgseg_ros.reports import FILE_NAME
from surgseg_ros.reports.pages import (
    BLUE,
    class_bars,
    class_colour,
    confidence_plot,
    round_down,
    write_page,
)
from surgseg_ros.reports.timeline import Curve, Panel, Row, timeline

_WORST_FRAMES: Final = 8
"""Number of worst frames that are shown."""

_TIMELINES: Final = 40
"""Number of bags with a plot over time, those with the lowest scores; tables list all bags."""

_COUNTS: Final = {
    'dropped': 'without a mask',
    'failed': 'network failed',
    'undecided': 'no decision',
    'rejected': 'not an image',
}
_TRUTHS: Final = {
    'unmatched': 'truths without an image',
    'ambiguous': 'truths with an ambiguous stamp',
    'unusable': 'unusable truths',
}
_STAMPS: Final = {'zero': 'stamp zero', 'equal': 'equal stamps', 'backward': 'backward stamps'}

_ORANGE, _GREEN, _PURPLE, _RED, _GREY = '#c2570c', '#2c7a4b', '#5b3a8c', '#c0232c', '#e3e8ee'

Table = list[Sequence[object]]


def write_report(
    folder: Path,
    results: Mapping[str, Any],
    bags: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> Path:
    """
    Write the report.

    :param folder: folder of the report; created if it does not exist.
    :param results: the content of the JSON file of `evaluate_bag`.
    :param bags: name to the bag with the images and truths, for the images of the worst frames.
    :param masks: name to the output bag; may be empty.
    :return: the file.
    """
    series = {
        name: read_series(bag['over_time'])
        for name, bag in results['bags'].items()
        if bag['over_time']
    }
    return write_page(
        folder / FILE_NAME,
        'bags.html.j2',
        title='Segmentation of bags',
        frames=results['frames'],
        scored=results['with_ground_truth'],
        lost_head=('bag', 'frames', 'without a truth', *_COUNTS.values(), *_TRUTHS.values(),
                   *_STAMPS.values()),
        lost=_lost(results),
        errors=list(_errors(results)),
        **_over_time(results, series),
        **_worst(results, series, bags, masks),
        **_scores(results, series),
        bags=_bags(results, series),
        latency=[(stage, *(f'{times[key]:.2f}' for key in ('p50', 'p95', 'p99')))
                 for stage, times in results['latency_ms'].items()],
        **_identity(results),
    )  # fmt: skip


def _scores(results: Mapping[str, Any], series: Mapping[str, Series]) -> dict[str, object]:
    """Build the parts that need a ground truth; without ground truth, `scores` is empty."""
    if (floor := results['floor']) is None:
        return {'scores': []}
    bars, classes = _classes(results, series)
    plot, confidence = _confidence(series)
    of_masks = [key for key in floor if f'{key}_of_masks' in results]
    return {
        'scores': [(key, results[key], floor[key]) for key in floor],
        'of_masks': [(key, results[key], results[f'{key}_of_masks']) for key in of_masks],
        **{'meanings': MEANINGS, 'bars': bars, 'classes': classes},
        **{'confidence_plot': plot, 'confidence': confidence},
    }


def _lost(results: Mapping[str, Any]) -> Table:
    """Count the frames and masks that the scores do not include."""
    counted = list(results['bags'].items())
    return [
        (name, numbers['frames'], numbers['frames'] - numbers['with_ground_truth'],
         *(numbers.get(key, 0) for key in _COUNTS),
         *((numbers['ground_truth'] or {}).get(key) for key in _TRUTHS),
         *(numbers['frames_by_stamp'][key] for key in _STAMPS))
        for name, numbers in [*counted, *([('all', results)] if len(counted) > 1 else [])]
    ]  # fmt: skip


def _errors(results: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    for name, text in results['unreadable'].items():
        yield name, 'not evaluated', 1, text
    for name, bag in results['bags'].items():
        if bag['damage']:
            yield name, 'damage', 1, bag['damage']
        for problem in bag['troubles']:
            yield name, problem['cause'], problem['count'], problem['first']
        if bag.get('strangers'):
            yield name, 'masks without an image', bag['strangers'], None


def _over_time(results: Mapping[str, Any], series: Mapping[str, Series]) -> dict[str, object]:
    scores = {name: results['bags'][name]['score'] for name in series}
    order = sorted(series, key=lambda name: (scores[name] is None, scores[name] or 0, name))
    shown = {name: series[name] for name in series if name in order[:_TIMELINES]}
    drawn = shown.values()
    has_truth = any(not np.isnan(of_bag.iou).all() for of_bag in drawn)
    has_confidence = any(not np.isnan(of_bag.confidence).all() for of_bag in drawn)
    has_lost = any(of_bag.lost.any() or np.nansum(of_bag.no_decision) for of_bag in drawn)
    colours = [
        *([(BLUE, 'IoU'), (_ORANGE, 'NSD'), (_GREY, 'floor')] if has_truth else []),
        *([(_GREEN, 'confidence')] if has_confidence else []),
        *([(_RED, 'without a mask from the network, or without a decision')] if has_lost else []),
    ]
    return {
        'colours': colours,
        'timelines': [(name, draw_timeline(of_bag, name)) for name, of_bag in shown.items()],
        'not_drawn': len(series) - len(shown),
    }


def draw_timeline(series: Series, name: str) -> Markup:
    """
    Plot a bag over time; the size of the chart does not depend on the number of frames.

    :param series: its frames, at least one.
    :param name: name of the bag.
    :return: SVG.
    """
    unit = 'second' if series.is_time else 'frame'
    panels = list(_panels(series))
    return timeline(series.at, panels, list(_rows(series)), f'{name} over time', unit)


def _panels(series: Series) -> Iterator[Panel]:
    """Yield a panel for each quantity that has a value in at least one frame."""
    if not np.isnan(series.iou).all():
        curves = Curve('NSD', series.nsd, _ORANGE, has_band=False), Curve('IoU', series.iou, BLUE)
        ticks = (0, 0.25, 0.5, 0.75, 1)
        yield Panel('score', 112, curves, [(series.floor, _GREY)], ticks=ticks)
    undecided = [(series.no_decision, _RED)] if np.nansum(series.no_decision) else []
    if not np.isnan(series.confidence).all():
        # Background makes the mean high, so the axis starts just below the lowest value.
        minimum = round_down(float(np.nanmin(series.confidence)))
        curve = Curve('confidence', series.confidence, _GREEN)
        yield Panel('confidence', 56, [curve], undecided, low=minimum, ticks=(minimum, 1))
    elif undecided:
        yield Panel('no decision', 56, [], undecided)
    if maximum := np.nanmax(series.instruments, initial=0):
        curve = Curve('instruments', series.instruments, _PURPLE)
        yield Panel('instruments', 28, [curve], high=maximum, ticks=(0, maximum))


def _rows(series: Series) -> Iterator[Row]:
    """Yield a row for each class that occurs (above the truth, below the mask) and each track."""
    has_truth = not np.isnan(series.truth).all()
    for index, label in enumerate(SCORED):
        shown = [*([series.truth] if has_truth else []), series.predicted]
        if any(np.nansum(classes[:, index]) for classes in shown):
            strips = [(classes[:, index], class_colour(label)) for classes in shown]
            yield Row(CLASS_NAMES[label], strips)
    for track in series.tracks:
        # The colour of robotic tools is white, which means unknown here.
        colour = _PURPLE if track.label == ROBOTIC_TOOL else class_colour(track.label)
        yield Row(f'{LABELS[track.label]} #{track.number}', [(track.seen, colour)])
    if series.lost.any():
        yield Row('without a mask', [(series.lost, _RED)])


def _worst(
    results: Mapping[str, Any],
    series: Mapping[str, Series],
    bags: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> dict[str, object]:
    """Draw the worst frames, worst first."""
    worst = worst_of(series, _WORST_FRAMES)
    worst_frames: dict[tuple[str, int], FrameImages] = {}
    problems = []
    for name in sorted({name for name, _ in worst}):
        if name not in bags:
            problems.append(f'bag {name!r} is not available')
            continue
        indices = [index for bag, index in worst if bag == name]
        over_time = results['bags'][name]['over_time']
        found, problem = read_frame_images(
            indices, over_time, bags[name], masks.get(name), results['options']
        )
        worst_frames |= {(name, index): images for index, images in found.items()}
        problems += [problem] if problem else []
    drawn = [
        _frame(
            name, index, results['bags'][name]['over_time'][index], worst_frames.get((name, index))
        )
        for name, index in worst
    ]
    return {'worst': drawn, 'unreadable': problems}


def _frame(
    name: str, index: int, frame: Mapping[str, Any], images: FrameImages | None
) -> ShownFrame:
    stamp = '' if frame['stamp_ns'] is None else f' · stamp {frame["stamp_ns"] / 1e9:.3f} s'
    panels = draw_frame(*images) if images else []
    title = f'{name} · frame {index}{stamp}'
    return ShownFrame(title, _numbers(frame), panels, list(_present(frame)))


def _numbers(frame: Mapping[str, Any]) -> str:
    numbers = [] if frame['fate'] == 'mask' else [str(frame['fate'])]
    if frame['iou'] is not None:
        numbers += [f'IoU {np.mean(frame["iou"]):.3f}', f'NSD {np.mean(frame["nsd"]):.3f}']
    if frame['confidence'] is not None:
        numbers.append(f'confidence {frame["confidence"]:.3f}')
    return ' · '.join(numbers)


def _present(frame: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """List the classes of a frame, the lowest IoU first."""
    labels = {*(frame['truth'] or ()), *(frame['predicted'] or ())}
    if frame['iou'] is None:
        yield from ((label, CLASS_NAMES[label]) for label in sorted(labels))
        return
    for label in sorted(labels, key=lambda label: frame['iou'][label - 1]):
        iou, nsd = frame['iou'][label - 1], frame['nsd'][label - 1]
        yield label, f'{CLASS_NAMES[label]} {iou:.2f} / {nsd:.2f}'


def _classes(results: Mapping[str, Any], series: Mapping[str, Series]) -> tuple[Markup, Table]:
    """Draw bars for each class, and build the rows of the table."""
    scored = [s.truth[~np.isnan(s.truth[:, 0])] for s in series.values()]
    floor = np.mean([1 - truth.mean(0) for truth in scored if len(truth)], 0).tolist()
    seen = np.sum([truth.sum(0) for truth in scored], 0).astype(int).tolist()
    masks = np.sum([np.nansum(s.predicted, 0) for s in series.values()], 0).astype(int).tolist()
    iou, nsd, present = (results[key] for key in ('class_mIoU', 'class_mNSD', 'present_class_IoU'))
    bars = {'IoU': (iou, floor), 'NSD': (nsd, floor), 'IoU where present': (present, None)}
    names, pooled = (CLASS_NAMES[label] for label in SCORED), results['pooled_class_IoU']
    rows = zip(names, seen, masks, iou, nsd, floor, present, pooled, strict=True)
    return class_bars(SCORED, bars), list(rows)


def _confidence(series: Mapping[str, Series]) -> tuple[Markup, Table]:
    """Compare the scores of frames with high and with low confidence."""
    confidence, iou, floor = (
        np.concatenate([getattr(s, key) for s in series.values()])
        for key in ('confidence', 'iou', 'floor')
    )
    known = np.flatnonzero(~np.isnan(confidence) & ~np.isnan(iou))
    if not known.size:
        return Markup(), []
    order = known[np.argsort(confidence[known], kind='stable')]
    rows: Table = [
        (f'{confidence[g].min():.3f} to {confidence[g].max():.3f}', len(g),
         float(iou[g].mean()), float(iou[g].min()), float(floor[g].mean()))
        for g in np.array_split(order, 10) if g.size
    ]  # fmt: skip
    return confidence_plot(confidence[known], iou[known]), rows


def _bags(results: Mapping[str, Any], series: Mapping[str, Series]) -> Table:
    rows: Table = []
    for name, bag in results['bags'].items():
        floor = bag['floor'] and bag['floor']['score']
        values = np.zeros(0) if name not in series else series[name].confidence
        known = values[~np.isnan(values)]
        numbers = (bag['mIoU'], bag['mNSD'], bag['score'], floor)
        confidence = float(known.mean()) if known.size else None
        rows.append((name, bag['frames'], bag['with_ground_truth'], *numbers, confidence))
    return rows


def _identity(results: Mapping[str, Any]) -> dict[str, object]:
    """List the model and the bags that were evaluated."""
    model = results['model'] or {}
    evaluated = {
        'evaluated': f'{results["kind"]}, {results["elapsed_s"]:.1f} s',
        **{f'model: {key.replace("_", " ")}': value for key, value in model.items()},
        'SHA-256 of all masks': results['mask_sha256'],
        **{key.replace('_', ' '): value for key, value in results['options'].items()},
    }
    identities = [
        (
            name,
            f'{bag["identity"]["size_bytes"] / 1e6:.1f}\N{NO-BREAK SPACE}MB',
            f'{bag["identity"]["duration_ns"] / 1e9:.1f}\N{NO-BREAK SPACE}s',
            bag['identity']['fingerprint'],
            bag['mask_sha256'],
        )
        for name, bag in results['bags'].items()
    ]
    return {'evaluated': list(evaluated.items()), 'identities': identities}

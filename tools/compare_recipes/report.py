# SPDX-License-Identifier: Apache-2.0
"""Means and ranges of the scores over several seeds, and a report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import SCORED
from tools.compare_recipes.recipes import CONFIGS, changes

KINDS: Final = ('raw', 'filtered')
_MEANS: Final = ('mIoU', 'mNSD', 'score', 'mean_present_class_IoU')
_TITLES: Final = {
    'class_mIoU': 'official mean IoU per class',
    'present_class_IoU': 'mean IoU over the frames that show the class',
}


def summarize(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Summarize the scores of each recipe over its seeds.

    :param models: each with `recipe`, and `scores` from surgseg_ros.training.scoring.score; at
        least one of each recipe.
    :return: `floor`, `class_floor`; recipe → `raw`, `filtered` → metric → mean, min, max; and
        `gain` → `raw`, `filtered` → metric: the mean of the second recipe minus that of the first.
        Metrics by class have nine values; None for a class that does not occur.
    """
    scores = {
        recipe: [model['scores'] for model in models if model['recipe'] == recipe]
        for recipe in CONFIGS
    }
    first, second = (
        {kind: _together([_completed(run[kind]) for run in runs]) for kind in KINDS}
        for runs in scores.values()
    )
    gains = {
        kind: {metric: _gain(first[kind][metric], second[kind][metric]) for metric in first[kind]}
        for kind in KINDS
    }
    return {
        'floor': models[0]['scores']['floor'],
        'class_floor': models[0]['scores']['class_floor'],
        **dict(zip(CONFIGS, (first, second), strict=True)),
        'gain': gains,
    }


def _completed(scores: Mapping[str, Any]) -> dict[str, Any]:
    present = [value for value in scores['present_class_IoU'] if value is not None]
    return {**scores, 'mean_present_class_IoU': float(np.mean(present)) if present else None}


def _together(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean, min and max by metric; for each class if there are nine values."""
    together: dict[str, Any] = {}
    for metric in runs[0]:
        values = [run[metric] for run in runs]
        nine = isinstance(values[0], list)
        together[metric] = [*map(_spread, zip(*values, strict=True))] if nine else _spread(values)
    return together


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {'mean': float(np.mean(known)), 'min': min(known), 'max': max(known)}


def _gain(before: Any, after: Any) -> Any:
    if isinstance(before, list):
        return [*map(_gain, before, after)]
    return after['mean'] - before['mean'] if before and after else None


def report(result: Mapping[str, Any]) -> str:
    """
    Format a comparison.

    :param result: the content of comparison.json.
    :return: Markdown.
    """
    counts = {
        part: f'{number["videos"]} videos, {number["frames"]} frames'
        for part, number in result['data'].items()
    }
    seeds = '; '.join(
        f'{recipe} {", ".join(str(m["seed"]) for m in result["models"] if m["recipe"] == recipe)}'
        for recipe in CONFIGS
    )
    by_hand = [f'- both, by hand: `{setting}`' for setting in result['settings']]
    return f"""\
# The paper's recipe and ours

Made by `python -m tools.compare_recipes`. Both recipes made {result['steps']} optimizer steps,
from random weights; seeds: {seeds}.

Synthetic videos:
- training and validation: {counts['train']};
- for the minimum region size, tuned in the same way for both: {counts['tune']};
- for the scores: {counts['test']}, which had no part in training or tuning.

All scores are by the official definition at the images' own size: the mean over the seeds, and
in brackets the lowest and the highest. The floor is the score of a prediction of background only.
Raw is the output of the network; filtered means without regions below the least size.

{tables(result['summary'])}

## Changes to the recipes' files (scale `{result['scale']}`)
{chr(10).join([changes(result['scale']), *by_hand])}
"""


def tables(summary: Mapping[str, Any]) -> str:
    """
    Format the table of means and the table by class.

    :param summary: result of `summarize`.
    :return: Markdown.
    """
    heads = [f'{recipe}, {kind}' for kind in KINDS for recipe in (*CONFIGS, 'gain')]
    means = [
        [metric, _number(summary['floor'].get(metric)), *_format_row(summary, metric)]
        for metric in _MEANS
    ]
    classes = []
    for metric, title in _TITLES.items():
        classes.append([f'**{title}**', *[''] * (1 + len(heads))])
        for index, label in enumerate(SCORED):
            floor = summary['class_floor'][index] if metric == 'class_mIoU' else 0.0
            row = [CLASS_NAMES[label], _number(floor), *_format_row(summary, metric, index)]
            classes.append(row)
    return '\n\n'.join(
        (_table(['', 'floor', *heads], means), _table(['class', 'floor', *heads], classes))
    )


def _format_row(summary: Mapping[str, Any], metric: str, index: int | None = None) -> list[str]:
    columns = []
    for kind in KINDS:
        values = [summary[recipe][kind][metric] for recipe in CONFIGS]
        gain = summary['gain'][kind][metric]
        if index is not None:
            values, gain = [value[index] for value in values], gain[index]
        columns += [*map(_with_spread, values), '-' if gain is None else f'{gain:+.3f}']
    return columns


def _with_spread(value: Mapping[str, float] | None) -> str:
    if value is None:
        return '-'
    text = f'{value["mean"]:.3f}'
    if value['min'] < value['max']:
        text += f' ({value["min"]:.3f} to {value["max"]:.3f})'
    return text


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in (heads, ['---'] * len(heads), *rows))

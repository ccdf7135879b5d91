# SPDX-License-Identifier: Apache-2.0
"""The card of a model: what it is, what it was made of, its numbers, and what they don't say."""

import json
from collections.abc import Mapping
from typing import Any, Final

import yaml

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.evaluation.metrics import SCORED
from surgseg_ros.training.model_card_tables import at, mapping, or_dash, scores_section, table

_USES: Final = {
    'demo': """\
**It knows synthetic scenes and nothing else.** It has never seen an image of surgery, and what it
says of one means nothing. It is there so that the node, the demo and the tests have something to
run. Its `intended_use` is `demo`: the node never calls itself better than `degraded` with it.""",
    'research': """\
**For research only.** It is not a medical device, and nothing that it says may decide what happens
to a patient.""",
}

_SPLITS: Final = {
    'video': 'The split is by video: none is on both sides.',
    'frame': '**The split is by frame**: images of one video, nearly alike, are on both sides. '
    'The validation scores say little of other videos.',
}

_TOLD: Final = (
    *('name', 'intended_use', 'data', 'output', 'start', 'cache', 'frame_cache'),
    *('device', 'strategy', 'workers', 'picture_every'),
)
"""Of the recipe, what is said elsewhere, or is the machine's and changes no weight."""

_LIMITS: Final = """\
## Limits
- The numbers hold for images like those of the data above: this endoscope, these instruments,
  this light. Of another hospital's they say nothing.
- A class that the data seldom shows is known badly, whatever the mean says; look at its own row.
- A mask comes without a promise. The network does not know what it does not know."""


def model_card(spec: ModelSpec) -> str:
    """
    Write the card of any model; what the model does not tell is left out.

    :param spec: as `write_model` gives it back.
    :return: Markdown.
    :raises ModelError: if a free-form value is no JSON.
    """
    training = json.loads(spec.to_json())['training']
    parts = [
        f'# {spec.name}',
        _USES[spec.intended_use],
        _what_it_is(spec),
        _data(training),
        _recipe(training),
        *(scores_section(name, entry) for name, entry in spec.scores.items()),
        _confidence(spec),
        _thresholds(spec, training.get('margins')),
        _LIMITS,
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _what_it_is(spec: ModelSpec) -> str:
    fit = {'letterbox': 'ratio kept, padded with black', 'stretch': 'ratio not kept'}[spec.fit]
    height, width = spec.input_size
    return f"""\
## What it is
{spec.architecture} with encoder {spec.encoder}, from segmentation_models_pytorch.
Input: {height} rows by {width} columns, {spec.fit} ({fit}). Classes: those of SAR-RARP50.
The folder is ready for the node and for `surgseg_ros predict`.

Weights: SHA-256 `{spec.weights_sha256}`."""


def _data(training: Mapping[str, Any]) -> str:
    """Tell what it was trained on, as far as it is known."""
    rows = []
    for part in ('training', 'validation'):
        videos, frames = (training.get(f'{part}_{kind}') for kind in ('videos', 'frames'))
        number = len(videos) if isinstance(videos, list) else videos
        if frames is not None:
            rows.append(f'| {part} | {or_dash(number)} | {frames} |')
    recipe = mapping(training.get('recipe'))
    split = training.get('split', recipe.get('split'))
    notes = [
        _SPLITS.get(str(split), ''),
        f'Split seed: {recipe["split_seed"]}.' if 'split_seed' in recipe else '',
        _listed('Validation videos', training.get('validation_videos')),
        _listed('Left out, because something is wrong with it', training.get('left_out')),
    ]
    said = '\n'.join(note for note in notes if note)
    if not rows and not said:
        return ''
    table = '\n'.join(['| | videos | frames |', '| --- | --- | --- |', *rows]) if rows else ''
    return '\n\n'.join(part for part in ('## Data', table, said) if part)


def _recipe(training: Mapping[str, Any]) -> str:
    """Tell the last run's settings, and the runs before it in few words."""
    reported = {
        key: value
        for key, value in mapping(training.get('recipe')).items()
        if key not in _TOLD and value not in ('', None, [], {})
    }
    runs = _runs(training)
    parts = ['## How it was made'] if reported or runs else []
    if len(runs) > 1:
        parts.append('In several runs, each from where the one before ended:')
    parts += ['\n'.join(f'{number}. {run}' for number, run in enumerate(runs, 1))] if runs else []
    if reported:
        block = yaml.safe_dump(reported, sort_keys=False, default_flow_style=None, width=95)
        parts += [f'The {"last " if len(runs) > 1 else ""}recipe:\n\n```yaml\n{block}```']
    if versions := mapping(training.get('versions')):
        parts.append(f'With {", ".join(f"{name} {said}" for name, said in versions.items())}.')
    return '\n\n'.join(parts)


def _runs(training: Mapping[str, Any]) -> list[str]:
    """Name the runs, the first one first."""
    recipe, start = mapping(training.get('recipe')), mapping(training.get('start'))
    parts = [f'{training["steps_done"]} steps'] if 'steps_done' in training else []
    for key, words in (
        ('batch_size', 'of {} images'),
        ('learning_rate', 'learning rate {:g}'),
        ('minutes', 'at most {:g} minutes'),
        ('seed', 'seed {}'),
    ):
        if recipe.get(key) or (key == 'seed' and key in recipe):
            parts.append(words.format(recipe[key]))
    if parts and not start and recipe.get('encoder_weights'):
        named = recipe['encoder_weights']
        parts.append('from random weights' if named == 'none' else f'encoder from {named}')
    return [*(_runs(start) if start else []), *([', '.join(parts)] if parts else [])]


def _confidence(spec: ModelSpec) -> str:
    """Tell what makes the confidence a probability, if anything does."""
    if spec.temperature == 1.0:
        return ''
    return f"""\
## Confidence
It is the probability of the chosen class, of logits that are divided by {spec.temperature:.4f}. This temperature
was found on validation frames (Guo et al. 2017); it changes no class. Of images of another kind
the confidence says little: there, too, the network may be sure and wrong."""  # noqa: E501


def _thresholds(spec: ModelSpec, margins: Any) -> str:
    """Tell what was tuned per class, if anything was."""
    if not any(spec.least_region) and not margins:
        return ''
    rows = [
        [CLASS_NAMES[label], 100 * spec.least_region[label], at(margins, label)]
        for label in SCORED
    ]
    kept = 3 if margins else 2
    return f"""\
## Thresholds
The least region is a share of the image, for whoever filters; the mask itself is not filtered.
The margin is how far, in logits, the class has to be ahead of the next; it is in the weights.

{table(['class', 'least region, %', 'margin'][:kept], [row[:kept] for row in rows])}"""


def _listed(title: str, names: Any) -> str:
    return f'{title}: {", ".join(map(str, names))}.' if isinstance(names, list) and names else ''

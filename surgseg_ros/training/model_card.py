# SPDX-License-Identifier: Apache-2.0
"""The model card, README.md of a model folder."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.evaluation.metrics import SCORED

_CHOSEN_ON: Final = {
    'validation': 'These frames chose the checkpoint, the least region size and the margins if '
    'there are any. So they flatter; other videos will score lower.',
}
"""Said of scores of this name, unless they bring an `about` of their own."""


def scores_section(name: str, entry: Any) -> str:
    """
    Tell one set of scores: the means against the floor, then class by class.

    :param name: a key of ModelSpec.scores.
    :param entry: its value; what it does not hold is left out.
    :return: Markdown; empty if there is no number.
    """
    entry = mapping(entry)
    title = f'## Scores: {name.replace("_", " ")}'
    calibration = _calibration(mapping(entry.get('calibration')))
    if not entry.get('raw') or not entry.get('filtered'):
        plain = [f'- {key}: {number(v)}' for key, v in entry.items() if isinstance(v, int | float)]
        return '\n'.join([title, *plain]) + calibration if plain else ''
    kinds = [mapping(entry['raw']), mapping(entry['filtered'])]
    about = entry.get('about') or _CHOSEN_ON.get(name, '')
    counts = ', '.join(f'{entry[key]} {key}' for key in ('videos', 'frames') if key in entry)
    return f"""\
{title}
{'. '.join(part for part in (counts, about) if part)}

By the official definition of SAR-RARP50, at the images' own size. The floor is what a prediction
of nothing but background scores. Filtered is without regions below the least size.

{table(['', 'floor', 'raw', 'filtered'], _means(entry, kinds))}

Per class: the official means, in which an absent class counts 1 if nothing is said of it and 0
otherwise; and the mean IoU over the frames that do show the class.

{table(['class', 'floor', 'IoU, raw', 'filtered', 'NSD, raw', 'filtered', 'IoU where shown, raw',
         'filtered'], _classes(entry, kinds))}{calibration}"""  # fmt: skip


def _means(entry: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    floor = entry.get('floor')
    return [
        [
            key,
            floor.get(key) if isinstance(floor, Mapping) else floor,
            *(kind.get(key) for kind in kinds),
        ]
        for key in ('mIoU', 'mNSD', 'score')
    ]


def _classes(entry: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    columns = ('class_mIoU', 'class_mNSD', 'present_class_IoU')
    return [
        [
            CLASS_NAMES[label],
            at(entry.get('class_floor'), place),
            *(at(kind.get(key), place) for key in columns for kind in kinds),
        ]
        for place, label in enumerate(SCORED)
    ]


def _calibration(values: Mapping[str, Any]) -> str:
    """Tell how far the confidence is a probability, where that was measured."""
    before, after = (mapping(values.get(key)) for key in ('before', 'after'))
    if 'ece' not in before or 'ece' not in after:
        return ''
    rows = [
        [name, *(_fine(kind.get(key)) for kind in (before, after))]
        for key, name in (
            ('ece', 'all pixels'),
            ('instrument_ece', 'pixels said to be of an instrument'),
        )
    ]
    return f"""

Expected calibration error of the confidence ({values.get('bins')} bins), without the temperature
and with it:

{table(['', 'before', 'after'], rows)}"""


def _fine(value: Any) -> str:
    return f'{value:.4f}' if isinstance(value, float) else or_dash(value)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """
    Lay out a table.

    :param heads: of the columns.
    :param rows: cells, which `number` writes.
    :return: Markdown.
    """
    lines = [heads, ['---'] * len(heads), *([number(cell) for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def number(value: Any) -> str:
    """
    Write a float to three places.

    :param value: of any kind.
    :return: its text.
    """
    return f'{value:.3f}' if isinstance(value, float) else or_dash(value)


def or_dash(value: Any) -> str:
    """
    Write a dash for what is not known.

    :param value: of any kind.
    :return: its text.
    """
    return '-' if value is None else str(value)


def at(values: Any, place: int) -> Any:
    """
    Take a value of a list that must not be there.

    :param values: the list, or anything else.
    :param place: in it.
    :return: the value, or None.
    """
    return values[place] if isinstance(values, list | tuple) and len(values) > place else None


def mapping(value: Any) -> Mapping[str, Any]:
    """
    Take what must not be one for a mapping.

    :param value: of any kind.
    :return: itself, or an empty one.
    """
    return value if isinstance(value, Mapping) else {}


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

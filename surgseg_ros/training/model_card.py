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
    'validation': 'Checkpoint, minimum regions and margins were selected by these scores. So they '
    'are too high: on other videos, scores are lower.',
}
"""Text for scores of this name that have no `about` of their own."""


def scores_section(name: str, entry: Any) -> str:
    """
    Write the section for one set of scores: the means beside the floor, then each class.

    :param name: a key of ModelSpec.scores.
    :param entry: its value; missing values are left out.
    :return: Markdown; empty if there is no number.
    """
    entry = mapping(entry)
    title = f'## Scores: {name.replace("_", " ")}'
    if 'tools_iou' in entry:
        return f'{title}\n{_labelled(entry)}'
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

Scores by the official definition of SAR-RARP50, at the images' own size. The floor is the score of
a mask that is all background. Filtered masks have no regions below the minimum size.

{table(['', 'floor', 'raw', 'filtered'], _means(entry, kinds))}

Per class: the official means, in which an absent class counts 1 if it is not predicted and 0
otherwise; and the mean IoU over the frames that show the class.

{table(['class', 'floor', 'IoU, raw', 'filtered', 'NSD, raw', 'filtered', 'IoU where shown, raw',
         'filtered'], _classes(entry, kinds))}{calibration}"""  # fmt: skip


def _labelled(entry: Mapping[str, Any]) -> str:
    """Report the results of `evaluate --labelled` on a set of labelled images."""
    left_out = entry.get('left_out') or []
    classes = mapping(entry.get('class_iou'))
    thin = {name: mapping(entry.get(name)) for name in ('needle', 'thread')}
    rows = [
        ['official mIoU', entry.get('official_miou'), entry.get('official_miou_floor')],
        ['IoU of all tools together', entry.get('tools_iou'), 0.0],
        *([f'F1 of the {name}', values.get('f1'), 0.0] for name, values in thin.items()),
    ]
    of_class = [
        [name, *(mapping(classes.get(name)).get(key) for key in ('pooled', 'present'))]
        for name in (CLASS_NAMES[label] for label in SCORED)
        if name not in left_out
    ]
    return f"""\
{entry.get('frames')} images{f'; left out: {", ".join(left_out)}' if left_out else ''}. {entry.get('about', '')}

The floor is the score of a mask that is all background. Needle and thread count as found within 3 pixels in an
image that is 640 pixels wide.

{table(['', 'score', 'floor'], rows)}

{table(['class', 'IoU, pooled', 'IoU where shown'], of_class)}"""  # noqa: E501


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
            at(entry.get('class_floor'), index),
            *(at(kind.get(key), index) for key in columns for kind in kinds),
        ]
        for index, label in enumerate(SCORED)
    ]


def _calibration(values: Mapping[str, Any]) -> str:
    """Report the calibration error of the confidence, if it was measured."""
    before, after = (mapping(values.get(key)) for key in ('before', 'after'))
    if 'ece' not in before or 'ece' not in after:
        return ''
    rows = [
        [name, *(_fine(kind.get(key)) for kind in (before, after))]
        for key, name in (
            ('ece', 'all pixels'),
            ('instrument_ece', 'pixels predicted as an instrument'),
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
    Format a table.

    :param heads: headings of the columns.
    :param rows: cells, formatted by `number`.
    :return: Markdown.
    """
    lines = [heads, ['---'] * len(heads), *([number(cell) for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def number(value: Any) -> str:
    """
    Format a float with three decimals.

    :param value: any value.
    :return: its text.
    """
    return f'{value:.3f}' if isinstance(value, float) else or_dash(value)


def or_dash(value: Any) -> str:
    """
    Format a value, or a dash if it is unknown.

    :param value: any value.
    :return: its text.
    """
    return '-' if value is None else str(value)


def at(values: Any, index: int) -> Any:
    """
    Return a value of a list; None if it is not a list, or too short.

    :param values: the list, or anything else.
    :param index: the index.
    :return: the value, or None.
    """
    return values[index] if isinstance(values, list | tuple) and len(values) > index else None


def mapping(value: Any) -> Mapping[str, Any]:
    """
    Return a value if it is a mapping.

    :param value: any value.
    :return: the value if it is a mapping, else an empty one.
    """
    return value if isinstance(value, Mapping) else {}


_USES: Final = {
    'demo': """\
**It knows synthetic scenes and nothing else.** It has never seen an image of surgery, and what it
predicts on one means nothing. It exists so that the node, the demo and the tests have a model to
run. Its `intended_use` is `demo`: with it, the node's status is never better than `degraded`.""",
    'synthetic': """\
**For research only, and trained on synthetic scenes alone**: it has not seen one image of surgery.
Measure what it finds in your images, on labelled frames of your own. It is not a medical
device, and nothing that it predicts may decide what happens to a patient. Its `intended_use` is
`synthetic`: with it, the node's status is never better than `degraded` (`model_synthetic`).""",
    'research': """\
**For research only.** It is not a medical device, and nothing that it predicts may decide what
happens to a patient.""",
}

_SPLITS: Final = {
    'video': 'The split is by video: no video is in both parts.',
    'frame': '**The split is by frame**: nearly identical images of one video are in both parts. '
    'The validation scores say little about other videos.',
}

_OMITTED: Final = (
    *('name', 'intended_use', 'data', 'output', 'start', 'cache', 'frame_cache'),
    *('device', 'strategy', 'workers', 'picture_every'),
)
"""Settings that the card shows elsewhere, or that depend on the machine and not the weights."""

_LIMITS: Final = """\
## Limits
- The scores are valid for images like those of the data above: this endoscope, these instruments,
  this light. They say nothing about images of another hospital.
- A class that is rare in the data is segmented badly, even if the mean is high: see its own row.
- A mask can be wrong and look right. The network does not recognize what it was not trained on."""


def model_card(spec: ModelSpec) -> str:
    """
    Write the model card of any model; unknown values are left out.

    :param spec: as `write_model` returns it.
    :return: Markdown.
    :raises ModelError: if a free-form value is not JSON.
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
    colours = spec.colour_normalization
    drawn = (
        '\nBefore the network, the means of red, green and blue of each image are moved towards '
        f'{list(colours["target"])} with a power of {colours["power"]:g}.'
        if colours
        else ''
    )
    return f"""\
## What it is
{spec.architecture} with encoder {spec.encoder}, from segmentation_models_pytorch.
Input: {height} rows by {width} columns, {spec.fit} ({fit}). Classes: those of SAR-RARP50.{drawn}
The folder can be used by the node and by `python -m surgseg_ros predict`.

Weights: SHA-256 `{spec.weights_sha256}`."""


def _data(training: Mapping[str, Any]) -> str:
    """Describe the training data, as far as they are known."""
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
        _listed('Left out because of errors', training.get('left_out')),
    ]
    text = '\n'.join(note for note in notes if note)
    if not rows and not text:
        return ''
    table = '\n'.join(['| | videos | frames |', '| --- | --- | --- |', *rows]) if rows else ''
    return '\n\n'.join(part for part in ('## Data', table, text) if part)


def _recipe(training: Mapping[str, Any]) -> str:
    """Describe the last run's settings, and briefly the runs before it."""
    recipe = {
        key: value
        for key, value in mapping(training.get('recipe')).items()
        if key not in _OMITTED and value not in ('', None, [], {})
    }
    runs = _runs(training)
    parts = ['## How it was made'] if recipe or runs else []
    if len(runs) > 1:
        parts.append('In several runs, each of which started from the weights of the one before:')
    parts += ['\n'.join(f'{number}. {run}' for number, run in enumerate(runs, 1))] if runs else []
    if recipe:
        block = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=95)
        parts += [f'The {"last " if len(runs) > 1 else ""}recipe:\n\n```yaml\n{block}```']
    if versions := mapping(training.get('versions')):
        parts.append(f'With {", ".join(f"{name} {of}" for name, of in versions.items())}.')
    return '\n\n'.join(parts)


def _runs(training: Mapping[str, Any]) -> list[str]:
    """Describe each run in a line, in order."""
    recipe, start = mapping(training.get('recipe')), mapping(training.get('start'))
    parts = [f'{training["steps_done"]} steps'] if 'steps_done' in training else []
    devices = str(recipe.get('devices', 1))
    each = f' on each of {devices} devices' if devices.isdecimal() and devices != '1' else ''
    for key, words in (
        ('batch_size', f'of {{}} images{each}'),
        ('learning_rate', 'learning rate {:g}'),
        ('schedule_steps', 'with a schedule of {} steps'),
        ('minutes', 'at most {:g} minutes'),
        ('seed', 'seed {}'),
        ('start_share', 'interpolated with the weights before it, whose share is {:g}'),
    ):
        if recipe.get(key) or (key == 'seed' and key in recipe):
            parts.append(words.format(recipe[key]))
    if parts and not start and recipe.get('encoder_weights'):
        named = recipe['encoder_weights']
        origin = mapping(training.get('encoder_weights'))
        forms = (('source', 'weights of {}'), ('license', 'license {}'))
        known = ', '.join(form.format(origin[key]) for key, form in forms if key in origin)
        of = f' ({known})' if known else ''
        parts.append('from random weights' if named == 'none' else f'encoder from {named}{of}')
    return [*(_runs(start) if start else []), *([', '.join(parts)] if parts else [])]


def _confidence(spec: ModelSpec) -> str:
    """Describe the temperature of the confidence, if there is one."""
    if spec.temperature == 1.0:
        return ''
    return f"""\
## Confidence
It is the softmax probability of the chosen class, with logits divided by {spec.temperature:.4f}. This temperature
was fitted on validation frames (Guo et al. 2017); it changes no class. On images of another kind,
the network may be confident and wrong."""  # noqa: E501


def _thresholds(spec: ModelSpec, margins: Any) -> str:
    """List the values that were tuned per class, if any."""
    if not any(spec.least_region) and not margins:
        return ''
    rows = [
        [CLASS_NAMES[label], 100 * spec.least_region[label], at(margins, label)]
        for label in SCORED
    ]
    kept = 3 if margins else 2
    return f"""\
## Thresholds
The minimum region is a share of the image, for optional filtering; the mask is not filtered.
The margin is the lead in logits that the class needs over the next one; it is in the weights.

{table(['class', 'minimum region, %', 'margin'][:kept], [row[:kept] for row in rows])}"""


def _listed(title: str, names: Any) -> str:
    return f'{title}: {", ".join(map(str, names))}.' if isinstance(names, list) and names else ''

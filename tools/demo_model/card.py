# SPDX-License-Identifier: Apache-2.0
"""The card of the demo model: what it knows, what it does not, how it was made, its numbers."""

from typing import Any

from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.model_spec import ModelSpec

_TEXT = """\
# The demo model

**It knows synthetic scenes and nothing else.** It has never seen a picture of surgery, and what it
says of one means nothing. It is there so that the node, the demo and the tests have something to
run. Its `intended_use` is `demo`, for which the node never calls itself better than `degraded`.

## What it is
{architecture} with encoder {encoder}, {height} rows by {width} columns, {fit}; classes as in
SAR-RARP50. Weights: SHA-256 `{weights_sha256}`.

## How it was made
    python -m tools.demo_model

That draws {training_videos} scenes for training and {validation_count} for choosing among
checkpoints ({frames_each} frames of each, all seeds from 100000 on), trains from random weights
with `config/train_demo.yaml`, then twice with `config/train_demo_finish.yaml`, and scores on
scenes of its own. Two things are tuned on scenes from seed 800000 on: how far each class has to be
ahead of the next to be said (taken off the last layer's bias), and the least region size per class
(in model.json, for whoever filters).

This one was trained on two busy cores
{legs}.

## Numbers
{test_frames} frames of {test_scenes} scenes (seeds {first} to {last}) that played no part in
training or tuning, 1280x720, by the official definition of SAR-RARP50.
A prediction of nothing but background scores the floor.

| | floor | raw | least region size |
| --- | --- | --- | --- |
| mIoU | {floor:.3f} | {raw[mIoU]:.3f} | {filtered[mIoU]:.3f} |
| mNSD | {floor:.3f} | {raw[mNSD]:.3f} | {filtered[mNSD]:.3f} |
| score | {floor:.3f} | {raw[score]:.3f} | {filtered[score]:.3f} |

Per class: the official mean IoU, in which an absent class counts 1 if nothing is said of it and 0
otherwise; and the mean IoU over the frames that do show the class.

| class | floor | official, raw | filtered | where shown, raw | filtered | least region, % |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def card(spec: ModelSpec) -> str:
    """
    Write the card.

    :param spec: with the scores on unseen scenes.
    :return: Markdown.
    """
    test = spec.scores['unseen_scenes']
    training: dict[str, Any] = dict(spec.training)
    validation_count = len(training['validation_videos'])
    return _TEXT.format(
        **{key: getattr(spec, key) for key in ('architecture', 'encoder', 'fit')},
        weights_sha256=spec.weights_sha256,
        height=spec.input_size[0],
        width=spec.input_size[1],
        training_videos=training['training_videos'],
        validation_count=validation_count,
        frames_each=training['validation_frames'] // validation_count,
        legs=_legs(training),
        test_frames=test['frames'],
        test_scenes=test['seeds'][1] - test['seeds'][0] + 1,
        first=test['seeds'][0],
        last=test['seeds'][1],
        floor=test['floor'],
        raw=test['raw'],
        filtered=test['filtered'],
        rows='\n'.join(_row(label, test, spec.least_region) for label in range(1, 10)),
    )


def _legs(training: dict[str, Any]) -> str:
    """Tell one run, or several of which each went on from the one before."""
    recipe = training['recipe']
    leg = f'for {training["steps_done"]} steps'
    if recipe['minutes']:
        leg += f' (`minutes={recipe["minutes"]:g} learning_rate={recipe["learning_rate"]:g}`)'
    return f'{_legs(training["start"])},\nthen from there {leg}' if 'start' in training else leg


def _row(label: int, test: dict[str, Any], least: tuple[float, ...]) -> str:
    place = label - 1
    values = [
        test['class_floor'][place],
        *(test[kind]['class_mIoU'][place] for kind in ('raw', 'filtered')),
        *(test[kind]['present_class_IoU'][place] for kind in ('raw', 'filtered')),
    ]
    cells = ' | '.join('-' if value is None else f'{value:.3f}' for value in values)
    return f'| {CLASS_NAMES[label]} | {cells} | {100 * least[label]:.3f} |'

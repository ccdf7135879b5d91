# SPDX-License-Identifier: Apache-2.0
"""
Adapts a model to unlabelled images: batch normalization by the statistics of those images.

Adaptive batch normalization (Li et al. 2016, *Revisiting Batch Normalization for Practical Domain
Adaptation*), mixed with the statistics of training (Schneider et al. 2020, *Improving robustness
against common corruptions by covariate shift adaptation*). No weight is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from surgseg_ros.core.files import check_new_folder, new_folder
from surgseg_ros.core.fitting import prepare
from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_model, write_model
from surgseg_ros.core.runtimes.pytorch import load_network
from surgseg_ros.core.self_test import add_self_test
from surgseg_ros.evaluation.frames import Source, find_sources, report_losses
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.training.model_card import model_card

WEIGHT: Final = 0.5
"""Of the images' statistics; the rest is that of the training's. See docs/default_model.md."""

_BATCH: Final = 8
"""Images whose statistics are computed together, at most."""


@dataclass(frozen=True)
class Adapted:
    """
    What an adaptation made.

    :param spec: the specification as written.
    :param losses: a text for what is missing or damaged in each video.
    """

    spec: ModelSpec
    losses: tuple[str, ...]


def adapt(
    model: Path, videos: Sequence[Path], output: Path, count: int = 64, weight: float = WEIGHT
) -> Adapted:
    """
    Adapt a model to images of one camera, and write it into a new folder.

    :param model: a model folder; it stays as it is.
    :param videos: videos, folders of images or data sets, of which the labels are not read.
    :param output: a new folder; it appears complete or not at all.
    :param count: images to take at most, evenly spread over all videos.
    :param weight: of the images' statistics, above 0 and up to 1.
    :return: the model and what could not be read. It has no scores, since those of the model were
        measured with other statistics, and the model's `intended_use`.
    :raises ModelError: if the model cannot be used, or has no batch normalization.
    :raises FrameError: if a video or an image cannot be read, or there is none.
    :raises ValueError: if the output is not empty.
    :raises OSError: if the output cannot be written.
    """
    check_new_folder(output)
    spec, weights = read_model(model)
    network = load_network(spec, weights)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise ModelError(
            f'{model}: {spec.architecture} with {spec.encoder} has no batch normalization, which '
            'is what is adapted: train it on labelled frames'
        )
    chosen = _choose([s for path in videos for s in find_sources(path, 1)], count)
    losses: list[str] = []
    images = torch.cat(list(_read(chosen, spec, losses)))
    _mix(network, norms, images, weight)
    named = _name(spec, chosen, len(images), weight)
    with new_folder(output) as folder:
        write_model(folder, named, network.state_dict())
        written = add_self_test(folder)
        (folder / 'README.md').write_text(model_card(written))
    return Adapted(written, tuple(losses))


def _name(spec: ModelSpec, sources: Sequence[Source], count: int, weight: float) -> ModelSpec:
    """Say what a model was adapted to; its scores are those of other statistics."""
    made_of = {
        'model': spec.weights_sha256,
        'videos': [source.name for source in sources],
        'images': count,
        'weight': weight,
    }
    training = {**spec.training, 'adapted': made_of}
    return replace(spec, name=f'{spec.name[:190]}, adapted', training=training, scores={})


def _choose(sources: Sequence[Source], count: int) -> list[Source]:
    """Choose images, evenly spread over all sources."""
    lengths = [len(source) for source in sources]
    total = sum(lengths)
    places = np.unique(np.linspace(0, max(0, total - 1), min(count, total)).round().astype(int))
    chosen = []
    for source, start, length in zip(sources, np.cumsum([0, *lengths]), lengths):
        inside = [int(place - start) for place in places if start <= place < start + length]
        numbers = range(length) if source.numbers is None else source.numbers
        if inside:
            chosen.append(replace(source, numbers=tuple(numbers[place] for place in inside)))
    return chosen


def _read(sources: Sequence[Source], spec: ModelSpec, losses: list[str]) -> Iterator[Tensor]:
    """Read images and prepare them as the Segmenter does: (1, h, w, 3) uint8 each."""
    total, some = sum(map(len, sources)), False
    with tqdm(total=total, desc='reading', unit='image', leave=False) as bar:
        for source in sources:
            data_errors: dict[int, str] = {}
            for _, image in source.read(lambda _: False, data_errors):
                yield prepare(torch.from_numpy(np.ascontiguousarray(image))[None], spec)
                some = True
                bar.update()
            if data_errors:
                losses.append(report_losses(source, data_errors))
    if not some:
        raise FrameError('\n'.join(losses) or 'there is no image to adapt to')


@torch.inference_mode()
def _mix(network: nn.Module, norms: Sequence[_BatchNorm], images: Tensor, weight: float) -> None:
    """Mix the statistics of images into the running statistics of each layer, in place."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    batches = images.tensor_split(-(-len(images) // _BATCH))
    for batch in tqdm(batches, 'adapting', unit='batch', leave=False):
        network(batch)
    after = network.state_dict()
    mixed = {
        key: before[key].lerp(after[key], weight)
        for name, module in network.named_modules()
        if module in norms and after[f'{name}.num_batches_tracked']  # the encoder may be cut off
        for key in (f'{name}.running_mean', f'{name}.running_var')
    }
    network.load_state_dict({**before, **mixed})
    network.eval()

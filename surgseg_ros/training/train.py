# SPDX-License-Identifier: Apache-2.0
"""The verb `train`: from a folder of videos and a file of settings to a model folder."""

import argparse
import dataclasses
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgseg_ros.core.model_spec import ModelError, read_spec, write_model
from surgseg_ros.core.runtimes import choose_device
from surgseg_ros.evaluation.masks import MaskError
from surgseg_ros.training.config import ConfigError, TrainConfig, read_config
from surgseg_ros.training.dataset import DatasetError, Sample, find_samples, split_videos
from surgseg_ros.training.fitted_frames import FittedFrames
from surgseg_ros.training.module import Training, ValidationFrame
from surgseg_ros.training.views import Stretch, Views

_PRECISIONS = {'float32': '32-true', 'bfloat16': 'bf16-mixed'}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Train.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _parser().parse_args(argv)
    try:
        train(read_config(options.config, options.settings))
    except (ConfigError, DatasetError, MaskError, ModelError) as error:
        print(f'train: {error}', file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='surgseg_ros train', description=__doc__)
    parser.add_argument('--config', type=Path, required=True, metavar='FILE', help='YAML settings')
    parser.add_argument(
        'settings', nargs='*', metavar='key=value', help='instead of what the file says'
    )
    return parser


def train(config: TrainConfig) -> None:
    """
    Train a model and write its folder.

    :param config: the settings.
    :raises ConfigError: if the output folder is not empty.
    :raises DatasetError: if the data can't be used.
    :raises ModelError: if there is no such network.
    """
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f'output {str(output)!r} is not an empty folder: name a new one')
    try:
        accelerator = torch.device(choose_device(config.device)).type
    except ValueError as error:
        raise ConfigError(str(error)) from error
    samples = find_samples(Path(config.data))
    names = split_videos((s.video for s in samples), config.validation_share, config.split_seed)
    training, validation = (tuple(s for s in samples if s.video in set(part)) for part in names)
    provenance = _provenance(config, training, validation)
    lightning.seed_everything(config.seed, verbose=False)
    spec = config.spec()

    def keep(
        weights: dict[str, Tensor], scores: dict[str, Any], least: tuple[float, ...], step: int
    ) -> None:
        best = dataclasses.replace(
            spec,
            least_region=least,
            training={**provenance, 'steps_done': step},
            scores={'validation': scores},
        )
        write_model(output, best, weights)

    module = Training(config, spec, keep)
    with ExitStack() as stack:
        cache = config.cache or stack.enter_context(tempfile.TemporaryDirectory())
        frames = FittedFrames.prepare(training, spec.input_size, spec.fit, Path(cache))
        stack.enter_context(warnings.catch_warnings())
        views = Views(frames, config.augmentation, config.crop_size, config.seed)
        _fit(module, views, validation, accelerator)
    print(f'{output}: best mIoU {module.best:.4f} on {len(names[1])} validation videos')


def _fit(module: Training, views: Views, validation: Sequence[Sample], accelerator: str) -> None:
    """Run Lightning, without its advice."""
    config = module.config
    warnings.filterwarnings('ignore', category=UserWarning, module='lightning')
    # Lightning uses a class of torch that is on its way out.
    warnings.filterwarnings('ignore', '.*LeafSpec', FutureWarning)
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    every = min(config.validate_every, config.steps)
    loader = DataLoader(
        views,
        config.batch_size,
        sampler=Stretch(every * config.batch_size),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        multiprocessing_context='spawn' if config.workers else None,
    )
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=_PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_steps=config.steps,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    whole = DataLoader(_Whole(validation), batch_size=None, collate_fn=_as_it_is)
    trainer.fit(module, loader, whole)


def _as_it_is(frame: Any) -> Any:
    """Keep the arrays, of which torch would make tensors."""
    return frame


class _Whole(Dataset[ValidationFrame]):
    """Validation frames at their own size."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int) -> ValidationFrame:
        image, mask = self._samples[place].read()
        return self._samples[place].video, image, mask


def _provenance(
    config: TrainConfig, training: Sequence[Sample], validation: Sequence[Sample]
) -> dict[str, Any]:
    """Tell model.json of the run; folders by name only, for the rest is this machine's."""
    recipe = asdict(config)
    for key in ('data', 'output', 'cache', 'start'):
        recipe[key] = Path(recipe[key]).name
    before = {'start': read_spec(config.start).training} if config.start else {}
    return {
        **before,
        'recipe': recipe,
        'training_videos': len({s.video for s in training}),
        'training_frames': len(training),
        'validation_videos': sorted({s.video for s in validation}),
        'validation_frames': len(validation),
        'versions': {'torch': torch.__version__, 'lightning': lightning.__version__},
    }

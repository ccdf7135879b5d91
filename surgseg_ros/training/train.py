# SPDX-License-Identifier: Apache-2.0
"""Trains a model, and writes its folder."""

import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from surgseg_ros.core.files import (
    check_folder,
    make_folder,
    remove_empty,
    write_atomically,
    writing,
)
from surgseg_ros.core.model_folder import read_spec, write_model
from surgseg_ros.core.runtimes import choose_device
from surgseg_ros.core.runtimes.base import has_instructions
from surgseg_ros.core.self_test import add_self_test
from surgseg_ros.training.callbacks import (
    CHECKPOINT_FILE,
    CheckpointFile,
    PredictionImages,
    Progress,
    checkpoint_callback,
    find_checkpoint,
)
from surgseg_ros.training.config import ConfigError, TrainConfig
from surgseg_ros.training.data import Data
from surgseg_ros.training.dataset import find_all_masks
from surgseg_ros.training.model_card import model_card
from surgseg_ros.training.module import Training
from surgseg_ros.training.networks import (
    build_network,
    interpolate,
    running_mean,
    starting_spec,
    try_network,
    weights_metadata,
)
from surgseg_ros.training.scoring import tune_and_score

_LOG: Final = logging.getLogger(__name__)

RUN: Final = 'run'
README: Final = 'README.md'
SPLIT_FILE: Final = 'split.json'
_PRECISIONS: Final = {'float32': '32-true', 'bfloat16': 'bf16-mixed', 'float16': '16-mixed'}
_PATHS: Final = ('data', 'output', 'cache', 'frame_cache', 'start', 'encoder_weights')


def train(config: TrainConfig, *, resume: bool = False) -> None:
    """
    Train a model and write its folder.

    :param config: the settings.
    :param resume: whether to resume from the last checkpoint in the output folder.
    :raises ConfigError: if the output folder is not empty, or the checkpoint is from another run.
    :raises DatasetError: if the data cannot be used.
    :raises ModelError: if there is no such network, or it does not learn.
    :raises OSError: if the model, or a file of the run, cannot be written.
    """
    output = Path(config.output)
    run = output / RUN
    checkpoint = _find_checkpoint(config, output, resume)
    check_folder(run)
    find_all_masks(Path(config.data), config.leave_out)  # before weights are fetched
    lightning.seed_everything(config.seed, verbose=False)
    module = Training(config, starting_spec(config))
    try_network(config, module.network)
    with _run_folder(run):
        data = Data(config, run)
        with warnings.catch_warnings():
            trainer = _trainer(config, run)
            _fit(trainer, module, data, checkpoint)
        if trainer.is_global_zero:
            _finish(module, data, output)


@contextmanager
def _run_folder(run: Path) -> Iterator[None]:
    """
    Create the run's folder; if the start fails, remove it, so that the output can be used again.

    After the first checkpoint, or an interruption, it is kept, so that --resume can continue.
    """
    with writing(run):
        made = make_folder(run)
    try:
        yield
    except Exception:
        if run in made and not (run / CHECKPOINT_FILE).exists():
            shutil.rmtree(run, ignore_errors=True)
            remove_empty(made)
        raise


def _fit(
    trainer: lightning.Trainer, module: Training, data: Data, checkpoint: Path | None
) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # raised by Lightning on Ctrl-C
        raise KeyboardInterrupt from error


def _find_checkpoint(config: TrainConfig, output: Path, resume: bool) -> Path | None:
    """Find the checkpoint to resume from, or refuse to overwrite existing files."""
    if resume:
        return find_checkpoint(output / RUN, config)
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return None  # rank 0 may have created the folder already
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        unfinished = (output / RUN).is_dir() and not (output / README).exists()
        raise ConfigError(
            f'output {str(output)!r} is not an empty folder: name a new one'
            + (', or continue the run in it with --resume' if unfinished else '')
        )
    return None


def _trainer(config: TrainConfig, run: Path) -> lightning.Trainer:
    """Create Lightning's trainer, without its tips."""
    warnings.filterwarnings('ignore', category=UserWarning, module='lightning')
    # Lightning uses a deprecated class of torch.
    warnings.filterwarnings('ignore', '.*LeafSpec', FutureWarning)
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    try:
        accelerator = torch.device(choose_device(config.device)).type
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if accelerator == 'cpu' and config.precision == 'float16':
        raise ConfigError("precision is 'float16', which a CPU cannot train with: use bfloat16")
    precision = trained_precision(config.precision, accelerator)
    if precision != config.precision:
        _report_precision(precision, config.precision)
    tensorboard = TensorBoardLogger(run, name='logs')
    try:
        return lightning.Trainer(
            accelerator=accelerator,
            devices=config.devices if config.devices == 'auto' else int(config.devices),
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=_PRECISIONS[precision],  # type: ignore[arg-type]
            accumulate_grad_batches=config.accumulate,
            default_root_dir=run,
            max_epochs=-1,  # the module stops the run
            logger=[tensorboard, CSVLogger(run, name='logs', version=tensorboard.version)],
            callbacks=_callbacks(config, run, accelerator),
            plugins=[CheckpointFile()],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f'devices={config.devices}, nodes={config.nodes}, strategy={config.strategy!r} and '
            f'precision={config.precision} on {accelerator} cannot be used: {error}'
        ) from error


def trained_precision(precision: str, device: str) -> str:
    """
    Return the precision in which a device computes the steps of a run.

    :param precision: the precision of the settings.
    :param device: `cpu`, `cuda`, `cuda:1` …
    :return: `float32` instead of `bfloat16` on a CPU that would emulate it, and so be slower.
    """
    emulated = precision == 'bfloat16' and device == 'cpu' and not has_instructions('bf16')
    return 'float32' if emulated else precision


@rank_zero_only
def _report_precision(precision: str, requested: str) -> None:
    _LOG.warning(
        'this CPU has no instructions for %s: training in %s instead', requested, precision
    )


def _callbacks(config: TrainConfig, run: Path, device: str) -> list[lightning.Callback]:
    """List the callbacks in order of execution; the checkpoint has the state of the others."""
    callbacks: list[lightning.Callback] = [Progress()]
    if config.picture_every:
        callbacks.append(PredictionImages(run, config.picture_every))
    if config.ema_decay:
        # Not EMAWeightAveraging: with a constant decay, its average would contain the random
        # initialization for long. The device is given, since the network is on the CPU during
        # set-up.
        callbacks.append(WeightAveraging(device, multi_avg_fn=running_mean(config.ema_decay)))
    if config.patience:
        mode = 'min' if config.select == 'loss' else 'max'
        callbacks.append(
            EarlyStopping(
                f'validation_{config.select}',
                patience=config.patience,
                mode=mode,
                check_on_train_epoch_end=False,
            )
        )
    return [*callbacks, checkpoint_callback(run)]


def _finish(module: Training, data: Data, output: Path) -> None:
    """Tune and score the best weights, and write the model folder and its card."""
    config = module.config
    spec = dataclasses.replace(
        module.spec,
        intended_use=data.intended_use(),
        training=_provenance(module, data),
    )
    weights = module.best_weights
    if config.start_share:
        if config.of_result() != module.settings:
            raise ConfigError(
                f'{config.start}: the weights are not those that the run started from: put these '
                'back, and add --resume'
            )
        start = build_network(config, module.spec).state_dict()
        weights = interpolate(weights, start, config.start_share)
    device = choose_device(config.device)
    spec, weights = tune_and_score(
        spec, weights, data.validation_frames, margins=config.margins, device=device
    )
    write_model(output, spec, weights)
    written = add_self_test(output)
    write_atomically(output / SPLIT_FILE, (json.dumps(data.split(), indent=2) + '\n').encode())
    write_atomically(output / README, model_card(written).encode())
    if not config.cache:
        shutil.rmtree(output / RUN / 'frames', ignore_errors=True)
    scores = spec.scores['validation']
    print(
        f'{output}: official mIoU {scores["raw"]["mIoU"]:.4f} '
        f'({scores["filtered"]["mIoU"]:.4f} without small regions, '
        f'{scores["floor"]["mIoU"]:.4f} for background only) on {scores["frames"]} frames of '
        f'{scores["videos"]} validation videos; the best of {config.select} after '
        f'{module.best_step} steps'
    )


def _provenance(module: Training, data: Data) -> dict[str, Any]:
    """Describe the run for model.json; folders by name, since paths differ between machines."""
    config = module.config
    recipe = asdict(config)
    for key in _PATHS:
        recipe[key] = Path(recipe[key]).name
    recipe['precision'] = trained_precision(config.precision, choose_device(config.device))
    before = {'start': read_spec(config.start).training} if config.start else {}
    origin = {k: v for k, v in weights_metadata(config).items() if k in ('source', 'license')}
    return {
        **before,
        **({'encoder_weights': origin} if origin else {}),
        'recipe': recipe,
        'split': config.split,
        'training_videos': len({s.video for s in data.training}),
        'training_frames': len(data.training),
        'validation_videos': sorted({s.video for s in data.validation}),
        'validation_frames': len(data.validation),
        'left_out': [*config.leave_out, *data.left_out],
        'steps_done': module.best_step,
        'versions': {'torch': torch.__version__, 'lightning': lightning.__version__},
    }

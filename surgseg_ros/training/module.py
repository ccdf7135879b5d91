# SPDX-License-Identifier: Apache-2.0
"""The LightningModule of a training run: steps, validation, and best weights."""

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from surgseg_ros.core.files import make_folder, write_atomically
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.preprocessing import fit_mask
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.data import Data
from surgseg_ros.training.networks import (
    build_network,
    build_optimizer,
    class_weights,
    freeze_encoder,
    rate,
    segmentation_loss,
)
from surgseg_ros.training.scoring import ValidationFrame

_STEPS_UNSEEN: Final = 10


class _Validated:
    """A network in training as a Runtime, so that validation runs the node's code."""

    description = 'a network in training'
    precision = 'f32'
    max_batch_size = 1

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self.device = device
        self.logits = torch.empty(0)

    def __call__(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            self.logits = self.network(inputs)
        return self.logits


def kept_weights(run: Path, step: int) -> Path:
    """
    Return the path of the weights that were validated after a step.

    :param run: the run's folder.
    :param step: number of optimizer steps.
    :return: the path; the file exists only with `keep_weights`.
    """
    return run / 'weights' / f'{step:06d}.safetensors'


class Training(lightning.LightningModule):
    """
    Trains a network, and keeps the weights with the best validation.

    :param config: the settings.
    :param spec: specification of the model that is trained.
    """

    best_weights: dict[str, Tensor]
    _validated_weights: dict[str, Tensor]

    def __init__(self, config: TrainConfig, spec: ModelSpec) -> None:
        """Build the network."""
        super().__init__()
        self.config = config
        self.settings = config.of_result()
        self.spec = spec
        self.network = build_network(config, spec).to(memory_format=torch.channels_last)
        if not config.encoder_rate:  # before the strategy wraps it
            freeze_encoder(self.network)
        self.best = -math.inf
        self.best_step = 0
        self.best_weights = {}
        self.seconds = 0.0
        self._resumed_s = time.monotonic()
        self._steps_seen = 0
        self._is_finite: Tensor | bool = True
        self._frames: dict[str, list[FrameCounts]] = defaultdict(list)
        self._losses: list[float] = []
        self._class_weights: Tensor | None = None

    @property
    def data(self) -> Data:
        """The run's data."""
        data: Data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def progress(self) -> float:
        """The completed fraction of the run, by steps or by time, whichever is greater."""
        done = self.global_step / self.data.steps
        if self.config.minutes:
            passed_s = self.seconds + time.monotonic() - self._resumed_s
            done = max(done, passed_s / 60 / self.config.minutes)
        return done

    def on_train_start(self) -> None:
        """Start the clock, without the time for decoding; stop at once if the run is complete."""
        self._resumed_s = time.monotonic()
        stopping: Any = self.trainer.early_stopping_callback
        done = self.progress >= 1 or (stopping and stopping.wait_count >= stopping.patience)
        self.trainer.should_stop = done and bool(self.best_weights)

    def on_train_epoch_start(self) -> None:
        """Seed by the epoch, so that an epoch that was interrupted is repeated identically."""
        torch.manual_seed(hash((self.config.seed, self.current_epoch, self.global_rank)))
        if not self.config.encoder_rate:
            freeze_encoder(self.network)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """
        Compute the loss of a batch.

        :param batch: (N, h, w, 3) uint8 images, (N, h, w) uint8 truths.
        :param index: number of the batch in the epoch.
        :return: the loss.
        """
        images, truth = batch
        loss = self._loss(self.network(images), truth)
        self._record_divergence(loss)
        self.log('loss', loss)
        self.log('learning_rate', self.optimizers().param_groups[0]['lr'])  # type: ignore[union-attr]
        return loss

    def _loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        config = self.config
        if self._class_weights is None:
            weights = class_weights(self.data.class_px, config.class_balance)
            self._class_weights = weights.to(self.device)
        return segmentation_loss(
            logits, truth, config.dice_weight, self._class_weights, absent=config.dice_absent
        )

    def _record_divergence(self, loss: Tensor) -> None:
        """Stop a run that has diverged, without waiting for its next validation."""
        if self.config.precision == 'float16':
            return  # with scaling, a step that overflows is skipped, and the scale reduced
        self._is_finite = loss.detach().isfinite() & self._is_finite
        # Reading a value from the device waits for it, hence not at every step.
        due = loss.device.type == 'cpu' or self.global_step % _STEPS_UNSEEN == 0
        if due and not self._is_finite:
            raise self._diverged()

    def _diverged(self) -> ModelError:
        more = '' if self.trainer.precision == '32-true' else ', or set precision to float32'
        return ModelError(
            f'the run diverged at step {self.global_step}, where its loss is not finite any more: '
            f'lower learning_rate, which is {self.config.learning_rate:g}{more}'
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop when the steps are done, or the time is up."""
        if self.global_step == self._steps_seen:
            return  # gradients are still being accumulated
        self._steps_seen = self.global_step
        done = self.progress >= 1
        if self.config.minutes:  # the processes' clocks differ
            done = self.trainer.strategy.broadcast(done)
        self.trainer.should_stop = self.trainer.should_stop or done

    def on_validation_epoch_start(self) -> None:
        """Reset the last validation; one segmenter is used for all frames."""
        self._runtime = _Validated(self.network, self.device)
        self._segmenter = Segmenter(self.spec, self._runtime)
        self._frames.clear()
        self._losses.clear()
        # Store them now: after the epoch, the network has its own weights again.
        weights = self.network.state_dict()
        self._validated_weights = {k: v.detach().cpu().clone() for k, v in weights.items()}

    def validation_step(  # type: ignore[override]  # Lightning passes the output on unchanged
        self, frame: ValidationFrame, index: int
    ) -> NDArray[np.uint8]:
        """
        Segment a frame of a validation video as the node would, and update the metrics.

        :param frame: the frame.
        :param index: number of the frame.
        :return: (H, W) uint8 class index, as predicted.
        """
        video, image, truth = frame
        try:
            predicted = self._segmenter.segment(image).mask
        except ArithmeticError as error:
            raise self._diverged() from error
        self._frames[video].append(count_frame(truth, predicted))
        mask = torch.from_numpy(truth)[None]
        resized = fit_mask(mask, self.spec.input_size, self.spec.fit, NO_DECISION)
        logits = self._runtime.logits
        loss = self._loss(logits, resized.to(self.device))
        self._losses.append(float(loss))
        return predicted

    def on_validation_epoch_end(self) -> None:
        """Score the videos, and store the weights if they are the best."""
        frames, losses = self._gathered()
        summary = summarize(frames)
        values = {key: summary[key] for key in ('mIoU', 'mNSD', 'score')}
        values['loss'] = float(np.mean(losses))
        self.log_dict({f'validation_{key}': value for key, value in values.items()})
        select = self.config.select
        value = -values['loss'] if select == 'loss' else values[select]
        if value > self.best:
            self.best, self.best_step = value, self.global_step
            self.best_weights = self._validated_weights

    def on_train_epoch_end(self) -> None:
        """Write the weights that were validated last to the path of `kept_weights`, if wanted."""
        if not (self.config.keep_weights and self.trainer.is_global_zero):
            return
        path = kept_weights(Path(self.trainer.default_root_dir), self.global_step)
        make_folder(path.parent)
        weights = {k: v.contiguous() for k, v in self._validated_weights.items()}
        write_atomically(path, safetensors.torch.save(weights))

    def _gathered(self) -> tuple[dict[str, list[FrameCounts]], list[float]]:
        """Gather the counts of all processes."""
        if not all(map(math.isfinite, self._losses)):
            raise self._diverged()
        mine = (dict(self._frames), self._losses)
        if self.trainer.world_size == 1:
            return mine
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, mine)
        frames: dict[str, list[FrameCounts]] = defaultdict(list)
        for part, _ in parts:
            for video, counts in part.items():
                frames[video] += counts
        return frames, [loss for _, losses in parts for loss in losses]

    def configure_optimizers(self) -> Any:
        """
        Create the optimizer and its schedule.

        :return: in Lightning's format.
        """
        optimizer = build_optimizer(self.config, self.network)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def _rate(self, step: int) -> float:
        if self.config.schedule_steps:
            return rate(self.config, step, step / self.config.schedule_steps)
        return rate(self.config, step, max(self.progress, step / self.data.steps))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Add the best weights, other state of the run, and the settings.

        :param checkpoint: the checkpoint to be written.
        """
        checkpoint['settings'] = self.settings
        checkpoint['run'] = {
            'best': self.best,
            'best_step': self.best_step,
            'best_weights': self.best_weights,
            'seconds': self.seconds + time.monotonic() - self._resumed_s,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Restore what `on_save_checkpoint` added.

        :param checkpoint: the checkpoint that was read.
        """
        for key, value in checkpoint['run'].items():
            setattr(self, key, value)
        self._steps_seen = checkpoint['global_step']

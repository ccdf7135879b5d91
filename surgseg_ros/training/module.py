# SPDX-License-Identifier: Apache-2.0
"""One training run as Lightning sees it: a step, a validation, the best weights kept."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from surgseg_ros.core.model_spec import ModelSpec, read_model
from surgseg_ros.core.network import SegmentationNetwork, load_network
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize
from surgseg_ros.evaluation.regions import LeastRegions
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.losses import segmentation_loss

ValidationFrame = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]
"""Video, (H, W, 3) uint8 RGB and (H, W) uint8 truth, at the video's own size."""

Keep = Callable[[dict[str, Tensor], dict[str, Any], tuple[float, ...], int], None]
"""Takes weights, scores, least region per class, and the step."""


class _Averaged:
    """The averaged network as the Segmenter's runtime: what is validated is what will run."""

    description = 'running mean of the weights, in training'

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self.device = device

    def __call__(self, fitted: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.network(fitted)
        return logits


def _build(config: TrainConfig, spec: ModelSpec) -> SegmentationNetwork:
    """Build the network that training begins with."""
    if config.start:
        return load_network(spec, read_model(config.start)[1]).train()
    return SegmentationNetwork(
        spec, None if config.encoder_weights == 'none' else config.encoder_weights
    )


class Training(lightning.LightningModule):
    """
    Trains a network, and hands over its running mean whenever that scores best.

    :param config: the settings.
    :param spec: the model to be.
    :param keep: called with the best so far.
    """

    def __init__(self, config: TrainConfig, spec: ModelSpec, keep: Keep) -> None:
        """Build the network; see the class."""
        super().__init__()
        self.config = config
        self.spec = spec
        self.keep = keep
        self.network = _build(config, spec).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(
            self.network, multi_avg_fn=self._average, use_buffers=True
        ).eval()
        self.best = -math.inf
        self._started_s = time.monotonic()
        self._frames: dict[str, list[FrameCounts]] = defaultdict(list)
        self._regions = LeastRegions()

    def on_train_start(self) -> None:
        """Start the clock; decoding does not count."""
        self._started_s = time.monotonic()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """
        Find the loss of a batch.

        :param batch: (N, h, w, 3) uint8 pictures, (N, h, w) uint8 truths.
        :param index: its number in the epoch.
        :return: the loss.
        """
        images, truth = batch
        loss = segmentation_loss(self.network(images), truth, self.config.dice_weight)
        self.log('loss', loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Average the weights; stop when the time is up."""
        self.averaged.update_parameters(self.network)
        if self._progress(self.global_step) >= 1:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.averaged.eval()
        self._frames.clear()
        self._regions = LeastRegions()

    def validation_step(self, frame: ValidationFrame, index: int) -> None:
        """
        Segment a frame of a validation video as the node would, and count.

        :param frame: the frame.
        :param index: its number.
        """
        video, image, truth = frame
        segmenter = Segmenter(self.spec, _Averaged(self.averaged.module, self.device))
        predicted = segmenter.segment(image).mask
        self._frames[video].append(count_frame(truth, predicted, edges=False))
        self._regions.add(truth, predicted)

    def on_validation_epoch_end(self) -> None:
        """Score the videos, and keep the weights if they are the best."""
        summary = summarize(self._frames)
        self.log('mIoU', summary['mIoU'], prog_bar=True)
        if summary['mIoU'] > self.best:
            self.best = summary['mIoU']
            scores = {
                'mIoU': summary['mIoU'],
                'floor': summary['floor']['mIoU'],
                'present_class_IoU': summary['present_class_IoU'],
            }
            weights = self.averaged.module.state_dict()
            self.keep(weights, scores, self._regions.tune(), self.global_step)

    def configure_optimizers(self) -> Any:
        """
        Make AdamW and its schedule.

        :return: what Lightning wants.
        """
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {'params': matrices, 'weight_decay': self.config.weight_decay},
                {'params': others, 'weight_decay': 0.0},
            ],
            self.config.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def _progress(self, step: int) -> float:
        """Say what part of the run is done, by steps or by time, whichever is further."""
        done = step / self.config.steps
        if self.config.minutes:
            done = max(done, (time.monotonic() - self._started_s) / 60 / self.config.minutes)
        return done

    def _rate(self, step: int) -> float:
        """Learning rate as a share of the highest."""
        rise = min(1.0, (step + 1) / max(1, self.config.warm_up_steps))
        left = max(0.0, 1 - self._progress(step))
        fall = left**0.9 if self.config.schedule == 'poly' else (1 - math.cos(math.pi * left)) / 2
        return rise * fall

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, count: Any) -> None:
        """Run the mean; early on it is short, so that it forgets the random start."""
        number = int(count)
        decay = min(self.config.ema_decay, (1 + number) / (10 + number))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)

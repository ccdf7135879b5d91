# SPDX-License-Identifier: Apache-2.0
"""What training minimizes: cross-entropy, and the Dice of a whole batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from surgseg_ros.core.labels import BACKGROUND, NO_DECISION

_SMOOTHING = 2e-4
"""
Added above and below in Dice, as a share of the batch's pixels.

A class that is absent from the batch then costs more the more of it is predicted, and a small
share of it is still felt: the official metric takes a whole frame's point for one stray pixel.
"""


def segmentation_loss(logits: Tensor, truth: Tensor, dice_weight: float) -> Tensor:
    """
    Weigh cross-entropy and batch Dice.

    :param logits: (N, C, h, w).
    :param truth: (N, h, w) uint8 class index; NO_DECISION does not count.
    :param dice_weight: weight of the Dice; that of the cross-entropy is 1.
    :return: a number.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, truth.long(), ignore_index=NO_DECISION)
    if dice_weight:
        loss = loss + dice_weight * batch_dice(logits, truth)
    return loss


def batch_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """
    Find 1 - Dice of each class over the whole batch, absent ones included.

    :param logits: (N, C, h, w) float.
    :param truth: (N, h, w) uint8 class index; NO_DECISION does not count.
    :return: the mean over all classes but the background.
    """
    counted = (truth != NO_DECISION)[:, None]
    chance = logits.softmax(1) * counted  # (N, C, h, w)
    label = torch.where(counted, truth[:, None], 0).long()
    of_truth = torch.zeros_like(chance).scatter_(1, label, counted.to(chance.dtype))
    smoothing = _SMOOTHING * truth.numel()
    shared = (chance * of_truth).sum((0, 2, 3))
    total = chance.sum((0, 2, 3)) + of_truth.sum((0, 2, 3))
    dice = (2 * shared + smoothing) / (total + smoothing)
    return 1 - dice[BACKGROUND + 1 :].mean()

# SPDX-License-Identifier: Apache-2.0
"""The loss: nothing for the truth, more for every class that is wrongly there."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.networks import batch_dice, class_weights, segmentation_loss


def sure(labels):
    """Make logits that leave no doubt."""
    return 100 * F.one_hot(labels.long(), 10).permute(0, 3, 1, 2).float()


@pytest.fixture
def truth():
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[0, :4] = 3
    labels[1, 5:9] = 7
    return labels


def test_the_truth_costs_nothing(truth):
    assert segmentation_loss(sure(truth), truth, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_an_absent_class_costs_the_more_the_more_of_it_is_reported(truth):
    costs = []
    for pixels in (0, 1, 4):
        wrong = truth.clone()
        wrong[0, 10, :pixels] = 9
        costs.append(batch_dice(sure(wrong), truth).item())
    assert costs[0] < costs[1] < costs[2]


def test_padding_does_not_count(truth):
    predicted = truth.clone()
    predicted[:, 12:] = 2
    truth[:, 12:] = NO_DECISION
    assert segmentation_loss(sure(predicted), truth, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_a_missed_class_costs_its_share_of_dice(truth):
    wrong = torch.where(truth == 7, 0, truth)
    assert batch_dice(sure(wrong), truth).item() == pytest.approx(1 / 9, abs=1e-3)


def test_without_the_absent_classes_dice_is_of_those_that_are_shown(truth):
    wrong = torch.where(truth == 7, 9, truth)
    assert batch_dice(sure(wrong), truth, absent=False).item() == pytest.approx(1 / 2, abs=1e-3)
    empty = torch.zeros_like(truth)
    assert batch_dice(sure(wrong), empty, absent=False).item() == 0


def test_a_batch_without_a_class_pushes_it_down_only_if_absent_classes_count(truth):
    """Below its chance at the start, and where nothing else of the truth is."""
    pushes = {}
    for absent in (True, False):
        logits = torch.zeros(2, 10, 16, 16)
        logits[:, 4] = -3
        logits.requires_grad_()
        batch_dice(logits, truth, absent=absent).backward()
        pushes[absent] = logits.grad[1, 4, 10:].mean().item()
    assert pushes[True] > 3 * abs(pushes[False])


def test_class_weights_count_classes_by_the_root_of_their_pixels():
    pixels = np.array([400, 100, 25, 0, 1, 4, 16, 64, 400, 100])
    weights = class_weights(pixels, 0.5)
    assert weights.tolist() == pytest.approx([1, 2, 4, 1, 20, 10, 5, 2.5, 1, 2])
    assert class_weights(pixels, 0.0).tolist() == [1.0] * 10


def test_a_rare_class_costs_more_by_its_weight(truth):
    missed = torch.where(truth == 7, 0, truth)
    weights = torch.ones(10)
    weights[7] = 10
    cost = segmentation_loss(sure(missed), truth, 0.0, weights).item()
    assert cost > 2 * segmentation_loss(sure(missed), truth, 0.0).item()

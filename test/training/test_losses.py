# SPDX-License-Identifier: Apache-2.0
"""The loss: zero for the truth, and higher for each wrongly predicted class."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.networks import batch_dice, class_weights, segmentation_loss


def sure(labels):
    """Make logits of certain predictions."""
    return 100 * F.one_hot(labels.long(), 10).permute(0, 3, 1, 2).float()


@pytest.fixture
def truth():
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[0, :4] = 3
    labels[1, 5:9] = 7
    return labels


def test_loss_of_the_truth_is_zero(truth):
    assert segmentation_loss(sure(truth), truth, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_loss_of_an_absent_class_grows_with_its_predicted_area(truth):
    costs = []
    for pixels in (0, 1, 4):
        wrong = truth.clone()
        wrong[0, 10, :pixels] = 9
        costs.append(batch_dice(sure(wrong), truth).item())
    assert costs[0] < costs[1] < costs[2]


def test_padding_is_ignored(truth):
    predicted = truth.clone()
    predicted[:, 12:] = 2
    truth[:, 12:] = NO_DECISION
    assert segmentation_loss(sure(predicted), truth, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_a_missed_class_costs_its_fraction_of_dice(truth):
    wrong = torch.where(truth == 7, 0, truth)
    assert batch_dice(sure(wrong), truth).item() == pytest.approx(1 / 9, abs=1e-3)


def test_dice_without_absent_classes_is_over_the_present_ones(truth):
    wrong = torch.where(truth == 7, 9, truth)
    assert batch_dice(sure(wrong), truth, absent=False).item() == pytest.approx(1 / 2, abs=1e-3)
    empty = torch.zeros_like(truth)
    assert batch_dice(sure(wrong), empty, absent=False).item() == 0


def test_a_batch_without_a_class_lowers_its_logit_only_with_absent_classes(truth):
    """Below its initial probability, in pixels without another class."""
    pushes = {}
    for absent in (True, False):
        logits = torch.zeros(2, 10, 16, 16)
        logits[:, 4] = -3
        logits.requires_grad_()
        batch_dice(logits, truth, absent=absent).backward()
        pushes[absent] = logits.grad[1, 4, 10:].mean().item()
    assert pushes[True] > 3 * abs(pushes[False])


def test_class_weights_use_the_square_root_of_pixel_counts():
    pixels = np.array([400, 100, 25, 0, 1, 4, 16, 64, 400, 100])
    weights = class_weights(pixels, 0.5)
    assert weights.tolist() == pytest.approx([1, 2, 4, 1, 20, 10, 5, 2.5, 1, 2])
    assert class_weights(pixels, 0.0).tolist() == [1.0] * 10


def test_loss_of_a_rare_class_is_scaled_by_its_weight(truth):
    missed = torch.where(truth == 7, 0, truth)
    weights = torch.ones(10)
    weights[7] = 10
    cost = segmentation_loss(sure(missed), truth, 0.0, weights).item()
    assert cost > 2 * segmentation_loss(sure(missed), truth, 0.0).item()

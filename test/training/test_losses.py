# SPDX-License-Identifier: Apache-2.0
"""The loss: nothing for the truth, more for every class that is wrongly there."""

import pytest
import torch
from torch.nn import functional as F

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.networks import batch_dice, segmentation_loss


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

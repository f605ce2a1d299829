"""Focal loss against its definition."""

import math

import pytest
import torch

from maskrcnn_benchmark.layers import SigmoidFocalLoss
from maskrcnn_benchmark.layers.sigmoid_focal_loss import sigmoid_focal_loss


def focal_loss_of(logit: float, is_target: bool, gamma: float, alpha: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    if is_target:
        return -alpha * (1 - probability) ** gamma * math.log(probability)
    return -(1 - alpha) * probability**gamma * math.log(1 - probability)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5)])
def test_focal_loss_is_its_definition(gamma, alpha):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([3, 0, -1, 1])
    expected = [
        [
            focal_loss_of(logits[row, column].item(), target == column + 1, gamma, alpha) if target >= 0 else 0.0
            for column in range(3)
        ]
        for row, target in enumerate(targets.tolist())
    ]
    losses = sigmoid_focal_loss(logits, targets, gamma, alpha)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(SigmoidFocalLoss(gamma, alpha)(logits, targets.int()), losses.sum())


def test_focal_loss_gradient_and_repr():
    logits = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, -1, 0])
    assert torch.autograd.gradcheck(lambda values: sigmoid_focal_loss(values, targets, 2.0, 0.25), (logits,))
    layer = SigmoidFocalLoss(2.0, 0.25)
    layer(logits, targets).backward()
    assert (logits.grad[1] == 0).all() and (logits.grad[[0, 2]] != 0).all()
    assert repr(layer) == "SigmoidFocalLoss(gamma=2.0, alpha=0.25)"
    assert layer(logits[:0], targets[:0]) == 0


def test_focal_loss_with_classes_in_another_dimension():
    logits = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64)
    targets = torch.randint(-1, 4, (2, 5, 4, 6))
    found = sigmoid_focal_loss(logits, targets, 2.0, 0.25, dim=2)
    rows = sigmoid_focal_loss(logits.movedim(2, -1).reshape(-1, 3), targets.flatten(), 2.0, 0.25)
    torch.testing.assert_close(found, rows.view(2, 5, 4, 6, 3).movedim(-1, 2))

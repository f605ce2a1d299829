"""Focal loss of independent classes, on torchvision's function."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float, dim: int = 1) -> Tensor:
    """Cross-entropy per class whose easy examples count less.

    Args:
        logits: (R, J), one column per class without the background; or any shape with the J classes in dimension `dim`.
        targets: (R,) integers: 1 to J the class, 0 background, -1 ignored; in general the shape of the logits without
            dimension `dim`.
        gamma: exponent of the factor that lowers the loss of easy examples; 0 gives cross-entropy.
        alpha: weight of the target's class; all others have 1 - alpha.
        dim: dimension of the classes, from 0.
    Returns: the shape of the logits; entries that are ignored are 0.
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """
    from torchvision.ops import sigmoid_focal_loss as focal_loss  # the rest of `layers` works without torchvision

    classes = torch.arange(1, logits.shape[dim] + 1, device=logits.device)
    targets = targets.unsqueeze(dim)
    one_hot = (targets == classes.view(-1, *[1] * (logits.dim() - dim - 1))).to(logits.dtype)
    losses: Tensor = focal_loss(logits, one_hot, alpha=alpha, gamma=gamma)
    return losses.masked_fill(targets < 0, 0)


class SigmoidFocalLoss(nn.Module):
    """The sum of `sigmoid_focal_loss`."""

    def __init__(self, gamma: float, alpha: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return sigmoid_focal_loss(logits, targets, self.gamma, self.alpha).sum()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"

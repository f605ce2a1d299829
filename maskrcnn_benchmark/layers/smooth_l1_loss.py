"""The box regression loss."""

import torch
from torch import Tensor


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float = 1.0 / 9, size_average: bool = True) -> Tensor:
    """0.5 * d**2 / beta where d = |input - target| < beta, else d - 0.5 * beta; continuous and smooth at beta.

    Args:
        input, target: tensors of the same shape.
        beta: difference at which the parabola ends; 0 gives the absolute difference.
        size_average: return the mean over all elements, else the sum.
    Returns: a scalar. For empty input a zero that stays attached to the graph.
    Source: Girshick 2015, Fast R-CNN, equation 3, with the transition at beta instead of 1.
    """
    if input.numel() == 0:
        return input.sum() * 0.0
    reduction = "mean" if size_average else "sum"
    return torch.nn.functional.smooth_l1_loss(input, target, beta=beta, reduction=reduction)

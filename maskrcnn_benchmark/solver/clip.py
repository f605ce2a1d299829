"""Gradient clipping, from SOLVER.CLIP_GRADIENTS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from maskrcnn_benchmark.utils.problems import check_choice, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

Clipper = Callable[[Iterable[nn.Parameter]], "Tensor | None"]


def make_gradient_clipper(cfg: CfgNode) -> Clipper | None:
    """Return a function that clips the gradients of parameters in place, or None if clipping is off.

    With TYPE "norm", the gradient over all parameters is scaled down to length VALUE if it is longer, in the norm
    NORM_TYPE; the function returns its length before clipping, a scalar tensor. With TYPE "value", each element is
    clamped to [-VALUE, VALUE], and the function returns None. If a GradScaler is used, unscale the gradients first.

    Raises: ConfigError for an unknown TYPE, or a VALUE that is not positive.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    check_choice("SOLVER.CLIP_GRADIENTS.TYPE", node.TYPE, ("norm", "value"))
    if not node.ENABLED:
        return None
    if node.VALUE <= 0:
        config_problem(f"SOLVER.CLIP_GRADIENTS.VALUE is {node.VALUE}; expected above 0, else no gradient is left.")
    if node.TYPE == "norm":
        return partial(clip_grad_norm_, max_norm=node.VALUE, norm_type=node.NORM_TYPE)
    return partial(clip_grad_value_, clip_value=node.VALUE)

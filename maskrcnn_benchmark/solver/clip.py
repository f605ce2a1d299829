"""Limits on gradients, from SOLVER.CLIP_GRADIENTS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

Clipper = Callable[[Iterable[nn.Parameter]], "Tensor | None"]


def make_gradient_clipper(cfg: Any) -> Clipper | None:
    """A function that limits the gradients of parameters in place, or None where clipping is off.

    TYPE norm: all gradients together are shortened to VALUE where they are longer, in the NORM_TYPE norm; the function
    returns their length before that, a scalar tensor. TYPE value: each entry is limited to [-VALUE, VALUE]; it returns
    None.
    Gradients must be unscaled already where a GradScaler is in use.

    Raises: ValueError for an unknown TYPE.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED:
        return None
    if node.TYPE == "norm":
        return partial(clip_grad_norm_, max_norm=node.VALUE, norm_type=node.NORM_TYPE)
    if node.TYPE == "value":
        return partial(clip_grad_value_, clip_value=node.VALUE)
    raise ValueError(f"SOLVER.CLIP_GRADIENTS.TYPE is {node.TYPE!r}; expected norm or value.")

"""The optimizers that SOLVER.OPTIMIZER can name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .registry import OPTIMIZERS

if TYPE_CHECKING:
    from yacs.config import CfgNode

ParameterGroups = Sequence[dict[str, Any]]  # "params": [(name, parameter), ...], "lr", "weight_decay", "kind"


@OPTIMIZERS.register("SGD")
def build_sgd(cfg: CfgNode, groups: ParameterGroups) -> torch.optim.Optimizer:
    """SGD with SOLVER.MOMENTUM."""
    return torch.optim.SGD(groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, fused=can_fuse(groups))


@OPTIMIZERS.register("AdamW")
def build_adamw(cfg: CfgNode, groups: ParameterGroups) -> torch.optim.Optimizer:
    """AdamW with PyTorch's defaults for its betas."""
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=can_fuse(groups))


def can_fuse(groups: ParameterGroups) -> bool | None:
    """Return True if all parameters are on GPUs, where one launch updates all of them; None is PyTorch's default."""
    return all(parameter.is_cuda for group in groups for _, parameter in group["params"]) or None

"""Optimiser and schedule from the SOLVER section."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from .lr_scheduler import WarmupCosineLR, WarmupLR, WarmupMultiStepLR

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)  # _NormBase: BatchNorm*, SyncBatchNorm, InstanceNorm*


def make_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER over the parameters that learn.

    Parameters with equal settings share a group, at most three in all: weights first, then biases (BIAS_LR_FACTOR,
    WEIGHT_DECAY_BIAS), then scales of norm layers where WEIGHT_DECAY_NORM sets them apart. Groups carry the parameters'
    names, so that a checkpoint's state finds its parameter even where groups have changed.

    Raises: ValueError when no parameter learns, or the optimiser's name is unknown.
    """
    solver = cfg.SOLVER
    norm_scales = _norm_scales(model) if solver.WEIGHT_DECAY_NORM >= 0 else set()
    members: dict[str, list[tuple[str, nn.Parameter]]] = {"weights": [], "biases": [], "norms": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "biases" if "bias" in name.rsplit(".", 1)[-1] else "norms" if name in norm_scales else "weights"
        members[kind].append((name, parameter))
    settings = {
        "weights": {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY},
        "biases": {"lr": solver.BASE_LR * solver.BIAS_LR_FACTOR, "weight_decay": solver.WEIGHT_DECAY_BIAS},
        "norms": {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY_NORM},
    }
    groups = [{"params": members[kind], "kind": kind, **settings[kind]} for kind in members if members[kind]]
    if not groups:
        raise ValueError("no parameter of the model learns: every one of them is frozen (see the *FREEZE* keys).")

    parameters = [parameter for _, parameter in itertools.chain.from_iterable(members.values())]
    on_gpu = all(parameter.is_cuda for parameter in parameters)
    options: dict[str, Any] = {"lr": solver.BASE_LR, "fused": True if on_gpu else None}  # one launch for all weights
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(groups, momentum=solver.MOMENTUM, **options)
    if solver.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, **options)
    raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; expected SGD or AdamW.")


def _norm_scales(model: nn.Module) -> set[str]:
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS) and getattr(module, "weight", None) is not None
    }


def make_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer) -> WarmupLR:
    """SOLVER.LR_SCHEDULER over the groups of `optimizer`. Raises: ValueError for an unknown name."""
    solver = cfg.SOLVER
    warmup = {
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
    }
    if solver.LR_SCHEDULER == "WarmupMultiStepLR":
        return WarmupMultiStepLR(optimizer, solver.STEPS, solver.GAMMA, **warmup)
    if solver.LR_SCHEDULER == "WarmupCosineLR":
        return WarmupCosineLR(optimizer, solver.MAX_ITER, **warmup)
    raise ValueError(f"SOLVER.LR_SCHEDULER is {solver.LR_SCHEDULER!r}; expected WarmupMultiStepLR or WarmupCosineLR.")

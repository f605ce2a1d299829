"""Build the optimizer and the learning-rate schedule from the SOLVER section."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from maskrcnn_benchmark.utils.problems import (
    check_choice,
    collect_config_problems,
    config_problem,
    skip_after_problem,
)

from .clip import make_gradient_clipper
from .ema import make_ema
from .registry import LR_SCHEDULERS, OPTIMIZERS

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)  # _NormBase: BatchNorm*, SyncBatchNorm, InstanceNorm*


def make_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SOLVER.OPTIMIZER for the parameters that learn.

    Parameters with equal settings share a group, so there are at most three: weights, biases (BIAS_LR_FACTOR,
    WEIGHT_DECAY_BIAS), and scales of norm layers if WEIGHT_DECAY_NORM is set. Groups hold the names of the parameters,
    so that the state in a checkpoint finds its parameter even if the groups have changed.

    Raises: ConfigError for an unknown name; ValueError if no parameter learns.
    """
    check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, OPTIMIZERS)
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
    optimizer: torch.optim.Optimizer = OPTIMIZERS[solver.OPTIMIZER](cfg, groups)
    return optimizer


def _norm_scales(model: nn.Module) -> set[str]:
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS) and getattr(module, "weight", None) is not None
    }


def make_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build SOLVER.LR_SCHEDULER for the groups of `optimizer`. Raises: ConfigError for an unknown name."""
    check_choice("SOLVER.LR_SCHEDULER", cfg.SOLVER.LR_SCHEDULER, LR_SCHEDULERS)
    scheduler: LRScheduler = LR_SCHEDULERS[cfg.SOLVER.LR_SCHEDULER](cfg, optimizer)
    return scheduler


def find_solver_problems(cfg: CfgNode) -> list[str]:
    """Build the optimiser and schedule of the SOLVER section for one parameter. Return its problems, one per line.

    Errors other than wrong values are ignored here; the real build raises them with their traceback.
    """
    model = nn.ParameterList([nn.Parameter(torch.zeros(1))])  # the settings do not depend on the model
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with collect_config_problems() as problems:
        try:
            with skip_after_problem():
                make_ema(cfg, model)
            with skip_after_problem():
                make_gradient_clipper(cfg)
            with skip_after_problem():
                optimizer = make_optimizer(cfg, model)
            with skip_after_problem():
                make_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            config_problem(str(error))
        except Exception:
            logger.debug("the SOLVER section cannot be checked", exc_info=True)
    return problems

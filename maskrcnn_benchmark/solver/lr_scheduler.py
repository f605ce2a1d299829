"""Learning-rate schedules: a warm-up, then steps or half a cosine.

The rate is a function of the iteration and the settings only, so resuming is exact: the state is one number.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from maskrcnn_benchmark.utils.problems import check_choice, config_problem

from .registry import LR_SCHEDULERS

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

WARMUP_METHODS = ("linear", "constant")


class WarmupLR(LRScheduler):
    """Base class: the rate is the base rate times a warm-up factor times `factor(iteration)`.

    Call `step()` once per optimizer step. A schedule of your own overrides `factor`, and `settings` if it has any.

    Args:
        warmup_factor: warm-up factor at iteration 0.
        warmup_iters: the warm-up factor is 1 from this iteration on.
        warmup_method: "linear" interpolates between the two, "constant" keeps `warmup_factor` until then.
        last_epoch: iterations done; -1 for a new run.
    Raises: ValueError for an unknown method.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if warmup_method not in WARMUP_METHODS:
            raise ValueError(f"the warm-up method is {warmup_method!r}; expected one of {', '.join(WARMUP_METHODS)}.")
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def factor(self, iteration: int) -> float:
        """Return the factor on the base learning rate, without the warm-up."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return what the rates depend on, besides the iteration; saved in checkpoints and compared on loading."""
        return {
            "warmup_factor": self.warmup_factor,
            "warmup_iters": self.warmup_iters,
            "warmup_method": self.warmup_method,
        }

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group at iteration `last_epoch`."""
        factor = self._warmup(self.last_epoch) * self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def _warmup(self, iteration: int) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        progress = iteration / self.warmup_iters
        return self.warmup_factor * (1 - progress) + progress

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "settings": self.settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the iteration of the state, with the settings of this schedule.

        Logs a warning if the settings in the state differ.
        """
        # In states of maskrcnn-benchmark, the settings are beside the iteration.
        then = {**state_dict, **state_dict.get("settings", {})}
        now = self.settings()
        changed = [
            f"{name} {_plain(then[name])} -> {_plain(now[name])}"
            for name in now
            if name in then and _plain(then[name]) != _plain(now[name])
        ]
        if changed:
            logger.warning(
                "the schedule differs from the checkpoint's, and this config's is used: %s", "; ".join(changed)
            )
        self.last_epoch = state_dict["last_epoch"]
        rates = self.get_lr()
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        self._last_lr = rates


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def warmup_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of `WarmupLR` from the SOLVER section. Raises: ConfigError."""
    solver = cfg.SOLVER
    check_choice("SOLVER.WARMUP_METHOD", solver.WARMUP_METHOD, WARMUP_METHODS)
    return {
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
    }


class WarmupMultiStepLR(WarmupLR):
    """Multiplies the rate by `gamma` at each iteration of `milestones`.

    Raises: ValueError if the milestones are not in rising order.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"the milestones are {tuple(milestones)}; expected rising iterations.")
        self.milestones = tuple(milestones)
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> WarmupMultiStepLR:
        steps = cfg.SOLVER.STEPS
        if list(steps) != sorted(steps):
            config_problem(f"SOLVER.STEPS is {steps}; expected rising iterations.")
        return cls(optimizer, steps, cfg.SOLVER.GAMMA, **warmup_settings(cfg))

    def factor(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)

    def settings(self) -> dict[str, Any]:
        return {"milestones": self.milestones, "gamma": self.gamma, **super().settings()}


class WarmupCosineLR(WarmupLR):
    """Half a cosine from the base rate at iteration 0 to zero at `max_iter`.

    Source: Loshchilov and Hutter 2017, SGDR, without restarts.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iter: int,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iter = max_iter
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> WarmupCosineLR:
        return cls(optimizer, cfg.SOLVER.MAX_ITER, **warmup_settings(cfg))

    def factor(self, iteration: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(iteration / self.max_iter, 1.0)))

    def settings(self) -> dict[str, Any]:
        return {"max_iter": self.max_iter, **super().settings()}


LR_SCHEDULERS.register("WarmupMultiStepLR", WarmupMultiStepLR.from_cfg)
LR_SCHEDULERS.register("WarmupCosineLR", WarmupCosineLR.from_cfg)

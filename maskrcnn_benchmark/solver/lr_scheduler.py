"""Learning rates as functions of the iteration: a warm-up, then steps or half a cosine.

A rate depends on nothing but the iteration and the settings, so resuming is exact: the state is one number.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)


class WarmupLR(LRScheduler):
    """Base: warm-up factor times `factor(iteration)`; one `step()` per optimiser step.

    Args:
        warmup_factor: at iteration 0.
        warmup_iters: from this iteration on the factor is 1.
        warmup_method: "linear" rises on a straight line, "constant" holds `warmup_factor` until then.
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
        if warmup_method not in ("constant", "linear"):
            raise ValueError(f"the warm-up method is {warmup_method!r}; expected constant or linear.")
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def factor(self, iteration: int) -> float:
        """Factor on the base learning rate, the warm-up aside."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the rates depend on, besides the iteration and the optimiser's own."""
        return {
            "warmup_factor": self.warmup_factor,
            "warmup_iters": self.warmup_iters,
            "warmup_method": self.warmup_method,
        }

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each parameter group at iteration `last_epoch`."""
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
        """Go on from the iteration of the state, with this schedule's own settings.

        Settings of the run that wrote the state do not win over the config; where they differ, that is said.
        """
        # maskrcnn-benchmark's states hold the settings side by side with the iteration
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


class WarmupMultiStepLR(WarmupLR):
    """Multiply the rate by `gamma` at each of the iterations `milestones`, which rise.

    Raises: ValueError for milestones that do not rise.
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

    def factor(self, iteration: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(iteration / self.max_iter, 1.0)))

    def settings(self) -> dict[str, Any]:
        return {"max_iter": self.max_iter, **super().settings()}

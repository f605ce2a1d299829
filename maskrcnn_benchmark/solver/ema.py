"""A running mean of the weights, which often scores higher than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode


class ModelEMA:
    """Exponential moving average of a model's parameters. Buffers are copied, not averaged.

    At update t the decay is min(decay, (1 + t) / (10 + t)), as in TensorFlow, so that the initial weights are soon
    forgotten.

    Args:
        model: its weights are the start of the mean; not wrapped in DistributedDataParallel.
        decay: weight of the old value in the new one, in [0, 1).
    Raises: ValueError for a decay outside [0, 1).
    Attributes:
        decay: as given.
        updates: number of updates so far.
        weights: the state dict of the mean.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay is {decay}; expected 0 <= decay < 1 (SOLVER.EMA_DECAY).")
        self.decay = decay
        self.updates = 0
        self._averaged = [name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad]
        self._averaged_set = frozenset(self._averaged)
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the mean with the weights after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        if self._averaged:
            means = [self.weights[name] for name in self._averaged]
            torch._foreach_lerp_(means, [current[name] for name in self._averaged], 1.0 - decay)
        rest = [name for name in current if name not in self._averaged_set]
        if rest:
            torch._foreach_copy_([self.weights[name] for name in rest], [current[name] for name in rest])

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the mean weights inside the block, and its own weights back on exit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Raises: KeyError if a weight of the model is missing."""
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
        self.updates = int(state["updates"])


def make_ema(cfg: CfgNode, model: nn.Module) -> ModelEMA | None:
    """Return the running mean that SOLVER.EMA_DECAY asks for; None for 0. Raises: ConfigError."""
    decay = cfg.SOLVER.EMA_DECAY
    if not 0.0 <= decay < 1.0:
        config_problem(f"SOLVER.EMA_DECAY is {decay}; expected 0 (off), or less than 1, such as 0.999.")
    return ModelEMA(model, decay) if decay > 0 else None

"""A running mean of the weights, which often scores better than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ModelEMA:
    """Exponential moving average of a model's parameters, with the latest of its buffers.

    The first updates weigh more than `decay` says (Adam's and TensorFlow's remedy for the start): at update t the old
    value keeps min(decay, (1 + t) / (10 + t)).

    Args:
        model: where the mean starts; not a DDP wrapper but what is inside.
        decay: share of the old value in the new one, 0 to 1.
    Raises: ValueError for a decay outside [0, 1).
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
        """Take in the weights after an optimiser step."""
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
        """Inside, the model has the mean weights; afterwards its own again."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: KeyError when the state lacks a weight of the model."""
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
        self.updates = int(state["updates"])

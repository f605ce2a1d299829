"""Restore the state of an optimizer parameter by parameter, so that parameter groups may differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], model: nn.Module) -> None:
    """Load `state` into `optimizer`, which was made from named parameters.

    Momenta are assigned to parameters by name, so the parameter groups may differ. Files of
    maskrcnn-benchmark have no names and one group per parameter; they are read in the order of the model's parameters.
    `optimizer` keeps its settings, such as weight decay, so a changed config takes effect; differences are logged.

    Raises: ValueError if neither names nor order identify the parameters.
    """
    names_in_state = _names(state, model)
    if names_in_state is None or not all("param_names" in group for group in optimizer.param_groups):
        optimizer.load_state_dict(dict(state))  # in order; PyTorch checks the sizes of the groups
        return

    # states have the parameter's index, counted over all groups
    by_name = {names_in_state[index]: values for index, values in state["state"].items() if index in names_in_state}
    own = optimizer.state_dict()
    own_names = [name for group in own["param_groups"] for name in group["param_names"]]
    lost = [name for name in own_names if name not in by_name]
    if lost and by_name:
        logger.warning(
            "%d parameters have no optimizer state in the checkpoint and start without one: %s", len(lost), _some(lost)
        )
    _log_changed_settings(own["param_groups"], state["param_groups"])
    own["state"] = {index: by_name[name] for index, name in enumerate(own_names) if name in by_name}
    optimizer.load_state_dict(own)


def _names(state: Mapping[str, Any], model: nn.Module) -> dict[int, str] | None:
    """{index in a saved state: name of the parameter}; None if neither names nor order identify them."""
    groups = state["param_groups"]
    if all("param_names" in group for group in groups):
        pairs = [pair for group in groups for pair in zip(group["params"], group["param_names"], strict=True)]
        return dict(pairs)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if len(groups) == len(trained) and all(len(group["params"]) == 1 for group in groups):
        return {group["params"][0]: name for group, name in zip(groups, trained, strict=True)}
    return None


def _log_changed_settings(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> None:
    """Compare groups of the same kind, except for learning rates, which the schedule sets."""
    then_by_kind = {group.get("kind"): group for group in then}
    changed = []
    for group in now:
        for key, value in then_by_kind.get(group.get("kind"), {}).items():
            if key in ("params", "param_names", "lr", "initial_lr", "kind", "foreach", "fused"):
                continue
            if key in group and group[key] != value:
                changed.append(f"{key} of the {group.get('kind')} {value} -> {group[key]}")
    if changed:
        logger.warning(
            "optimizer settings differ from those in the checkpoint; the config's are used: %s", _some(changed)
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

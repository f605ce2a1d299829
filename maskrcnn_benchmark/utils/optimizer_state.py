"""An optimiser's state into another optimiser of the same model, parameter by parameter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], model: nn.Module) -> None:
    """Load `state` into `optimizer`, whose groups carry names (`torch.optim.Optimizer` of named parameters).

    Momenta follow their parameter's name, so groups may have been cut differently; files of maskrcnn-benchmark, which
    has a group per parameter and no names, are read by the order of the model's parameters. Learning rate, decay and
    the like are this optimiser's: a setting changed in the config holds, and differences are logged.

    Raises: ValueError when neither names nor order say which parameter a state belongs to.
    """
    names_in_state = _names(state, model)
    if names_in_state is None or not all("param_names" in group for group in optimizer.param_groups):
        optimizer.load_state_dict(dict(state))  # by position; PyTorch compares the sizes of the groups
        return

    by_name = {
        names_in_state[index]: values for index, values in state["state"].items() if index in names_in_state
    }  # an index is a parameter's place in all groups, one behind the other
    own = optimizer.state_dict()
    own_names = [name for group in own["param_groups"] for name in group["param_names"]]
    lost = [name for name in own_names if name not in by_name]
    if lost and by_name:
        logger.warning(
            "%d parameters have no optimiser state in the checkpoint and start afresh: %s", len(lost), _some(lost)
        )
    _log_changed_settings(own["param_groups"], state["param_groups"])
    own["state"] = {index: by_name[name] for index, name in enumerate(own_names) if name in by_name}
    optimizer.load_state_dict(own)


def _names(state: Mapping[str, Any], model: nn.Module) -> dict[int, str] | None:
    """Place in the groups of a saved state -> name of the parameter."""
    groups = state["param_groups"]
    if all("param_names" in group for group in groups):
        pairs = [pair for group in groups for pair in zip(group["params"], group["param_names"], strict=True)]
        return dict(pairs)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if len(groups) == len(trained) and all(len(group["params"]) == 1 for group in groups):
        return {group["params"][0]: name for group, name in zip(groups, trained, strict=True)}
    return None


def _log_changed_settings(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> None:
    """Compares groups of one kind; learning rates follow the schedule and are its business."""
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
            "settings of the optimiser differ from the checkpoint's, and this config's are used: %s", _some(changed)
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

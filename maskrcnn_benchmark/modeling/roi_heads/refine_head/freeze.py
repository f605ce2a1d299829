"""Train a refine head on top of a frozen detector."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

REFINE_PREFIX = "roi_heads.refine"


def freeze_detector(model: nn.Module, trained: str = REFINE_PREFIX) -> None:
    """Freeze every parameter outside the module named `trained`.

    Batch norms outside it still update their running statistics: call `hold_frozen_norms` after each `model.train()`.

    Raises: ValueError if the model has no such module.
    """
    names = {name for name, _ in model.named_modules()}
    if trained not in names:
        raise ValueError(f"the model has no module {trained!r} to train; set MODEL.REFINE_ON to True")
    for name, parameter in model.named_parameters():
        if not name.startswith(trained + "."):
            parameter.requires_grad_(False)


def hold_frozen_norms(model: nn.Module, trained: str = REFINE_PREFIX) -> None:
    """Put every batch norm outside the module named `trained` into evaluation mode, so that its statistics stay."""
    for module in _frozen_batch_norms(model, trained):
        module.eval()


def _frozen_batch_norms(model: nn.Module, trained: str) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not f"{name}.".startswith(f"{trained}."):
            yield module

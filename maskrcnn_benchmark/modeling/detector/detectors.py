"""Build the detector that a config describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import generalized_rcnn  # noqa: F401  (registers itself)
from maskrcnn_benchmark.utils.problems import ConfigError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_detection_model(cfg: CfgNode) -> nn.Module:
    """Build the detector that `MODEL.META_ARCHITECTURE` names, on the CPU, with initial weights.

    With `MODEL.CHANNELS_LAST` the weights of convolutions, and so their outputs, are in the channels-last format.

    Raises: ConfigError for an unknown name, and what the detector's constructor raises.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in registry.META_ARCHITECTURES:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {name!r}; registered: {', '.join(sorted(registry.META_ARCHITECTURES))}. "
            "A detector of your own registers itself in a module that IMPORTS names."
        )
    model: nn.Module = registry.META_ARCHITECTURES[name](cfg)
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model

"""The detector that a configuration describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import generalized_rcnn  # noqa: F401  (registers itself)

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_detection_model(cfg: CfgNode) -> nn.Module:
    """What `MODEL.META_ARCHITECTURE` names, on the CPU, with start values and no weights loaded.

    With `MODEL.CHANNELS_LAST` its convolutions' weights lie channels last, and so do the maps that they give.
    """
    model = registry.META_ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE](cfg)
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model

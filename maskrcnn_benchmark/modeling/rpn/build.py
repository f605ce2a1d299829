"""Build the part of the detector that works on anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling.rpn.retinanet.retinanet import RetinaNetModule
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_rpn(
    cfg: CfgNode, in_channels: int, *, learns: bool = True, backbone_strides: Sequence[int] | None = None
) -> RPNModule | RetinaNetModule:
    """RetinaNet with MODEL.RETINANET_ON, else the RPN; for the arguments see `RPNModule.from_cfg`."""
    if cfg.MODEL.RETINANET_ON:
        return RetinaNetModule.from_cfg(cfg, in_channels, backbone_strides=backbone_strides)
    return RPNModule.from_cfg(cfg, in_channels, learns=learns, backbone_strides=backbone_strides)

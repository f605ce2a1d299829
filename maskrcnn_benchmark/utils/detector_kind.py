"""What kind of detector a config describes, where several keys decide it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yacs.config import CfgNode


def has_roi_heads(cfg: CfgNode) -> bool:
    """Has the detector a second stage? RetinaNet has none, whatever MODEL.RPN_ONLY is."""
    return not (cfg.MODEL.RPN_ONLY or cfg.MODEL.RETINANET_ON)


def finds_only_proposals(cfg: CfgNode) -> bool:
    """Are the results proposals without a class? MODEL.RPN_ONLY is also set for RetinaNet, which finds detections."""
    return bool(cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON)


def num_classes(cfg: CfgNode) -> tuple[str, int]:
    """The config key with the number of classes, and this number; it includes the background."""
    section = "RETINANET" if cfg.MODEL.RETINANET_ON else "ROI_BOX_HEAD"
    return f"MODEL.{section}.NUM_CLASSES", cfg.MODEL[section].NUM_CLASSES

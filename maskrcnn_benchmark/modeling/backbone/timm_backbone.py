"""A model of timm as the body of a feature pyramid: MODEL.BACKBONE.CONV_BODY "timm-FPN", MODEL.TIMM."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from yacs.config import CfgNode

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone.backbone import Backbone
from maskrcnn_benchmark.modeling.backbone.fpn import FPN
from maskrcnn_benchmark.utils.problems import ConfigError


@registry.BACKBONES.register("timm-FPN")
def build_timm_fpn_backbone(cfg: CfgNode) -> Backbone:
    """The maps of a timm model, finest first, to levels of one width, and one coarser level."""
    try:
        timm: Any = import_module("timm")  # an extra: not installed everywhere, so not type-checked
    except ImportError as error:
        raise ConfigError("MODEL.BACKBONE.CONV_BODY timm-FPN needs timm; install it by `pip install timm`.") from error
    node = cfg.MODEL.TIMM
    if not timm.is_model(node.NAME):
        raise ConfigError(f"MODEL.TIMM.NAME is {node.NAME!r}, which timm does not have; timm.list_models() lists all.")
    download = node.PRETRAINED and not torch.empty(0).is_meta  # a check of the config needs no weights
    body: Any = timm.create_model(node.NAME, pretrained=download, features_only=True, out_indices=node.OUT_INDICES)
    channels, strides = body.feature_info.channels(), body.feature_info.reduction()
    if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:], strict=False)):
        raise ConfigError(f"MODEL.TIMM.NAME {node.NAME} has maps of strides {strides}; a pyramid needs 4, 8, 16, ...")
    if getattr(body, "output_fmt", "NCHW") != "NCHW":
        raise ConfigError(f"MODEL.TIMM.NAME {node.NAME} has maps (N, H, W, C); choose a model with (N, C, H, W).")
    known = dict(body.named_modules())
    if unknown := [name for name in node.FROZEN if name not in known]:
        parts = ", ".join(name for name, _ in body.named_children())
        raise ConfigError(f"MODEL.TIMM.FROZEN names {', '.join(unknown)}, but the parts of {node.NAME} are: {parts}.")
    if node.FROZEN:
        timm.utils.freeze(body, list(node.FROZEN))
    if node.FREEZE_NORMS:
        body = timm.layers.freeze_batch_norm_2d(body)
    fpn = FPN.from_cfg(cfg, channels)
    return Backbone({"body": body, "fpn": fpn}, fpn.out_channels, (*strides, 2 * strides[-1]))

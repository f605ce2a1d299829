"""Which model do weights belong to? Read it from their names and shapes, as config keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn_benchmark.modeling.backbone.resnet import BLOCKS_OF_DEPTH

from .family import Converted

_BLOCK = re.compile(r"(?:^|\.)layer(\d)\.(\d+)\.conv1\.weight$")


def describe_config(converted: Converted) -> dict[str, Any]:
    """Config keys and their values, as far as the weights decide them.

    Args:
        converted: weights under the names of this package.
    """
    weights = converted.weights
    keys = _describe_body(weights) | _describe_heads(weights)
    stride = converted.conventions.stride_in_1x1
    if stride is not None and "MODEL.RESNETS.NUM_GROUPS" in keys:
        keys["MODEL.RESNETS.STRIDE_IN_1X1"] = stride
    return keys


def _describe_body(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    names = {name.removeprefix("backbone.body."): tensor for name, tensor in weights.items()}
    if "stage4.0.branches.0.0.conv1.weight" in names:
        return _describe_hrnet(names)
    kernel = next(
        (names[name] for name in ("layer1.0.conv2.weight", "layer1.0.conv2.conv.weight") if name in names), None
    )
    if kernel is None or "layer1.0.conv3.weight" not in names:
        return {}
    has_fpn = any(name.startswith("backbone.fpn.") for name in weights)
    depths = {blocks[2]: depth for depth, blocks in BLOCKS_OF_DEPTH.items()}
    blocks = [int(match[2]) for name in names if (match := _BLOCK.search(name)) and match[1] == "3"]
    depth = depths.get(max(blocks, default=-1) + 1)
    if not has_fpn:
        neck = "C4" if any(".head.layer4." in name or name.startswith("layer4.") for name in weights) else "C5"
    else:
        neck = "FPN-RETINANET" if any(".cls_tower." in name for name in weights) else "FPN"
    groups = kernel.shape[0] // kernel.shape[1]
    keys = {
        "MODEL.BACKBONE.CONV_BODY": f"R-{depth}-{neck}",
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": kernel.shape[0] // groups,
        "MODEL.RESNETS.NORM": _norm(names, "layer1.0.bn1"),
    }
    offsets = [names.get(f"layer{stage}.0.conv2.offset.weight") for stage in (1, 2, 3, 4)]
    if any(offset is not None for offset in offsets):
        keys["MODEL.RESNETS.STAGE_WITH_DCN"] = tuple(offset is not None for offset in offsets)
        keys["MODEL.RESNETS.WITH_MODULATED_DCN"] = any(
            len(offset) % 27 == 0 for offset in offsets if offset is not None
        )
    return keys


def _describe_hrnet(names: Mapping[str, Tensor]) -> dict[str, Any]:
    channels = [len(names[f"stage4.0.branches.{branch}.0.conv1.weight"]) for branch in range(4)]
    keys: dict[str, Any] = {"MODEL.BACKBONE.CONV_BODY": "HRNET-HR", "MODEL.HRNET.NORM": _norm(names, "bn1")}
    for stage in (2, 3, 4):
        keys[f"MODEL.HRNET.STAGE{stage}.NUM_CHANNELS"] = channels[:stage]
    return keys


def _norm(names: Mapping[str, Tensor], norm: str) -> str:
    if f"{norm}.running_var" not in names:
        return "GN"
    return "BN" if f"{norm}.num_batches_tracked" in names else "FrozenBN"


def _describe_heads(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    scores = weights.get("roi_heads.box.predictor.cls_score.bias")
    deltas = weights.get("roi_heads.box.predictor.bbox_pred.bias")
    if scores is not None:
        keys["MODEL.ROI_BOX_HEAD.NUM_CLASSES"] = len(scores)
        keys["MODEL.CLS_AGNOSTIC_BBOX_REG"] = deltas is not None and len(deltas) == 8 and len(scores) != 2
    if "rpn.head.cls_tower.0.weight" in weights:
        num_anchors = len(weights["rpn.head.bbox_pred.bias"]) // 4
        keys["MODEL.RETINANET_ON"] = True
        keys["MODEL.RETINANET.NUM_CLASSES"] = len(weights["rpn.head.cls_logits.bias"]) // num_anchors + 1
    if "roi_heads.mask.predictor.mask_fcn_logits.bias" in weights:
        keys["MODEL.MASK_ON"] = True
    if any(name.startswith("roi_heads.multi_mask.") for name in weights):
        keys["MODEL.MULTI_MASK_ON"] = True  # the names of its masks are in the config alone
    keypoints = weights.get("roi_heads.keypoint.predictor.kps_score_lowres.bias")
    if keypoints is not None:
        keys["MODEL.KEYPOINT_ON"] = True
        keys["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES"] = len(keypoints)
    if any(name.startswith("roi_heads.refine.") for name in weights):
        keys["MODEL.REFINE_ON"] = True
    return keys

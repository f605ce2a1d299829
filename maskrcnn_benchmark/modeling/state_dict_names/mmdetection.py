"""Files of mmdetection's Faster and Mask R-CNN, with HRNet and HRFPN or with ResNet and FPN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from .class_rows import add_background, background_first, convert_rows
from .family import IMAGENET_STD, Conventions, Converted, NameTable, WeightFamily

_SCORES = "roi_heads.box.predictor.cls_score"
_DELTAS = "roi_heads.box.predictor.bbox_pred"
_MASKS = "roi_heads.mask.predictor.mask_fcn_logits"


def _head_modules() -> dict[str, str]:
    pairs = {
        "rpn_head.rpn_conv": "rpn.head.conv",
        "rpn_head.rpn_cls": "rpn.head.cls_logits",
        "rpn_head.rpn_reg": "rpn.head.bbox_pred",
    }
    for prefix in ("", "roi_head."):  # without the prefix in version 1
        box, mask = f"{prefix}bbox_head", f"{prefix}mask_head"
        pairs |= {f"{box}.shared_fcs.{index}": f"roi_heads.box.feature_extractor.fc{index + 6}" for index in (0, 1)}
        pairs |= {f"{box}.fc_cls": _SCORES, f"{box}.fc_reg": _DELTAS}
        for index in range(4):
            pairs[f"{mask}.convs.{index}.conv"] = f"roi_heads.mask.feature_extractor.mask_fcn{index + 1}"
        pairs |= {f"{mask}.upsample": "roi_heads.mask.predictor.conv5_mask", f"{mask}.conv_logits": _MASKS}
    return pairs


def _hrnet_modules() -> dict[str, str]:
    pairs = {"backbone": "backbone.body", "neck.reduction_conv.conv": "backbone.neck.reduction_conv.0"}
    pairs |= {f"neck.fpn_convs.{level}.conv": f"backbone.neck.fpn_conv.{level}" for level in range(5)}
    return {**_head_modules(), **pairs}


def _resnet_modules() -> dict[str, str]:
    pairs = {f"backbone.{name}": f"backbone.body.stem.{name}" for name in ("conv1", "bn1")}
    pairs |= {f"backbone.layer{stage}": f"backbone.body.layer{stage}" for stage in (1, 2, 3, 4)}
    for level in range(4):
        pairs[f"neck.lateral_convs.{level}.conv"] = f"backbone.fpn.fpn_inner{level + 1}"
        pairs[f"neck.fpn_convs.{level}.conv"] = f"backbone.fpn.fpn_layer{level + 1}"
    return {**_head_modules(), **pairs}


_WITH_HRNET, _WITH_RESNET = NameTable(_hrnet_modules()), NameTable(_resnet_modules())


class MMDetection(WeightFamily):
    """Since version 2 the background is the last class, and box deltas and masks have no rows for it."""

    name = "mmdetection"
    signature = re.compile(
        r"^(neck\.(reduction_conv|fpn_convs|lateral_convs)\.|rpn_head\.rpn_|(roi_head\.)?bbox_head\.(shared_fcs|fc_cls))"
    )

    def knows(self, name: str) -> bool:
        return _WITH_HRNET.ours(name, {}) is not None or _WITH_RESNET.ours(name, {}) is not None

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted()
        table = _WITH_RESNET if any(name.startswith("neck.lateral_convs.") for name in state) else _WITH_HRNET
        for source, tensor in state.items():
            converted.add(table.ours(source, state), source, tensor)
        _put_background_first(converted)
        converted.conventions = Conventions(norm_eps=1e-5, pixel_order="RGB", pixel_std=IMAGENET_STD)
        return converted


def _put_background_first(converted: Converted) -> None:
    weights = converted.weights
    scores, deltas = weights.get(f"{_SCORES}.bias"), weights.get(f"{_DELTAS}.bias")
    if scores is None or deltas is None or len(deltas) == 4 * len(scores):
        return  # version 1, whose background is the first class
    num_masks = len(scores) - 1
    for ending in ("weight", "bias"):
        convert_rows(weights, f"{_SCORES}.{ending}", background_first)
        convert_rows(weights, f"{_DELTAS}.{ending}", partial(add_background, count=4))
        if len(weights.get(f"{_MASKS}.{ending}", ())) == num_masks:
            convert_rows(weights, f"{_MASKS}.{ending}", partial(add_background, count=1))
    converted.notes.append("the background was the last class; it is the first one here")

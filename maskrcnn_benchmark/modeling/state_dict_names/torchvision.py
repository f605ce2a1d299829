"""Files of torchvision: its detectors (old and new names), and its classifiers, which start a body."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .family import IMAGENET_STD, Conventions, Converted, NameTable, UnsupportedExportError, WeightFamily

_EPS = 1e-5  # of torchvision's batch norms, also the frozen ones
_COUNTER = ".num_batches_tracked"
_NEVER = -100.0  # bias of a class that is never predicted


def _detector_modules(finest_level: int = 1) -> dict[str, str]:
    """Old names come first: the last of two names for the same module is the one that is written.

    Args:
        finest_level: number here of the pyramid's finest level, which is 0 in torchvision.
    """
    pairs = {f"backbone.body.{name}": f"backbone.body.stem.{name}" for name in ("conv1", "bn1")}
    pairs |= {f"backbone.body.layer{stage}": f"backbone.body.layer{stage}" for stage in (1, 2, 3, 4)}
    for level in range(4):
        for theirs, ours in (("inner_blocks", "fpn_inner"), ("layer_blocks", "fpn_layer")):
            for ending, norm in (("", ""), (".0", ""), (".1", ".1")):
                pairs[f"backbone.fpn.{theirs}.{level}{ending}"] = f"backbone.fpn.{ours}{level + finest_level}{norm}"
    pairs |= {f"backbone.fpn.extra_blocks.{name}": f"backbone.fpn.top_blocks.{name}" for name in ("p6", "p7")}
    pairs |= {"rpn.head.conv": "rpn.head.conv", "rpn.head.conv.0.0": "rpn.head.conv"}
    pairs |= {f"rpn.head.{name}": f"rpn.head.{name}" for name in ("cls_logits", "bbox_pred")}
    pairs |= {f"roi_heads.box_head.{name}": f"roi_heads.box.feature_extractor.{name}" for name in ("fc6", "fc7")}
    for head, names in {
        "box": ("cls_score", "bbox_pred"),
        "mask": ("conv5_mask", "mask_fcn_logits"),
        "keypoint": ("kps_score_lowres",),
    }.items():
        pairs |= {f"roi_heads.{head}_predictor.{name}": f"roi_heads.{head}.predictor.{name}" for name in names}
    for index in range(4):
        ours = f"roi_heads.mask.feature_extractor.mask_fcn{index + 1}"
        pairs |= {f"roi_heads.mask_head.mask_fcn{index + 1}": ours}
        pairs |= {f"roi_heads.mask_head.{index}.0": ours, f"roi_heads.mask_head.{index}.1": f"{ours}.1"}
    for index in range(8):  # a ReLU is between two convolutions
        pairs[f"roi_heads.keypoint_head.{2 * index}"] = f"roi_heads.keypoint.feature_extractor.conv_fcn{index + 1}"
    return pairs


def _retinanet_modules() -> dict[str, str]:
    pairs = {}
    for theirs, ours in (("classification_head", "cls_tower"), ("regression_head", "bbox_tower")):
        for index in range(4):
            pairs[f"head.{theirs}.conv.{2 * index}"] = f"rpn.head.{ours}.{2 * index}"
        for index in range(4):
            pairs[f"head.{theirs}.conv.{index}.0"] = f"rpn.head.{ours}.{2 * index}"
    pairs["head.classification_head.cls_logits"] = "rpn.head.cls_logits"
    pairs["head.regression_head.bbox_reg"] = "rpn.head.bbox_pred"
    return pairs


_DETECTOR = NameTable(_detector_modules())
_RETINANET = NameTable({**_detector_modules(finest_level=2), **_retinanet_modules()})


class TorchvisionDetector(WeightFamily):
    """`fasterrcnn_`, `maskrcnn_`, `keypointrcnn_resnet*_fpn` and `retinanet_resnet50_fpn`.

    Its classes are numbered as here, so no row of an R-CNN moves. Its RetinaNet has a class 0 that nothing belongs to;
    here there is none.
    """

    name = "torchvision"
    conventions = Conventions(_EPS, False, "RGB", IMAGENET_STD)
    signature = re.compile(
        r"^(backbone\.fpn\.(inner|layer)_blocks\.|roi_heads\.\w+_predictor\.|roi_heads\.box_head\.fc6\."
        r"|head\.(classification|regression)_head\.)"
    )

    def knows(self, name: str) -> bool:
        return _RETINANET.ours(name, {}) is not None

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted()
        has_retinanet = any(name.startswith("head.") for name in state)
        table = _RETINANET if has_retinanet else _DETECTOR
        for source, tensor in state.items():
            converted.add(table.ours(source, state), source, tensor)
        if has_retinanet:
            _drop_class_zero(converted)
        learns_norms = any(name.endswith(_COUNTER) for name in state)
        converted.conventions = Conventions(_EPS if learns_norms else None, False, "RGB", IMAGENET_STD)
        if not learns_norms:
            converted.notes.append(
                "the file does not say the epsilon of its frozen batch norms, so the model's is kept: it is 0 in "
                "torchvision's COCO_V1 weights, 1e-5 in detectors that were trained from its ImageNet weights"
            )
        return converted

    def export(self, state: Mapping[str, Tensor], model: Conventions) -> dict[str, Tensor]:
        has_retinanet = any(".cls_tower." in name for name in state)
        table = _RETINANET if has_retinanet else _DETECTOR
        exported: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if ".anchor_generator." in name:
                continue
            theirs = table.theirs(name)
            if theirs is None:
                raise UnsupportedExportError(f"torchvision's detectors have no tensor for {name}.")
            exported[theirs] = tensor
        if has_retinanet:
            _add_class_zero(exported)
        return exported


def _drop_class_zero(converted: Converted) -> None:
    num_anchors = _num_anchors(converted.weights, "rpn.head.bbox_pred.bias")
    for name in ("rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"):
        if num_anchors and name in converted.weights:
            rows = converted.weights[name].unflatten(0, (num_anchors, -1))
            converted.weights[name] = rows[:, 1:].flatten(0, 1).clone()
    converted.notes.append("the scores of torchvision's class 0, which is unused, were removed")


def _add_class_zero(exported: dict[str, Tensor]) -> None:
    num_anchors = _num_anchors(exported, "head.regression_head.bbox_reg.bias")
    for name, value in (("weight", 0.0), ("bias", _NEVER)):
        name = f"head.classification_head.cls_logits.{name}"
        if num_anchors and name in exported:
            rows = exported[name].unflatten(0, (num_anchors, -1))
            exported[name] = torch.cat([torch.full_like(rows[:, :1], value), rows], dim=1).flatten(0, 1)


def _num_anchors(weights: Mapping[str, Tensor], name_of_deltas: str) -> int:
    return len(weights[name_of_deltas]) // 4 if name_of_deltas in weights else 0


class TorchvisionClassifier(WeightFamily):
    """ResNets and ResNeXts of torchvision, trained on ImageNet. timm's have the same names."""

    name = "torchvision or timm, ImageNet ResNet"
    signature = re.compile(r"^layer1\.0\.conv1\.")
    _modules = re.compile(r"^(conv1|bn1|layer[1-4]\.\d+\.(conv|bn)[1-3]|layer[1-4]\.\d+\.downsample\.[01]|fc)\.")

    def knows(self, name: str) -> bool:
        return self._modules.match(name) is not None

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted(dict(state), {name: name for name in state})
        converted.unknown = [name for name in state if not self.knows(name)]
        converted.conventions = Conventions(_EPS, False, "RGB", IMAGENET_STD)
        return converted

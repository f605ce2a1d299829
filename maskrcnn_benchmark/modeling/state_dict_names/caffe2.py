"""Files of Facebook's Detectron, which used Caffe2: blobs are renamed one by one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.utils.c2_model_loading import read_named_arrays

from .class_rows import convert_rows, ratios_outside
from .family import Conventions, Converted, WeightFamily

_C2_MODULES = (  # pattern of a blob's name without its ending, module here; Caffe2's stage res2 is layer1
    (r"conv1", "stem.conv1"),
    (r"res_conv1_bn", "stem.bn1"),
    (r"conv1_gn", "stem.bn1"),
    (r"res(\d)_(\d+)_branch1", "layer{0}.{1}.downsample.0"),
    (r"res(\d)_(\d+)_branch1_(?:bn|gn)", "layer{0}.{1}.downsample.1"),
    (r"res(\d)_(\d+)_branch2([abc])", "layer{0}.{1}.conv{2}"),
    (r"res(\d)_(\d+)_branch2([abc])_(?:bn|gn)", "layer{0}.{1}.bn{2}"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?(_gn)?", "backbone.fpn.fpn_inner{0}"),
    (r"fpn_res(\d)_\d+_sum(_gn)?", "backbone.fpn.fpn_layer{0}"),
    (r"fpn_6", "backbone.fpn.top_blocks.p6"),
    (r"fpn_7", "backbone.fpn.top_blocks.p7"),
    (r"retnet_cls_conv_n(\d)_fpn3", "rpn.head.cls_tower.{0}"),
    (r"retnet_bbox_conv_n(\d)_fpn3", "rpn.head.bbox_tower.{0}"),
    (r"retnet_cls_pred_fpn3", "rpn.head.cls_logits"),
    (r"retnet_bbox_pred_fpn3", "rpn.head.bbox_pred"),
    (r"conv_rpn(?:_fpn2)?", "rpn.head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", "rpn.head.cls_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", "rpn.head.bbox_pred"),
    (r"head_conv(\d)(_gn)?", "roi_heads.box.feature_extractor.xconvs.{0}"),
    (r"fc6", "roi_heads.box.feature_extractor.fc6"),
    (r"fc7", "roi_heads.box.feature_extractor.fc7"),
    (r"cls_score", "roi_heads.box.predictor.cls_score"),
    (r"bbox_pred", "roi_heads.box.predictor.bbox_pred"),
    (r"_\[mask\]_fcn(\d)(_gn)?", "roi_heads.mask.feature_extractor.mask_fcn{0}"),
    (r"conv5_mask", "roi_heads.mask.predictor.conv5_mask"),
    (r"mask_fcn_logits", "roi_heads.mask.predictor.mask_fcn_logits"),
    (r"conv_fcn(\d)", "roi_heads.keypoint.feature_extractor.conv_fcn{0}"),
    (r"kps_score_lowres", "roi_heads.keypoint.predictor.kps_score_lowres"),
)
_C2_ENDINGS = {"w": "weight", "b": "bias", "s": "weight"}
_C2_BRANCHES = {"a": "1", "b": "2", "c": "3"}
# Statistics beside affine layers are already part of their scale and shift; Detectron does not read them.
_NO_WEIGHT_ENDINGS = ("_momentum", "_rm", "_riv")
_NO_WEIGHTS = ("lr", "weight_order", "kps_score_w", "kps_score_b")


class Caffe2(WeightFamily):
    """Detectors and ImageNet bodies of Detectron.

    Caffe2's affine layer is a scale and a shift. The batch norm that replaces it here also gets mean 0 and variance 1,
    with which it computes the same. Names of the body begin with the body's own modules ("stem.", "layer1.");
    `NAME_RULES` adds the prefix, because the last stage belongs to the body or to the heads, depending on the model.
    """

    name = "Detectron (Caffe2)"
    signature = re.compile(r"^(res\d_\d+_branch|res_conv1_bn_|conv1_w$|fc6_w$|cls_score_w$|conv_rpn|retnet_)")

    def knows(self, name: str) -> bool:
        return name.rpartition("_")[2] in _C2_ENDINGS or _is_no_weight(name)

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted(conventions=_conventions(state))
        for blob_name, blob in state.items():
            if not blob.is_floating_point() or _is_no_weight(blob_name):
                converted.ignored.append(blob_name)
                continue
            name = _rename_blob(blob_name, state)
            converted.add(name, blob_name, blob)
            if name is not None and blob_name.endswith("_bn_s"):
                module = name[: -len("weight")]
                converted.weights.setdefault(f"{module}running_mean", torch.zeros_like(blob))
                converted.weights.setdefault(f"{module}running_var", torch.ones_like(blob))
        _reorder_anchors_of_retinanet(converted.weights, model)
        return converted


def _is_no_weight(blob_name: str) -> bool:
    return blob_name.endswith(_NO_WEIGHT_ENDINGS) or blob_name in _NO_WEIGHTS


def _reorder_anchors_of_retinanet(weights: dict[str, Tensor], model: Conventions) -> None:
    """Detectron's RetinaNet counts all ratios of the first size first; here all sizes of the first ratio are first."""
    deltas = weights.get("rpn.head.bbox_pred.bias")
    if "rpn.head.cls_tower.0.weight" not in weights or deltas is None:
        return
    for layer in ("cls_logits", "bbox_pred"):
        for ending in ("weight", "bias"):
            convert_rows(
                weights,
                f"rpn.head.{layer}.{ending}",
                partial(ratios_outside, num_anchors=len(deltas) // 4, num_ratios=model.aspect_ratios),
            )


def _conventions(state: Mapping[str, Tensor]) -> Conventions:
    """Of the weights in Detectron's model zoo: only MSRA's ResNets have the stride in the 1x1 convolution."""
    kernel = state.get("res2_0_branch2b_w")
    if kernel is None or kernel.dim() != 4:
        return Conventions(0.0, None, "BGR", None)
    is_resnext = kernel.shape[0] != kernel.shape[1]
    stride_in_1x1 = not is_resnext and "res2_0_branch2b_bn_s" in state
    return Conventions(0.0, stride_in_1x1, "BGR", None if is_resnext else (1.0, 1.0, 1.0))


def load_c2_format(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights of a Detectron file, under the names of this project. Raises: RefusedPickleError, ValueError."""
    return rename_c2_blobs(read_named_arrays(path))


def rename_c2_blobs(blobs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert Detectron's blobs to tensors with the names of this project.

    Blobs that are not weights (momenta, the fixed upsampling of keypoints) are left out; unknown ones keep their names.
    """
    return Caffe2().convert(tensors_of(blobs), Conventions()).weights


def tensors_of(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The numeric NumPy arrays as tensors; floating-point ones as float32."""
    tensors = {}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
            dtype = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array).astype(dtype, copy=True))
    return tensors


def _rename_blob(blob_name: str, blobs: Mapping[str, Any]) -> str | None:
    """The name here; None for an unknown blob."""
    stem, _, ending = blob_name.rpartition("_")
    if ending not in _C2_ENDINGS:
        return None
    for pattern, module in _C2_MODULES:
        match = re.fullmatch(pattern, stem)
        if match is None:
            continue
        groups = list(match.groups())
        if stem.startswith(("res", "fpn_inner", "fpn_res")) and groups:
            groups[0] = str(int(groups[0]) - 1)
        if stem.startswith("res") and len(groups) == 3:
            groups[2] = _C2_BRANCHES[groups[2]]
        if stem.startswith("retnet") and groups:  # a ReLU is between two convolutions
            groups[0] = str(2 * int(groups[0]))
        if stem.startswith("head_conv"):  # a norm and a ReLU are between two convolutions
            is_norm = stem.endswith("_gn")
            return f"{module.format(3 * (int(groups[0]) - 1) + is_norm)}.{_C2_ENDINGS[ending]}"
        module = module.format(*groups)
        if "(_gn)" in pattern:  # with group norm, the module here is a sequence of convolution and norm
            has_norm = f"{stem.removesuffix('_gn')}_gn_s" in blobs
            module += (".1" if stem.endswith("_gn") else ".0") if has_norm else ""
        return f"{module}.{_C2_ENDINGS[ending]}"
    return None

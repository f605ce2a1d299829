"""Names of weights: how files of other projects call the tensors of the models here.

`NAME_RULES` holds the names that differ in a prefix only; Caffe2's blobs are renamed one by one. Names that older files
of this project use are read by the modules themselves, in `_load_from_state_dict`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.utils.c2_model_loading import read_c2_blobs
from maskrcnn_benchmark.utils.model_serialization import LoadReport, NameRules, PrefixRule, load_weights

_HEADS_WITH_LAST_STAGE = ("box", "mask")  # C4 models hold the last stage of the body in these heads

NAME_RULES = NameRules(
    prefixes=(
        # Bodies trained on ImageNet: HRNet's own files, timm's, and Caffe2's after `rename_c2_blobs`.
        PrefixRule("", "backbone.body."),
        # torchvision's ResNets have no module around the stem.
        PrefixRule("conv1.", "backbone.body.stem.conv1."),
        PrefixRule("bn1.", "backbone.body.stem.bn1."),
        *(PrefixRule("layer4.", f"roi_heads.{head}.feature_extractor.head.layer4.") for head in _HEADS_WITH_LAST_STAGE),
        # Detectors of mmdetection.
        PrefixRule("backbone.", "backbone.body."),
        PrefixRule("neck.reduction_conv.conv.", "backbone.neck.reduction_conv.0."),
        *(PrefixRule(f"neck.fpn_convs.{level}.conv.", f"backbone.neck.fpn_conv.{level}.") for level in range(5)),
    ),
    # Files of the HRNet fork have an epsilon in every frozen batch norm; other norms do not read it.
    ignored=(".eps",),
)


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy weights into a model of this project, whichever of the known names they have. See `load_weights`."""
    return load_weights(model, state, NAME_RULES)


# ---- Caffe2 ----


def load_c2_format(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights of a Detectron file, under the names of this project. Raises: RefusedPickleError, ValueError.

    Names of the body begin with the body's own modules ("stem.", "layer1."). `NAME_RULES` adds the prefix: whether the
    last stage belongs to the body or to the heads depends on the model.
    """
    return rename_c2_blobs(read_c2_blobs(path))


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
    (r"conv_rpn(?:_fpn2)?", "rpn.head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", "rpn.head.cls_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", "rpn.head.bbox_pred"),
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


def rename_c2_blobs(blobs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert Detectron's blobs to tensors with the names of this project.

    Blobs that are not weights (momenta, the fixed upsampling of keypoints) are left out; unknown ones keep their names.
    Caffe2's affine layer is a scale and a shift. The batch norm that replaces it here also gets mean 0 and variance 1,
    with which it computes the same.
    """
    renamed: dict[str, Tensor] = {}
    for blob_name, blob in blobs.items():
        if not isinstance(blob, np.ndarray) or blob.dtype.kind != "f":
            continue
        name = _rename_blob(blob_name, blobs)
        if name is None:
            continue
        tensor = torch.from_numpy(np.ascontiguousarray(blob).astype(np.float32, copy=True))
        renamed[name] = tensor
        if re.search(r"_bn_s$", blob_name):
            module = name[: -len("weight")]
            renamed.setdefault(f"{module}running_mean", torch.zeros_like(tensor))
            renamed.setdefault(f"{module}running_var", torch.ones_like(tensor))
    return renamed


def _rename_blob(blob_name: str, blobs: Mapping[str, Any]) -> str | None:
    """The name here. None for a blob that is not a weight of the model; an unknown blob keeps its name."""
    if blob_name.endswith("_momentum") or blob_name in ("lr", "weight_order", "kps_score_w", "kps_score_b"):
        return None
    stem, _, ending = blob_name.rpartition("_")
    if ending not in _C2_ENDINGS:
        return blob_name
    for pattern, module in _C2_MODULES:
        match = re.fullmatch(pattern, stem)
        if match is None:
            continue
        groups = list(match.groups())
        if stem.startswith(("res", "fpn")) and groups:
            groups[0] = str(int(groups[0]) - 1)
        if stem.startswith("res") and len(groups) == 3:
            groups[2] = _C2_BRANCHES[groups[2]]
        module = module.format(*groups)
        if "(_gn)" in pattern:  # with group norm, the module here is a sequence of convolution and norm
            has_norm = f"{stem.removesuffix('_gn')}_gn_s" in blobs
            module += (".1" if stem.endswith("_gn") else ".0") if has_norm else ""
        return f"{module}.{_C2_ENDINGS[ending]}"
    return blob_name

"""Mask head: extractor, predictor and the masks that they yield."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head import (  # noqa: F401  (they register themselves)
    roi_mask_feature_extractors,
    roi_mask_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MaskHead(BranchHead):
    """RoIs to masks: logits (R, J, M, M), one map per class; detections gain the field `mask`."""

    NAME = "mask"
    SWITCH = "MODEL.MASK_ON"
    EXTRACTORS = registry.ROI_MASK_FEATURE_EXTRACTORS
    PREDICTORS = registry.ROI_MASK_PREDICTOR

    @classmethod
    def output_from_cfg(cls, cfg: CfgNode) -> MaskKind:
        return MaskKind.from_cfg(cfg)

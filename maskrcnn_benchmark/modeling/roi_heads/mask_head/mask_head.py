"""Wiring of the mask branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead, BranchParts
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import make_roi_mask_post_processor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import make_roi_mask_loss_evaluator
from maskrcnn_benchmark.modeling.roi_heads.mask_head.roi_mask_feature_extractors import make_roi_mask_feature_extractor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.roi_mask_predictors import make_roi_mask_predictor

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MaskHead(BranchHead):
    """RoIs to masks: logits (R, J, M, M) of every class; detections gain the field `mask`."""

    NAME = "mask"
    LOSS_NAME = "loss_mask"
    PARTS = BranchParts(
        feature_extractor=make_roi_mask_feature_extractor,
        predictor=make_roi_mask_predictor,
        loss=make_roi_mask_loss_evaluator,
        post_processor=make_roi_mask_post_processor,
    )


def build_roi_mask_head(cfg: CfgNode, in_channels: int) -> BranchHead:
    """The mask head as configured; see `BranchHead.from_cfg`."""
    return MaskHead.from_cfg(cfg, in_channels)

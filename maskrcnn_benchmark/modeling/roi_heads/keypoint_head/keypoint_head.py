"""Wiring of the keypoint branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead, BranchParts
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import make_roi_keypoint_post_processor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import make_roi_keypoint_loss_evaluator
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.roi_keypoint_feature_extractors import (
    make_roi_keypoint_feature_extractor,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.roi_keypoint_predictors import make_roi_keypoint_predictor

if TYPE_CHECKING:
    from yacs.config import CfgNode


class KeypointHead(BranchHead):
    """RoIs to keypoints: logits (R, K, S, S), a heat map each; detections gain the field `keypoints`."""

    NAME = "keypoint"
    LOSS_NAME = "loss_kp"
    PARTS = BranchParts(
        feature_extractor=make_roi_keypoint_feature_extractor,
        predictor=make_roi_keypoint_predictor,
        loss=make_roi_keypoint_loss_evaluator,
        post_processor=make_roi_keypoint_post_processor,
    )


def build_roi_keypoint_head(cfg: CfgNode, in_channels: int) -> BranchHead:
    """The keypoint head as configured; see `BranchHead.from_cfg`."""
    return KeypointHead.from_cfg(cfg, in_channels)

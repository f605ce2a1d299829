"""Keypoint head: extractor, predictor and the keypoints that they yield."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head import (  # noqa: F401  (they register themselves)
    roi_keypoint_feature_extractors,
    roi_keypoint_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind

if TYPE_CHECKING:
    from yacs.config import CfgNode


class KeypointHead(BranchHead):
    """RoIs to keypoints: logits (R, K, S, S), one heat map per keypoint; detections gain the field `keypoints`."""

    NAME = "keypoint"
    SWITCH = "MODEL.KEYPOINT_ON"
    EXTRACTORS = registry.ROI_KEYPOINT_FEATURE_EXTRACTORS
    PREDICTORS = registry.ROI_KEYPOINT_PREDICTOR

    @classmethod
    def output_from_cfg(cls, cfg: CfgNode) -> KeypointKind:
        return KeypointKind.from_cfg(cfg)

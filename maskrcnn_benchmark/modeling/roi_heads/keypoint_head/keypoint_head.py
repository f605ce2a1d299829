"""Keypoint head: extractor, predictor and the keypoints that they yield."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head import (  # noqa: F401  (they register themselves)
    roi_keypoint_feature_extractors,
    roi_keypoint_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.visibility import KeypointVisibilityPredictor, VisibilityKind
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind

if TYPE_CHECKING:
    from yacs.config import CfgNode


class KeypointHead(BranchHead):
    """RoIs to keypoints: logits (R, K, S, S), one heat map per keypoint; detections gain the field `keypoints`.

    With MODEL.ROI_KEYPOINT_HEAD.PREDICT_VISIBILITY a second predictor, `own_predictors.keypoint_visibility`, says how
    likely each keypoint is to be labelled.
    """

    NAME = "keypoint"
    SWITCH = "MODEL.KEYPOINT_ON"
    EXTRACTORS = registry.ROI_KEYPOINT_FEATURE_EXTRACTORS
    PREDICTORS = registry.ROI_KEYPOINT_PREDICTOR

    @classmethod
    def output_from_cfg(cls, cfg: CfgNode) -> KeypointKind:
        return KeypointKind.from_cfg(cfg)

    @classmethod
    def outputs_from_cfg(cls, cfg: CfgNode) -> list[OutputKind]:
        keypoints = cls.output_from_cfg(cfg)
        if not cfg.MODEL.ROI_KEYPOINT_HEAD.PREDICT_VISIBILITY:
            return [keypoints]
        return [VisibilityKind.from_cfg(cfg, keypoints), keypoints]  # keypoints read what visibility has written

    @classmethod
    def own_predictors_from_cfg(cls, cfg: CfgNode, in_channels: int) -> dict[str, nn.Module]:
        node = cfg.MODEL.ROI_KEYPOINT_HEAD
        if not node.PREDICT_VISIBILITY:
            return {}
        return {VisibilityKind.name: KeypointVisibilityPredictor(in_channels, num_keypoints=node.NUM_CLASSES)}

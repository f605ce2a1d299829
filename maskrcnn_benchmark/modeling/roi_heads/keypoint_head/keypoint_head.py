"""Wiring of the keypoint branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import (
    KeypointPostProcessor,
    make_roi_keypoint_post_processor,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import (
    KeypointRCNNLossComputation,
    make_roi_keypoint_loss_evaluator,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.roi_keypoint_feature_extractors import (
    make_roi_keypoint_feature_extractor,
)
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.roi_keypoint_predictors import make_roi_keypoint_predictor
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class KeypointHeadOutput:
    """What the keypoint branch made of R RoIs: the positives in training, else all images' detections in order."""

    logits: Tensor  # (R, K, S, S), a heat map per keypoint
    features: Tensor  # (R, C, s, s), what the predictor read
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones, with the field `keypoints`


class KeypointHead(nn.Module):
    """RoIs of a feature pyramid to keypoints.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C, s, s); None where the box head's features are shared,
            which `forward` is then given.
        predictor: (R, C, s, s) -> (R, K, S, S).
        feature_channels: channels of what the predictor reads; for those who read it too.
        loss: (logits, positives, targets) -> scalar; None trains nothing here (a frozen detector).
        post_processor: (logits, detections) -> detections with the field `keypoints`.
    """

    def __init__(
        self,
        feature_extractor: nn.Module | None,
        predictor: nn.Module,
        *,
        feature_channels: int,
        loss: KeypointRCNNLossComputation | None,
        post_processor: KeypointPostProcessor,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.feature_channels = feature_channels
        self.loss = loss
        self.post_processor = post_processor

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> KeypointHead:
        shared = cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR
        extractor: Any = None if shared else make_roi_keypoint_feature_extractor(cfg, in_channels)
        channels = in_channels if extractor is None else extractor.out_channels
        frozen = cfg.MODEL.REFINE_ON and cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
        return cls(
            extractor,
            make_roi_keypoint_predictor(cfg, channels),
            feature_channels=channels,
            loss=None if frozen else make_roi_keypoint_loss_evaluator(cfg),
            post_processor=make_roi_keypoint_post_processor(cfg),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        box_features: Tensor | None = None,
    ) -> KeypointHeadOutput:
        """
        Args:
            features: L maps (N, in_channels, H_l, W_l).
            rois: the positives to train on; or detections, one BoxList per image, to complete.
            targets: ground truth with `keypoints`, one BoxList per image; training alone.
            box_features: (R, C, s, s) of the same RoIs; read only where the box head's extractor is shared.
        Raises: ValueError when the features of a shared extractor, or the targets, are not given.
        """
        if self.feature_extractor is None:
            if box_features is None:
                raise ValueError(
                    "MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is on, so the keypoint head needs "
                    "`box_features`"
                )
            x = box_features
        else:
            boxes = rois.rois if isinstance(rois, SampledProposals) else rois_from_boxlists(rois)
            x = self.feature_extractor(features, boxes)
        logits = self.predictor(x)
        if not isinstance(rois, SampledProposals):
            return KeypointHeadOutput(logits, x, detections=self.post_processor(logits, rois))
        if self.loss is None:
            return KeypointHeadOutput(logits, x)
        if targets is None:
            raise ValueError("in training the keypoint head needs `targets`, one BoxList per image")
        return KeypointHeadOutput(logits, x, losses={"loss_kp": self.loss(logits, rois, targets)})


def build_roi_keypoint_head(cfg: CfgNode, in_channels: int) -> KeypointHead:
    """The keypoint head as configured.

    Args:
        in_channels: channels of the feature levels, or of the box head's features where its extractor is shared.
    """
    return KeypointHead.from_cfg(cfg, in_channels)

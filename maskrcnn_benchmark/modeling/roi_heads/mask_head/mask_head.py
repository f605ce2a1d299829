"""Wiring of the mask branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import MaskPostProcessor, make_roi_mask_post_processor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import MaskRCNNLossComputation, make_roi_mask_loss_evaluator
from maskrcnn_benchmark.modeling.roi_heads.mask_head.roi_mask_feature_extractors import make_roi_mask_feature_extractor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.roi_mask_predictors import make_roi_mask_predictor
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class MaskHeadOutput:
    """What the mask branch made of R RoIs: the positives in training, else all images' detections in order."""

    logits: Tensor  # (R, J, M, M), a map per class
    features: Tensor  # (R, C, S, S), what the predictor read
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones, with the field `mask`


class MaskHead(nn.Module):
    """RoIs of a feature pyramid to masks.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C, S, S); None where the box head's features are shared,
            which `forward` is then given.
        predictor: (R, C, S, S) -> (R, J, M, M).
        feature_channels: channels of what the predictor reads; for those who read it too.
        loss: (logits, positives, targets) -> scalar; None trains nothing here (a frozen detector).
        post_processor: (logits, detections) -> detections with the field `mask`.
    """

    def __init__(
        self,
        feature_extractor: nn.Module | None,
        predictor: nn.Module,
        *,
        feature_channels: int,
        loss: MaskRCNNLossComputation | None,
        post_processor: MaskPostProcessor,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.feature_channels = feature_channels
        self.loss = loss
        self.post_processor = post_processor

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> MaskHead:
        shared = cfg.MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR
        extractor: Any = None if shared else make_roi_mask_feature_extractor(cfg, in_channels)
        channels = in_channels if extractor is None else extractor.out_channels
        frozen = cfg.MODEL.REFINE_ON and cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
        return cls(
            extractor,
            make_roi_mask_predictor(cfg, channels),
            feature_channels=channels,
            loss=None if frozen else make_roi_mask_loss_evaluator(cfg),
            post_processor=make_roi_mask_post_processor(cfg),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        box_features: Tensor | None = None,
    ) -> MaskHeadOutput:
        """
        Args:
            features: L maps (N, in_channels, H_l, W_l).
            rois: the positives to train on; or detections with `labels`, one BoxList per image, to complete.
            targets: ground truth with `masks`, one BoxList per image; training alone.
            box_features: (R, C, S, S) of the same RoIs; read only where the box head's extractor is shared.
        Raises: ValueError when the features of a shared extractor, or the targets, are not given.
        """
        if self.feature_extractor is None:
            if box_features is None:
                raise ValueError(
                    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is on, so the mask head needs `box_features`"
                )
            x = box_features
        else:
            boxes = rois.rois if isinstance(rois, SampledProposals) else rois_from_boxlists(rois)
            x = self.feature_extractor(features, boxes)
        logits = self.predictor(x)
        if not isinstance(rois, SampledProposals):
            return MaskHeadOutput(logits, x, detections=self.post_processor(logits, rois))
        if self.loss is None:
            return MaskHeadOutput(logits, x)
        if targets is None:
            raise ValueError("in training the mask head needs `targets`, one BoxList per image")
        return MaskHeadOutput(logits, x, losses={"loss_mask": self.loss(logits, rois, targets)})


def build_roi_mask_head(cfg: CfgNode, in_channels: int) -> MaskHead:
    """The mask head as configured.

    Args:
        in_channels: channels of the feature levels, or of the box head's features where its extractor is shared.
    """
    return MaskHead.from_cfg(cfg, in_channels)

"""What the mask and the keypoint branch have in common: features of RoIs, a predictor, a loss, a post-processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode

BranchLoss = Callable[[Tensor, SampledProposals, Sequence[BoxList]], Tensor]


@dataclass(frozen=True)
class BranchOutput:
    """What a branch made of R RoIs: the positives in training, else all images' detections in order."""

    logits: Tensor  # (R, J, S, S): a map per class, or per keypoint
    features: Tensor  # (R, C, s, s), what the predictor read
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones, with the branch's field


@dataclass(frozen=True)
class BranchParts:
    """Builders of a branch's parts."""

    feature_extractor: Callable[[CfgNode, int], Any]  # of cfg and in_channels
    predictor: Callable[[CfgNode, int], nn.Module]
    loss: Callable[[CfgNode], BranchLoss]
    post_processor: Callable[[CfgNode], nn.Module]


class BranchHead(nn.Module):
    """RoIs of a feature pyramid to maps over each of them.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C, s, s); None where the box head's features are shared,
            which `forward` is then given.
        predictor: (R, C, s, s) -> (R, J, S, S).
        feature_channels: channels of what the predictor reads; for those who read it too.
        loss: (logits, positives, targets) -> scalar; None trains nothing here (a frozen detector).
        post_processor: (logits, detections) -> detections with the branch's field.
    """

    NAME: ClassVar[str]  # as messages call it; its config node is MODEL.ROI_<NAME>_HEAD
    LOSS_NAME: ClassVar[str]
    PARTS: ClassVar[BranchParts]

    def __init__(
        self,
        feature_extractor: nn.Module | None,
        predictor: nn.Module,
        *,
        feature_channels: int,
        loss: BranchLoss | None,
        post_processor: nn.Module,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.feature_channels = feature_channels
        self.loss = loss
        self.post_processor = post_processor

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> BranchHead:
        """The head as configured.

        Args:
            in_channels: channels of the feature levels, or of the box head's features where its extractor is shared.
        """
        shared = cfg.MODEL[f"ROI_{cls.NAME.upper()}_HEAD"].SHARE_BOX_FEATURE_EXTRACTOR
        extractor = None if shared else cls.PARTS.feature_extractor(cfg, in_channels)
        channels = in_channels if extractor is None else extractor.out_channels
        frozen = cfg.MODEL.REFINE_ON and cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
        return cls(
            extractor,
            cls.PARTS.predictor(cfg, channels),
            feature_channels=channels,
            loss=None if frozen else cls.PARTS.loss(cfg),
            post_processor=cls.PARTS.post_processor(cfg),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        box_features: Tensor | None = None,
    ) -> BranchOutput:
        """
        Args:
            features: L maps (N, in_channels, H_l, W_l).
            rois: the positives to train on; or detections with `labels`, one BoxList per image, to complete.
            targets: ground truth with what the branch learns, one BoxList per image; training alone.
            box_features: (R, C, s, s) of the same RoIs; read only where the box head's extractor is shared.
        Raises: ValueError when the features of a shared extractor, or the targets, are not given.
        """
        if self.feature_extractor is None:
            if box_features is None:
                raise ValueError(
                    f"MODEL.ROI_{self.NAME.upper()}_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is on, so the {self.NAME} head "
                    "needs `box_features`"
                )
            x = box_features
        else:
            boxes = rois.rois if isinstance(rois, SampledProposals) else rois_from_boxlists(rois)
            x = self.feature_extractor(features, boxes)
        logits = self.predictor(x)
        if not isinstance(rois, SampledProposals):
            return BranchOutput(logits, x, detections=self.post_processor(logits, rois))
        if self.loss is None:
            return BranchOutput(logits, x)
        if targets is None:
            raise ValueError(f"in training the {self.NAME} head needs `targets`, one BoxList per image")
        return BranchOutput(logits, x, losses={self.LOSS_NAME: self.loss(logits, rois, targets)})

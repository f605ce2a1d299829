"""Wiring of the box branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.box_head.inference import PostProcessor, make_roi_box_post_processor
from maskrcnn_benchmark.modeling.roi_heads.box_head.loss import fast_rcnn_loss
from maskrcnn_benchmark.modeling.roi_heads.box_head.roi_box_feature_extractors import make_roi_box_feature_extractor
from maskrcnn_benchmark.modeling.roi_heads.box_head.roi_box_predictors import make_roi_box_predictor
from maskrcnn_benchmark.modeling.roi_heads.sampling import ProposalSampler, SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class BoxHeadOutput:
    """What the box branch made of R regions: the sampled ones in training, else the proposals of all images."""

    features: Tensor  # (R, C) or (R, C, S, S), what the predictor read
    class_logits: Tensor  # (R, J)
    box_regression: Tensor  # (R, 4 * J) or (R, 8)
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    samples: SampledProposals | None = None  # training
    detections: list[BoxList] = field(default_factory=list)  # inference, with `scores` and `labels`


class BoxHead(nn.Module):
    """Proposals to classes and boxes.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C) or (R, C, S, S).
        predictor: that -> class logits (R, J) and deltas.
        sampler: which proposals to train on.
        post_processor: logits, deltas and proposals -> detections.
        class_agnostic: all classes share one set of deltas, the second of two.
        learns: make losses; not so where the detector is frozen.
    """

    def __init__(
        self,
        feature_extractor: nn.Module,
        predictor: nn.Module,
        *,
        sampler: ProposalSampler,
        post_processor: PostProcessor,
        class_agnostic: bool = False,
        learns: bool = True,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.sampler = sampler
        self.post_processor = post_processor
        self.class_agnostic = class_agnostic
        self.learns = learns

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> BoxHead:
        extractor: Any = make_roi_box_feature_extractor(cfg, in_channels)
        return cls(
            extractor,
            make_roi_box_predictor(cfg, extractor.out_channels),
            sampler=ProposalSampler.from_cfg(cfg),
            post_processor=make_roi_box_post_processor(cfg),
            class_agnostic=cfg.MODEL.CLS_AGNOSTIC_BBOX_REG,
            learns=not (cfg.MODEL.REFINE_ON and cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR),
        )

    def forward(
        self, features: Sequence[Tensor], proposals: Sequence[BoxList], targets: Sequence[BoxList] | None = None
    ) -> BoxHeadOutput:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            proposals: N BoxLists.
            targets: N BoxLists of ground truth with `labels`; read in training alone.
        Raises: ValueError in training without targets.
        """
        if not self.training:
            x = self.feature_extractor(features, rois_from_boxlists(proposals))
            class_logits, box_regression = self.predictor(x)
            detections = self.post_processor(class_logits, box_regression, proposals)
            return BoxHeadOutput(x, class_logits, box_regression, detections=detections)
        if targets is None:
            raise ValueError("in training the box head needs `targets`, one BoxList per image")
        samples = self.sampler(proposals, targets)
        x = self.feature_extractor(features, samples.rois)
        class_logits, box_regression = self.predictor(x)
        losses = {}
        if self.learns:
            loss_classifier, loss_box_reg = fast_rcnn_loss(
                class_logits, box_regression, samples, class_agnostic=self.class_agnostic
            )
            losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        return BoxHeadOutput(x, class_logits, box_regression, losses=losses, samples=samples)


def build_roi_box_head(cfg: CfgNode, in_channels: int) -> BoxHead:
    """The box head as configured, for feature levels of `in_channels`."""
    return BoxHead.from_cfg(cfg, in_channels)

"""Box head: extractor, predictor, loss and post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.box_head import (  # noqa: F401  (they register themselves)
    roi_box_feature_extractors,
    roi_box_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.box_head.inference import PostProcessor
from maskrcnn_benchmark.modeling.roi_heads.box_head.loss import fast_rcnn_loss
from maskrcnn_benchmark.modeling.roi_heads.sampling import ProposalSampler, SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class BoxHeadOutput:
    """Result of the box head for R RoIs: the sampled ones in training, else the proposals of all images."""

    features: Tensor  # (R, C) or (R, C, S, S), input of the predictor
    class_logits: Tensor  # (R, J)
    box_regression: Tensor  # (R, 4 * J) or (R, 8)
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    samples: SampledProposals | None = None  # training
    detections: list[BoxList] = field(default_factory=list)  # inference, with `scores` and `labels`


class BoxHead(nn.Module):
    """Proposals to classes and boxes.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C) or (R, C, S, S).
        predictor: features -> class logits (R, J) and deltas.
        sampler: chooses the proposals to train on.
        post_processor: logits, deltas and proposals -> detections.
        class_agnostic: all classes share one set of deltas, the second of two.
        beta: see `fast_rcnn_loss`.
        learns: compute losses; False if the detector is frozen.
    """

    def __init__(
        self,
        feature_extractor: nn.Module,
        predictor: nn.Module,
        *,
        sampler: ProposalSampler,
        post_processor: PostProcessor,
        class_agnostic: bool = False,
        beta: float = 1.0,
        learns: bool = True,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.sampler = sampler
        self.post_processor = post_processor
        self.class_agnostic = class_agnostic
        self.beta = beta
        self.learns = learns

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, *, learns: bool = True) -> BoxHead:
        node = cfg.MODEL.ROI_BOX_HEAD
        check_choice(
            "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", node.FEATURE_EXTRACTOR, registry.ROI_BOX_FEATURE_EXTRACTORS
        )
        check_choice("MODEL.ROI_BOX_HEAD.PREDICTOR", node.PREDICTOR, registry.ROI_BOX_PREDICTOR)
        check_range("MODEL.ROI_BOX_HEAD.NUM_CLASSES", node.NUM_CLASSES, 2)
        check_range("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", node.SMOOTH_L1_BETA, 0)
        sampler, post_processor = ProposalSampler.from_cfg(cfg), PostProcessor.from_cfg(cfg)
        extractor: Any = registry.ROI_BOX_FEATURE_EXTRACTORS[node.FEATURE_EXTRACTOR](cfg, in_channels)
        return cls(
            extractor,
            registry.ROI_BOX_PREDICTOR[node.PREDICTOR](cfg, extractor.out_channels),
            sampler=sampler,
            post_processor=post_processor,
            class_agnostic=cfg.MODEL.CLS_AGNOSTIC_BBOX_REG,
            beta=node.SMOOTH_L1_BETA,
            learns=learns,
        )

    def forward(
        self, features: Sequence[Tensor], proposals: Sequence[BoxList], targets: Sequence[BoxList] | None = None
    ) -> BoxHeadOutput:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            proposals: N BoxLists.
            targets: N BoxLists of ground truth with `labels`; training only.
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
                class_logits, box_regression, samples, class_agnostic=self.class_agnostic, beta=self.beta
            )
            losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        return BoxHeadOutput(x, class_logits, box_regression, losses=losses, samples=samples)

    def find_candidates(self, features: Sequence[Tensor], proposals: Sequence[BoxList]) -> ClassCandidates:
        """Inference up to non-maximum suppression; `post_processor.select` is the rest."""
        class_logits, box_regression = self.predictor(self.feature_extractor(features, rois_from_boxlists(proposals)))
        return self.post_processor.find_candidates(class_logits, box_regression, proposals)

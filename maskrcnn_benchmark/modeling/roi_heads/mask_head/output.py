"""Masks as a kind of output: the logits of a class to a target, a loss and a field of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import HALF_OPEN, box_extents
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import MaskPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import (
    mask_loss,
    matched_mask_targets,
    matched_presence,
    outline_weights,
    select_class,
)
from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import COARSE_MASK, COARSE_MASK_SCORES, MASK, MASK_SCORES, MASKS
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Outside the coarse mask: about 5 %, the share of the ring around a RoI that belongs to the object. This is background,
# but close enough to zero that a correction can turn it.
OUTSIDE_LOGIT = -3.0


class MaskTargets(NamedTuple):
    """Ground truth drawn into frames."""

    drawn: Tensor  # (R, S, S) of 0 and 1; in [0, 1] if soft
    weights: Tensor | None  # (R, S, S), of the cells in the mean; None for equal weights
    present: Tensor | None = None  # (R,) bool, RoIs whose instance has a mask; None if all have one


@dataclass(eq=False)
class MaskKind(MapKind[MaskTargets]):
    """A mask per class. Each RoI uses the mask of its class.

    Args:
        num_maps: J, the classes with the background.
        offset: box convention.
        resolution: cells per side that the predictor has to yield; None does not check.
        loss_name, loss_weight: key and factor of the loss.
        soft_targets: targets are means over cells, else 0 or 1.
        outline_weight: how much more a cell near the outline weighs than other cells; None for equal weights.
        post_processor: writes masks to detections.
    """

    name = "mask"
    task = "segm"
    target_field = MASKS
    flip_test = "FLIP_MASKS"
    num_own_maps = 1
    refined_fields = ((MASK, COARSE_MASK), (MASK_SCORES, COARSE_MASK_SCORES))

    num_maps: int
    _: KW_ONLY
    offset: int
    resolution: int | None = None
    loss_name: str = "loss_mask"
    loss_weight: float = 1.0
    soft_targets: bool = False
    outline_weight: float | None = None
    post_processor: MaskPostProcessor = field(default_factory=MaskPostProcessor)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> MaskKind:
        node = cfg.MODEL.ROI_MASK_HEAD
        check_choice("MODEL.ROI_MASK_HEAD.TARGET", node.TARGET, ("binary", "soft"))
        return cls(
            cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES,
            offset=cfg.MODEL.BOX_OFFSET,
            resolution=node.RESOLUTION,
            loss_weight=node.LOSS_WEIGHT,
            soft_targets=node.TARGET == "soft",
            post_processor=MaskPostProcessor.from_cfg(cfg),
        )

    def refined(self, cfg: CfgNode) -> MaskKind:
        node = cfg.MODEL.ROI_REFINE_HEAD
        check_range("MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT", node.OUTLINE_WEIGHT, 0)
        return MaskKind(
            self.num_maps,
            offset=self.offset,
            loss_name="loss_refine_mask",
            loss_weight=node.LOSS_WEIGHT_MASK,
            outline_weight=node.OUTLINE_WEIGHT,
            post_processor=MaskPostProcessor(self.post_processor.masker, node.RESCORE),
        )

    def select_own(self, logits: Tensor, labels: Tensor) -> Tensor:
        return select_class(logits, labels)

    def frames(self, boxes: Tensor) -> Tensor:
        return box_extents(boxes, self.offset)

    def target_frames(self, boxes: Tensor) -> Tensor:
        """(R, 4) boxes -> (R, 4) what the targets of the coarse head span.

        An inclusive box is cut from corner to corner, at least a pixel wide, as upstream does, although it covers a
        pixel more; a half-open one as it is.
        """
        if self.offset == HALF_OPEN:
            return self.frames(boxes)
        return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def averaged_values(self, logits: Tensor) -> Tensor:
        return self.probabilities(logits.float())

    def logits_of_average(self, values: Tensor) -> Tensor:
        return values.logit(torch.finfo(values.dtype).eps)  # finite, also for a probability of 0 or 1

    def mirror(self, logits: Tensor) -> Tensor:
        return logits.flip(-1)

    def outside_logit(self, logits: Tensor) -> float:
        return OUTSIDE_LOGIT

    def loss(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """As `OutputKind.loss`.

        Raises: ValueError if the logits' resolution is not the configured one.
        """
        self.check_resolution(logits)
        host_frames = self.target_frames(positives.on_host().boxes)
        matched = self.match_targets(positives, targets, host_frames, logits.shape[-1])
        return self.frame_loss(logits, matched, positives.boxes)

    def match_targets(
        self, positives: SampledProposals, targets: Sequence[BoxList], host_frames: Tensor, size: int
    ) -> MaskTargets:
        drawn = matched_mask_targets(positives, targets, host_frames, size, self.soft_targets)
        weights = None if self.outline_weight is None else outline_weights(drawn, self.outline_weight)
        return MaskTargets(drawn, weights, matched_presence(positives, targets))

    def frame_loss(self, logits: Tensor, matched: MaskTargets, frames: Tensor) -> Tensor:
        return self.loss_weight * mask_loss(logits, matched.drawn, matched.weights, matched.present)

    def attach(self, logits: Tensor, detections: Sequence[BoxList], frames: Tensor | None = None) -> list[BoxList]:
        results: list[BoxList] = self.post_processor(logits, detections, frames)
        return results

"""Targets and losses of the refine head: as the coarse branches', over the enlarged region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import keypoint_loss, matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import mask_loss, matched_mask_targets
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_predictors import KEYPOINT, MASK
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


class RefineLossComputation:
    """Losses of every output, behind the last stack and, where they are supervised, those before it.

    A mask that continues beyond the coarse RoI continues in its target, and a keypoint outside the coarse RoI but
    inside the enlarged one has a target. A RoI without such a keypoint trains the mask alone.

    Args:
        weights: output ("mask", "keypoint") -> factor of its losses.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def __call__(
        self,
        logits: Sequence[Mapping[str, Tensor]],
        extents: Tensor,
        positives: SampledProposals,
        targets: Sequence[BoxList],
    ) -> dict[str, Tensor]:
        """
        Args:
            logits: per supervised stack, the last one last: output -> (R, 1, S, S) of the labelled class, or
                (R, K, S, S).
            extents: (R, 4) half-open rectangles in pixels that the maps span.
        Returns: "loss_refine_mask" and "loss_refine_kp", as far as they are outputs; those of stacks before the last
            end in "_stack1" and on.
        """
        last = logits[-1]
        suffixes = [f"_stack{number}" for number in range(1, len(logits))] + [""]
        losses = {}
        if MASK in last:
            drawn = matched_mask_targets(positives, targets, extents, last[MASK].shape[-1])
            for suffix, of_stack in zip(suffixes, logits, strict=True):
                losses["loss_refine_mask" + suffix] = self.weights[MASK] * mask_loss(of_stack[MASK], drawn)
        if KEYPOINT in last:
            keypoints = matched_keypoints(positives, targets)
            for suffix, of_stack in zip(suffixes, logits, strict=True):
                loss = keypoint_loss(of_stack[KEYPOINT], keypoints, extents)
                losses["loss_refine_kp" + suffix] = self.weights[KEYPOINT] * loss
        return losses


def make_roi_refine_loss_evaluator(cfg: CfgNode) -> RefineLossComputation:
    """The losses as configured under `MODEL.ROI_REFINE_HEAD`."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    return RefineLossComputation({MASK: node.LOSS_WEIGHT_MASK, KEYPOINT: node.LOSS_WEIGHT_KEYPOINT})

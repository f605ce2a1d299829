"""Targets and losses of the refine head: as the coarse branches', over the enlarged region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import keypoint_loss, matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import mask_loss, matched_mask_targets
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_predictors import KEYPOINT, MASK
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


_BAND = 2  # cells on both sides of an outline that count as near it


def outline_weights(targets: Tensor, weight: float) -> Tensor:
    """1 + `weight` for the cells near a mask's outline, 1 for the others: (R, S, S) of 0 and 1 -> (R, S, S).

    Near it is where the square of five cells about a cell holds both values.
    """
    masks, side = targets[:, None], 2 * _BAND + 1
    grown, grown_outside = (F.max_pool2d(of, side, stride=1, padding=_BAND) for of in (masks, 1 - masks))
    return (1 + weight * (grown + grown_outside - 1))[:, 0]


class RefineLossComputation:
    """Losses of every output, behind the last stack and, where they are supervised, those before it.

    A mask that continues beyond the coarse RoI continues in its target, and a keypoint outside the coarse RoI but
    inside the enlarged one has a target. A RoI without such a keypoint trains the mask alone.

    Args:
        weights: output ("mask", "keypoint") -> factor of its losses.
        outline_weight: how much more a cell near a mask's outline weighs than another. Most cells are far from it and
            soon right; what is left to refine is there.
    """

    def __init__(self, weights: Mapping[str, float], outline_weight: float = 0.0) -> None:
        self.weights = dict(weights)
        self.outline_weight = outline_weight

    def __call__(
        self,
        logits: Sequence[Mapping[str, Tensor]],
        extents: Tensor,
        positives: SampledProposals,
        targets: Sequence[BoxList],
        host_extents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            logits: per supervised stack, the last one last: output -> (R, 1, S, S) of the labelled class, or
                (R, K, S, S).
            extents: (R, 4) half-open rectangles in pixels that the maps span.
            host_extents: the same on the CPU, where masks are drawn; None fetches them.
        Returns: "loss_refine_mask" and "loss_refine_kp", as far as they are outputs; those of stacks before the last
            end in "_stack1" and on.
        """
        last = logits[-1]
        suffixes = [f"_stack{number}" for number in range(1, len(logits))] + [""]
        losses = {}
        if MASK in last:
            frames = extents if host_extents is None else host_extents
            drawn = matched_mask_targets(positives, targets, frames, last[MASK].shape[-1])
            of_cells = outline_weights(drawn, self.outline_weight)
            for suffix, of_stack in zip(suffixes, logits, strict=True):
                losses["loss_refine_mask" + suffix] = self.weights[MASK] * mask_loss(of_stack[MASK], drawn, of_cells)
        if KEYPOINT in last:
            keypoints = matched_keypoints(positives, targets)
            for suffix, of_stack in zip(suffixes, logits, strict=True):
                loss = keypoint_loss(of_stack[KEYPOINT], keypoints, extents)
                losses["loss_refine_kp" + suffix] = self.weights[KEYPOINT] * loss
        return losses


def make_roi_refine_loss_evaluator(cfg: CfgNode) -> RefineLossComputation:
    """The losses as configured under `MODEL.ROI_REFINE_HEAD`."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    weights = {MASK: node.LOSS_WEIGHT_MASK, KEYPOINT: node.LOSS_WEIGHT_KEYPOINT}
    return RefineLossComputation(weights, node.OUTLINE_WEIGHT)

"""Targets and loss of the mask branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.boxes import box_extents
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import MASKS

if TYPE_CHECKING:
    from yacs.config import CfgNode


def select_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The map of each RoI's own class: (R, J, M, M) by labels (R,) -> (R, 1, M, M)."""
    index = labels.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[-2:])
    return logits.gather(1, index)


def matched_mask_targets(
    positives: SampledProposals, targets: Sequence[BoxList], extents: Tensor, resolution: int
) -> Tensor:
    """Ground truth of each RoI's own instance, cut to a frame and drawn on a grid.

    Args:
        positives: R sampled RoIs that matched an instance.
        targets: one per image, with the field `masks`.
        extents: (R, 4) half-open frames in pixels, one per RoI; they may reach beyond the RoI. Best on the host: masks
            live there, and the host draws while a GPU works on the heads.
        resolution: M, cells per side.
    Returns: (R, M, M) of 0 and 1, float32, on the device of positives.
    """
    image_ids, matched_idxs, _ = positives.on_host()
    frames, device = extents.detach().double().cpu(), positives.boxes.device
    # from other memory than page-locked one a copy of this size waits for what the GPU is at
    drawn = torch.zeros((len(frames), resolution, resolution), pin_memory=device.type == "cuda")
    for image_id, target in enumerate(targets):
        rows = (image_ids == image_id).nonzero().flatten()
        if len(rows):
            drawn[rows] = target.get_field(MASKS).rasterize(frames[rows], resolution, matched_idxs[rows])
    return drawn.to(device, non_blocking=True)


def mask_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, mean over RoIs and cells.

    Args:
        logits: (R, 1, M, M), of each RoI's labelled class.
        targets: (R, M, M) in [0, 1].
        weights: (R, M, M), of the cells in the mean; None for equal ones.
    Returns: scalar float32; for R = 0 a zero that is attached to the graph.
    """
    total = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), targets, weights, reduction="sum")
    return total / (max(targets.numel(), 1) if weights is None else weights.sum().clamp(min=1))


class MaskRCNNLossComputation:
    """Loss of the coarse mask branch: the RoI's box frames the target.

    Args:
        resolution: cells per side that the predictor must yield, `MODEL.ROI_MASK_HEAD.RESOLUTION`.
        offset: box convention.
        weight: factor of the loss.
    """

    def __init__(self, resolution: int, *, offset: int, weight: float = 1.0) -> None:
        self.resolution = resolution
        self.offset = offset
        self.weight = weight

    def __call__(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """(R, J, M, M) logits of R positives -> scalar.

        Raises: ValueError when the logits' resolution is not the configured one.
        """
        if logits.shape[-1] != self.resolution:
            raise ValueError(
                f"the mask predictor yields {logits.shape[-1]} cells per side, MODEL.ROI_MASK_HEAD.RESOLUTION is "
                f"{self.resolution}; set it to {logits.shape[-1]} or change MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"
            )
        extents = box_extents(positives.on_host().boxes, self.offset)
        drawn = matched_mask_targets(positives, targets, extents, self.resolution)
        return self.weight * mask_loss(select_class(logits, positives.labels), drawn)


def make_roi_mask_loss_evaluator(cfg: CfgNode) -> MaskRCNNLossComputation:
    """The loss as configured under `MODEL.ROI_MASK_HEAD`."""
    node = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNLossComputation(node.RESOLUTION, offset=cfg.MODEL.BOX_OFFSET, weight=node.LOSS_WEIGHT)

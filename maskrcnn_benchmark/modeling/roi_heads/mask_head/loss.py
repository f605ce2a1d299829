"""Targets and loss of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import MASKS, MASKS_PRESENT
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

_BAND = 2  # cells on both sides of an outline that count as near it


def select_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The map of each RoI's own class: (R, J, M, M) by labels (R,) -> (R, 1, M, M)."""
    index = labels.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[-2:])
    return logits.gather(1, index)


def matched_mask_targets(
    positives: SampledProposals,
    targets: Sequence[BoxList],
    extents: Tensor,
    resolution: int,
    soft: bool = False,
    truth: str = MASKS,
) -> Tensor:
    """As `matched_targets_of_masks`, of one field: (R, M, M)."""
    return matched_targets_of_masks(positives, targets, extents, resolution, (truth,), soft)[:, 0]


def matched_targets_of_masks(
    positives: SampledProposals,
    targets: Sequence[BoxList],
    extents: Tensor,
    resolution: int,
    truths: Sequence[str],
    soft: bool = False,
) -> Tensor:
    """Ground truth of each RoI's own instance, cut to a frame and drawn on a grid; all masks of an image in one call.

    Args:
        positives: R sampled RoIs that matched an instance.
        targets: one per image, with the fields `truths`.
        extents: (R, 4) half-open frames in pixels, one per RoI; they may reach beyond the RoI. Pass them on the CPU:
            masks are drawn there, while a GPU computes the heads.
        resolution: M, cells per side.
        truths: T fields with masks; an instance without such a mask has an empty one.
        soft: means over the cells instead of 0 and 1.
    Returns: (R, T, M, M) in [0, 1], float32, on the device of positives.
    """
    image_ids, matched_idxs, _ = positives.on_host()
    frames, device = extents.detach().double().cpu(), positives.boxes.device
    # pinned memory, since other copies of this size wait for the GPU
    shape = (len(frames), len(truths), resolution, resolution)
    drawn = torch.zeros(shape, pin_memory=device.type == "cuda")
    for image_id, target in enumerate(targets):
        rows = (image_ids == image_id).nonzero().flatten()
        if len(rows):
            masks = SegmentationMask.cat([target.get_field(truth) for truth in truths])
            instances = matched_idxs[rows, None] + len(target) * torch.arange(len(truths))
            regions = frames[rows].repeat_interleave(len(truths), dim=0)
            draw = masks.average if soft else masks.rasterize
            drawn[rows] = draw(regions, resolution, instances.flatten()).view(-1, *shape[1:])
    return drawn.to(device, non_blocking=True)


def matched_presence(
    positives: SampledProposals, targets: Sequence[BoxList], field: str = MASKS_PRESENT
) -> Tensor | None:
    """Which RoIs matched an instance that has a mask.

    Args:
        targets: one per image; all masks of a target without this field are present.
        field: `present` of the mask's `MaskFields`.
    Returns: (R,) bool, on the device of positives; None if no target has the field.
    """
    if not any(target.has_field(field) for target in targets):
        return None
    return positives.matched(
        [
            target.get_field(field)
            if target.has_field(field)
            else torch.ones(len(target), dtype=torch.bool, device=target.bbox.device)
            for target in targets
        ]
    )


def mask_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, mean over cells and over the RoIs that have a mask.

    Args:
        logits: (R, 1, M, M), of each RoI's labelled class.
        targets: (R, M, M) in [0, 1].
        weights: (R, M, M), weights of the cells in the mean; None for equal weights.
        present: (R,) bool, RoIs that have a mask; None if all have one.
    Returns: scalar float32; zero and attached to the graph if no RoI has a mask.
    """
    cells = weights
    if present is not None:
        rows = present[:, None, None].to(targets.dtype)
        cells = rows if weights is None else weights * rows
    total = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), targets, cells, reduction="sum")
    if weights is not None:
        assert cells is not None
        return total / cells.sum().clamp(min=1)
    mean = total / max(targets.numel(), 1)
    if present is None:
        return mean
    count = present.sum()
    return mean * (torch.full_like(count, len(present)) / count.clamp(min=1))  # exactly 1 if all are present


def outline_weights(targets: Tensor, weight: float) -> Tensor:
    """1 + `weight` for the cells near a mask's outline, 1 for the others: (R, S, S) of 0 and 1 -> (R, S, S).

    A cell is near the outline if the square of five cells around it holds both values.
    """
    masks, side = targets[:, None], 2 * _BAND + 1
    grown, grown_outside = (F.max_pool2d(of, side, stride=1, padding=_BAND) for of in (masks, 1 - masks))
    return (1 + weight * (grown + grown_outside - 1))[:, 0]

"""Select the best boxes: NMS and top-n per group, for all groups of a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.nms import batched_nms, nms_padded


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, offset: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression within each group.

    Args:
        boxes: (R, 4) xyxy.
        scores: (R,); an entry whose score is not finite is dropped.
        groups: (R,) int64.
        threshold: IoU above which the box with the lower score is dropped; <= 0 keeps every box, as upstream.
        offset: box convention.
    Returns: (K,) int64 indices, best score first, equal scores in the order of their indices; and (K,) bool, False for
        padding. On a GPU K is R, which avoids a synchronisation; on a CPU there is no padding.
    """
    if threshold <= 0:
        order = torch.where(scores.isfinite(), scores, -torch.inf).argsort(descending=True, stable=True)
        return order, scores[order].isfinite()
    if boxes.device.type == "cpu":
        best = batched_nms(boxes, scores, groups, threshold, offset)
        return best, torch.ones_like(best, dtype=torch.bool)
    best = nms_padded(boxes, scores, threshold, len(boxes), groups, offset)
    return best.clamp(min=0), best >= 0


def first_of_groups(groups: Tensor, num_groups: int, count: int, keep: Tensor) -> Tensor:
    """Keep only the first `count` rows of each group: `keep` (R,) bool -> (R,) bool."""
    if num_groups == 1:
        return keep & (keep.cumsum(0) <= count)
    owner = torch.where(keep, groups, num_groups)  # dropped rows get a group of their own, the last
    return keep & (rank_in_group(owner, num_groups + 1) < count)


def rank_in_group(groups: Tensor, num_groups: int) -> Tensor:
    """Number of earlier entries of the same group, for each entry.

    Args:
        groups: (R,) int64 in [0, num_groups).
    Returns: (R,) int64, 0 for the first of its group.
    """
    order = groups.argsort(stable=True)
    in_order = groups[order]
    starts = torch.searchsorted(in_order, torch.arange(num_groups, device=groups.device))
    positions = torch.arange(len(groups), device=groups.device) - starts[in_order]
    return torch.empty_like(groups).scatter_(0, order, positions)


def split_rows(keep: Tensor, image_ids: Tensor, num_images: int) -> list[Tensor]:
    """Indices of the rows to keep, for each image, in their order.

    Args:
        keep: (R,) bool.
        image_ids: (R,) int64.
    Returns: N index tensors. Synchronises once, to copy N numbers to the host.
    """
    if num_images == 1:
        return [keep.nonzero().squeeze(1)]
    owner = torch.where(keep, image_ids, num_images)  # dropped rows get an image of their own, the last
    order = owner.argsort(stable=True)
    counts = torch.zeros(num_images + 1, dtype=torch.int64, device=keep.device)
    counts.scatter_add_(0, owner, torch.ones_like(owner))
    return list(order.split(counts.tolist()))[:num_images]

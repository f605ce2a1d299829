"""Select the best boxes: NMS and top-n per group, for all groups of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.layers.nms import batched_nms, nms_padded
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES


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


def best_detections(
    candidates: ClassCandidates,
    sizes: Sequence[tuple[float, float]],
    *,
    nms_thresh: float,
    detections_per_img: int,
    offset: int,
    by_class: bool = False,
) -> list[BoxList]:
    """Suppress candidates within their image and class, and keep the best of each image.

    Args:
        candidates: pairs of region and class; those whose score is not finite are dropped.
        sizes: (width, height) of each of the N images.
        nms_thresh: IoU above which the lower of two detections of one class is dropped; <= 0 drops none.
        detections_per_img: largest number per image, over all classes; <= 0 for no limit.
        offset: box convention.
        by_class: order as upstream: class by class, and in a class as the candidates. Detections with the score of the
            last one are then kept too, so there may be more than `detections_per_img`.
    Returns: N BoxLists with `scores` and `labels`, best first unless `by_class`.
    """
    boxes, scores, labels, image_ids = candidates
    num_images = len(sizes)
    best, keep = suppress(boxes, scores, labels * num_images + image_ids, nms_thresh, offset)
    boxes, scores, labels, image_ids = boxes[best], scores[best], labels[best], image_ids[best]
    if detections_per_img > 0:
        first = first_of_groups(image_ids, num_images, detections_per_img, keep)
        keep = keep & (scores >= _lowest_scores(scores, image_ids, num_images, first)) if by_class else first
    if by_class:
        order = (labels * len(candidates.boxes) + best).argsort()
        boxes, scores, labels, image_ids, keep = (rows[order] for rows in (boxes, scores, labels, image_ids, keep))
    results = []
    for rows, size in zip(split_rows(keep, image_ids, num_images), sizes, strict=True):
        detections = BoxList(boxes[rows], size, offset=offset)
        detections.add_field(SCORES, scores[rows])
        detections.add_field(LABELS, labels[rows])
        results.append(detections)
    return results


def _lowest_scores(scores: Tensor, image_ids: Tensor, num_images: int, keep: Tensor) -> Tensor:
    """The lowest score among the kept rows of each row's image: (R,), infinite in images without kept rows."""
    lowest = scores.new_full((num_images,), torch.inf)
    lowest.scatter_reduce_(0, image_ids, torch.where(keep, scores, torch.inf), "amin")
    return lowest[image_ids]


def first_of_groups(groups: Tensor, num_groups: int, count: int, keep: Tensor) -> Tensor:
    """Keep only the first `count` rows of each group: `keep` (R,) bool -> (R,) bool."""
    if num_groups == 1:
        return keep & (keep.cumsum(0) <= count)
    owner = torch.where(keep, groups, num_groups)  # dropped rows get a separate group, the last
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
    owner = torch.where(keep, image_ids, num_images)  # dropped rows get a separate image, the last
    order = owner.argsort(stable=True)
    counts = torch.zeros(num_images + 1, dtype=torch.int64, device=keep.device)
    counts.scatter_add_(0, owner, torch.ones_like(owner))
    return list(order.split(counts.tolist()))[:num_images]

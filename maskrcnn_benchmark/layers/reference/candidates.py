"""Candidates for non-maximum suppression, selected and decoded with PyTorch's ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_sizes, clip_boxes, decode_boxes


def rpn_candidates(
    anchors: Sequence[Tensor],
    objectness: Sequence[Tensor],
    box_regression: Sequence[Tensor],
    sizes: Tensor,
    most: int,
    weights: Sequence[float],
    clamp: float,
    min_size: float,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor]:
    logits, deltas, references, levels = [], [], [], []
    for level, (anchors_l, objectness_l, regression_l) in enumerate(
        zip(anchors, objectness, box_regression, strict=True)
    ):
        num_images, num_anchors, _, width = objectness_l.shape
        flat = objectness_l.permute(0, 2, 3, 1).flatten(1).float()  # in the order of the anchors
        best, idxs = flat.topk(min(most, flat.shape[1]), dim=1)
        cells, anchor_idxs = idxs // num_anchors, idxs % num_anchors
        image_ids = torch.arange(num_images, device=flat.device)[:, None]
        # gather the selected deltas in place: reordering the whole map would copy all of it
        per_anchor = regression_l.unflatten(1, (num_anchors, 4))  # (N, A, 4, H, W)
        deltas.append(per_anchor[image_ids, anchor_idxs, :, cells // width, cells % width].float())
        logits.append(best)
        references.append(anchors_l[idxs].float())
        levels.append(torch.full_like(idxs, level))
    boxes = decode_boxes(torch.cat(deltas, dim=1), torch.cat(references, dim=1), weights, offset, clamp)
    boxes = clip_boxes(boxes, sizes[:, None], offset)
    widths, heights = box_sizes(boxes, offset)
    large = (widths >= min_size) & (heights >= min_size) & (widths > 0) & (heights > 0)
    first_group = torch.arange(len(sizes), device=boxes.device)[:, None] * len(anchors)
    return torch.where(large, torch.cat(logits, dim=1), torch.nan), boxes, first_group + torch.cat(levels, dim=1)


def class_candidates(
    scores: Tensor,
    box_regression: Tensor,
    references: Tensor,
    images: Tensor,
    sizes: Tensor,
    threshold: float,
    weights: Sequence[float],
    clamp: float,
    offset: int,
    class_agnostic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, labels = classes_above(scores, threshold)
    image_ids = images[rows]
    # decode the candidates only: with many classes they are few
    sets = labels.clamp(max=1) if class_agnostic else labels
    deltas = box_regression.unflatten(1, (-1, 4))[rows, sets].float()
    boxes = decode_boxes(deltas, references[rows].float(), weights, offset, clamp)
    boxes = clip_boxes(boxes, sizes[image_ids], offset)
    widths, heights = box_sizes(boxes, offset)
    kept_scores = torch.where((widths > 0) & (heights > 0), scores[rows, labels].float(), torch.nan)
    return boxes, kept_scores, labels, image_ids


def classes_above(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(R, J) probabilities -> rows (K,) and labels (K,) of those above the threshold, without the background's."""
    rows, classes = (scores[:, 1:] > threshold).nonzero(as_tuple=True)
    return rows, classes + 1

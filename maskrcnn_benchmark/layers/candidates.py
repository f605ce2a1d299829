"""What goes into non-maximum suppression: the best anchors of an RPN, the classes that a box head believes in.

On a CPU a compiled kernel goes through the maps once and reads of the deltas only those that are wanted; elsewhere, and
where it is not built, PyTorch's ops do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _extension
from maskrcnn_benchmark.layers.boxes import DELTA_CLAMP, box_sizes, clip_boxes, decode_boxes

_READABLE = (torch.float32, torch.float16, torch.bfloat16)


class RPNCandidates(NamedTuple):
    """The best anchors of every level, decoded, clipped: K of each of N images, level by level, best first."""

    logits: Tensor  # (N, K) float32; NaN where a side of the box is below the least
    boxes: Tensor  # (N, K, 4) xyxy, float32
    groups: Tensor  # (N, K) int64: index of the image times the number of levels, plus the level


class ClassCandidates(NamedTuple):
    """Regions with a class each, decoded, clipped; a region may be there several times."""

    boxes: Tensor  # (K, 4) xyxy, float32
    scores: Tensor  # (K,) float32; NaN where the box covers nothing
    labels: Tensor  # (K,) int64, 1 or more
    image_ids: Tensor  # (K,) int64


def rpn_candidates(
    anchors: Sequence[Tensor],
    objectness: Sequence[Tensor],
    box_regression: Sequence[Tensor],
    sizes_wh: Tensor,
    top_n: int,
    *,
    weights: Sequence[float],
    offset: int,
    min_size: float,
    clamp: float = DELTA_CLAMP,
) -> RPNCandidates:
    """Of each level and image the `top_n` anchors of the largest logits, and the boxes that their deltas make.

    Args:
        anchors: per level (H_l * W_l * A, 4) xyxy, the anchors of a cell together.
        objectness: per level (N, A, H_l, W_l) logits; NaN counts as larger than any number.
        box_regression: per level (N, A * 4, H_l, W_l), the deltas of an anchor together.
        sizes_wh: (N, 2) width and height of each image, in pixels.
        top_n: at most so many per level and image.
        weights, clamp: as in `decode_boxes`.
        offset: box convention.
        min_size: a box with a side below this, in pixels, or without extent, gets NaN for its logit.
    Of equal logits on a CPU the earlier one in the order of the map goes first; elsewhere any may.
    Raises: RuntimeError for maps that do not fit each other.
    """
    if sizes_wh.device.type == "cpu" and _extension.has_host_kernels() and _are_readable(*objectness, *box_regression):
        return RPNCandidates(
            *torch.ops.maskrcnn_benchmark.rpn_candidates(
                [anchors_l.detach() for anchors_l in anchors],
                [objectness_l.detach() for objectness_l in objectness],
                [regression_l.detach() for regression_l in box_regression],
                sizes_wh,
                top_n,
                weights,
                clamp,
                min_size,
                offset,
            )
        )
    logits, deltas, references, levels = [], [], [], []
    for level, (anchors_l, objectness_l, regression_l) in enumerate(
        zip(anchors, objectness, box_regression, strict=True)
    ):
        num_images, num_anchors, _, width = objectness_l.shape
        flat = objectness_l.permute(0, 2, 3, 1).flatten(1).float()  # in the order of the anchors
        best, idxs = flat.topk(min(top_n, flat.shape[1]), dim=1)
        cells, anchor_idxs = idxs // num_anchors, idxs % num_anchors
        image_ids = torch.arange(num_images, device=flat.device)[:, None]
        # read where they are: the map is large, and only these few of its deltas are wanted
        per_anchor = regression_l.unflatten(1, (num_anchors, 4))  # (N, A, 4, H, W)
        deltas.append(per_anchor[image_ids, anchor_idxs, :, cells // width, cells % width].float())
        logits.append(best)
        references.append(anchors_l[idxs])
        levels.append(torch.full_like(idxs, level))
    boxes = decode_boxes(torch.cat(deltas, dim=1), torch.cat(references, dim=1), weights, offset, clamp)
    boxes = clip_boxes(boxes, sizes_wh[:, None], offset)
    widths, heights = box_sizes(boxes, offset)
    large = (widths >= min_size) & (heights >= min_size) & (widths > 0) & (heights > 0)
    first_group = torch.arange(len(sizes_wh), device=boxes.device)[:, None] * len(anchors)
    return RPNCandidates(
        torch.where(large, torch.cat(logits, dim=1), torch.nan), boxes, first_group + torch.cat(levels, dim=1)
    )


def class_candidates(
    scores: Tensor,
    box_regression: Tensor,
    references: Tensor,
    image_ids: Tensor,
    sizes_wh: Tensor,
    threshold: float,
    *,
    weights: Sequence[float],
    offset: int,
    class_agnostic: bool = False,
    clamp: float = DELTA_CLAMP,
) -> ClassCandidates:
    """Every class of every region that is more probable than the threshold, and the box that its deltas make.

    Args:
        scores: (R, J) probabilities, float32, the background's first.
        box_regression: (R, 4 * J), or (R, 8) where `class_agnostic`: the second set is that of all classes.
        references: (R, 4) xyxy, the regions.
        image_ids: (R,) int64 into sizes_wh.
        sizes_wh: (N, 2) width and height of each image, in pixels.
        weights, clamp: as in `decode_boxes`.
        offset: box convention.
    Returns: in the order of the regions, and of one region in that of the classes. The host waits for their number.
    Raises: RuntimeError for tensors that do not fit each other.
    """
    if scores.device.type == "cpu" and _extension.has_host_kernels() and _are_readable(box_regression):
        return ClassCandidates(
            *torch.ops.maskrcnn_benchmark.class_candidates(
                scores.detach(),
                box_regression.detach(),
                references.detach(),
                image_ids,
                sizes_wh,
                threshold,
                weights,
                clamp,
                offset,
                class_agnostic,
            )
        )
    rows, labels = classes_above(scores, threshold)
    image_ids = image_ids[rows]
    # only the candidates are decoded: with many classes they are few
    sets = labels.clamp(max=1) if class_agnostic else labels
    deltas = box_regression.unflatten(1, (-1, 4))[rows, sets].float()
    boxes = clip_boxes(decode_boxes(deltas, references[rows], weights, offset, clamp), sizes_wh[image_ids], offset)
    widths, heights = box_sizes(boxes, offset)
    kept_scores = torch.where((widths > 0) & (heights > 0), scores[rows, labels], torch.nan)
    return ClassCandidates(boxes, kept_scores, labels, image_ids)


def classes_above(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(R, J) probabilities -> rows (K,) and labels (K,) of those above the threshold, the background's aside."""
    rows, classes = (scores[:, 1:] > threshold).nonzero(as_tuple=True)
    return rows, classes + 1


def _are_readable(*tensors: Tensor) -> bool:
    return all(tensor.dtype in _READABLE for tensor in tensors)


if _extension.has_host_kernels():

    @torch.library.register_fake("maskrcnn_benchmark::rpn_candidates")
    def _rpn_candidates_fake(
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
        num_images, count = sizes.shape[0], sum(min(most, anchors_l.shape[0]) for anchors_l in anchors)
        logits = sizes.new_empty((num_images, count), dtype=torch.float32)
        return logits, logits.new_empty((num_images, count, 4)), torch.empty_like(logits, dtype=torch.int64)

    @torch.library.register_fake("maskrcnn_benchmark::class_candidates")
    def _class_candidates_fake(
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
        kept = scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)
        labels = torch.empty_like(kept, dtype=torch.int64)
        return kept.new_empty((kept.shape[0], 4)), kept, labels, torch.empty_like(labels)

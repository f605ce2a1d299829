"""Greedy non-maximum suppression: plain, within groups, and with an output of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_benchmark.layers._extension import ops
from maskrcnn_benchmark.layers._tracing import check_one_device, fake_kernel
from maskrcnn_benchmark.layers.boxes import INCLUSIVE


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = INCLUSIVE) -> Tensor:
    """Remove each box that overlaps a kept box of a higher score by more than the threshold.

    Args:
        boxes: (R, 4) xyxy in pixels, of any floating type.
        scores: (R,) of any floating type. Among equal scores the lower index comes first. Boxes with a NaN or infinite
            score are dropped, so -inf masks a box out.
        threshold: intersection over union, at least 0; a box at exactly this overlap is kept, as in torchvision. Boxes
            that share no area never overlap.
        offset: box convention.
    Returns: (K,) int64 indices of the kept boxes from high score to low. Overlaps are decided in double precision.
    Raises: RuntimeError for wrong shapes, types, devices or a negative threshold.
    """
    kept: Tensor = ops.nms(boxes.detach(), scores.detach(), float(threshold), offset)
    return kept


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, offset: int = INCLUSIVE) -> Tensor:
    """`nms` within groups such as images, levels or classes: boxes of different groups do not suppress each other.

    Args:
        groups: (R,) int64, any values.
    Returns: (K,) int64 indices of the kept boxes of all groups from high score to low.
    """
    kept: Tensor = ops.batched_nms(boxes.detach(), scores.detach(), groups, float(threshold), offset)
    return kept


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    max_out: int,
    groups: Tensor | None = None,
    offset: int = INCLUSIVE,
) -> Tensor:
    """Return the first `max_out` indices of `nms`, or of `batched_nms` if groups are given.

    Returns: (max_out,) int64, padded with -1. Does not synchronise with a GPU, and a CUDA graph can capture it.
    """
    kept: Tensor = ops.nms_padded(boxes.detach(), scores.detach(), groups, float(threshold), offset, max_out)
    return kept


@fake_kernel("nms")
def _nms_fake(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> Tensor:
    check_one_device("nms", "boxes", "scores", boxes, scores)
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@fake_kernel("batched_nms")
def _batched_nms_fake(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, offset: int) -> Tensor:
    check_one_device("batched_nms", "boxes", "scores", boxes, scores)
    check_one_device("batched_nms", "boxes", "groups", boxes, groups)
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@fake_kernel("nms_padded")
def _nms_padded_fake(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, offset: int, max_out: int
) -> Tensor:
    check_one_device("nms_padded", "boxes", "scores", boxes, scores)
    if groups is not None:
        check_one_device("nms_padded", "boxes", "groups", boxes, groups)
    return boxes.new_empty(max_out, dtype=torch.int64)

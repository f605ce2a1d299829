"""Greedy non-maximum suppression with torchvision's kernel, one call per group.

Overlaps are decided in double on a CPU, as in the compiled kernels. torchvision's CUDA kernel rounds the threshold to
float32, so there boxes are compared in float32: a box at exactly the threshold is kept, but where an overlap is within
rounding of the threshold the result may differ from that of the compiled kernels. torchvision loads under one version
of PyTorch, the compiled kernels under many. It is therefore imported where it is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_extents
from maskrcnn_benchmark.layers.reference.precision import widened


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> Tensor:
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), threshold, offset)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, offset: int) -> Tensor:
    import torchvision

    _check_nms(boxes, scores, groups, threshold)
    finite = scores.isfinite().nonzero().squeeze(1)
    # torchvision's boxes are half-open; an inclusive box as a half-open one ends a pixel further
    extents, wide_scores = box_extents(widened(boxes).double(), offset)[finite], widened(scores)[finite]
    if extents.device.type != "cpu":
        extents = extents.float()
    wide_scores = wide_scores.to(extents.dtype)
    kept = [finite[:0]]
    for group in groups[finite].unique():
        members = (groups[finite] == group).nonzero().squeeze(1)
        members = members[torchvision.ops.nms(extents[members], wide_scores[members], threshold)]
        kept.append(finite[members])
    survivors = torch.cat(kept).sort().values
    return survivors[scores[survivors].argsort(descending=True, stable=True)]


def nms_padded(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, offset: int, max_out: int
) -> Tensor:
    if groups is None:
        groups = torch.zeros_like(scores, dtype=torch.int64)
    kept = batched_nms(boxes, scores, groups, threshold, offset)[:max_out]
    return torch.cat([kept, kept.new_full((max_out - kept.shape[0],), -1)])


def _check_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise RuntimeError(f"nms: boxes must be (R, 4), each x1, y1, x2, y2; got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1] or groups.shape != boxes.shape[:1]:
        raise RuntimeError(
            f"nms: scores and groups must be (R,), one for each of {boxes.shape[0]} boxes; got {tuple(scores.shape)} "
            f"and {tuple(groups.shape)}"
        )
    if threshold < 0:
        raise RuntimeError(f"nms: the threshold on intersection over union must not be negative; got {threshold}")

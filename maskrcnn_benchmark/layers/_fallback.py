"""The package's compiled ops in terms of torchvision's, for where they are not built. Slower; same shapes and order.

One difference in results: torchvision decides overlaps in the boxes' own precision, the compiled NMS in double.
torchvision loads under one version of PyTorch, the compiled kernels under many: it is imported where it is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_areas, box_extents


def register(library: torch.library.Library, dispatch_key: str, reason: str) -> None:
    """Implements every op of the library under a dispatch key; the first call of any of them warns with the reason."""
    said = False

    def saying_so(op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal said
            if not said:
                said = True
                warnings.warn(f"Slower kernels of torchvision are in use: {reason}", stacklevel=2)
            return op(*arguments)

        return call

    for op in (
        roi_align,
        roi_align_backward,
        multi_level_roi_align,
        multi_level_roi_align_backward,
        nms,
        batched_nms,
        nms_padded,
    ):
        library.impl(op.__name__, saying_so(op), dispatch_key)


def roi_align(
    features: Tensor, rois: Tensor, scale: float, bins_h: int, bins_w: int, samples: int, aligned: bool
) -> Tensor:
    import torchvision

    _check_rois("roi_align", rois, features.shape[0])
    wide = _widened(features)
    pooled = torchvision.ops.roi_align(wide, rois.to(wide.dtype), (bins_h, bins_w), scale, samples, aligned)
    return pooled.to(features.dtype).contiguous(memory_format=memory_format(features))


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    sizes: Sequence[int],
    scale: float,
    samples: int,
    aligned: bool,
    channels_last: bool,
    deterministic: bool,
) -> Tensor:
    """On CUDA torchvision's kernel is never deterministic: under `use_deterministic_algorithms` it raises or warns."""
    import torchvision  # noqa: F401  defines the op

    _check_rois("roi_align_backward", rois, sizes[0])
    wide = _widened(grad).contiguous()
    grad_features = torch.ops.torchvision._roi_align_backward(
        wide, rois.to(wide.dtype), scale, *grad.shape[2:], *sizes, samples, aligned
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return grad_features.to(grad.dtype).contiguous(memory_format=layout)


def multi_level_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    bins_h: int,
    bins_w: int,
    samples: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: float,
    offset: int,
) -> Tensor:
    levels = assign_levels(rois, scales, canonical_size, canonical_level, offset)
    size = (rois.shape[0], features[0].shape[1], bins_h, bins_w)
    layout = memory_format(features[0])
    pooled = torch.empty(size, dtype=features[0].dtype, device=rois.device, memory_format=layout)
    for level, (maps, scale) in enumerate(zip(features, scales, strict=True)):
        rows = (levels == level).nonzero().squeeze(1)
        pooled[rows] = roi_align(maps, rois[rows], scale, bins_h, bins_w, samples, aligned)
    return pooled


def multi_level_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    sizes: Sequence[int],
    scales: Sequence[float],
    samples: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: float,
    offset: int,
    channels_last: bool,
    deterministic: bool,
) -> list[Tensor]:
    levels = assign_levels(rois, scales, canonical_size, canonical_level, offset)
    grads = []
    for level, scale in enumerate(scales):
        rows = (levels == level).nonzero().squeeze(1)
        level_sizes = [*sizes[:2], *sizes[2 + 2 * level : 4 + 2 * level]]
        grads.append(
            roi_align_backward(
                grad[rows], rois[rows], level_sizes, scale, samples, aligned, channels_last, deterministic
            )
        )
    return grads


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> Tensor:
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), threshold, offset)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, offset: int) -> Tensor:
    import torchvision

    _check_nms(boxes, scores, groups, threshold)
    finite = scores.isfinite().nonzero().squeeze(1)
    # torchvision's boxes are half-open; an inclusive box as a half-open one ends a pixel further
    extents, wide_scores = box_extents(_widened(boxes), offset)[finite], _widened(scores)[finite]
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


def assign_levels(
    rois: Tensor, scales: Sequence[float], canonical_size: float, canonical_level: float, offset: int
) -> Tensor:
    """(R, 5) rois -> (R,) int64 positions in scales; the rule of csrc/box_geometry.h."""
    lowest = -torch.tensor(scales[0], dtype=torch.float64).log2().round().item()
    sides = box_areas(rois[:, 1:].double(), offset).sqrt()
    levels = torch.floor(canonical_level + torch.log2(sides / canonical_size + 1e-6)) - lowest
    return levels.nan_to_num(nan=0.0).clamp(0, len(scales) - 1).long()


def memory_format(maps: Tensor) -> torch.memory_format:
    """The format that ROIAlign's output shares with its input: channels last, or contiguous for any other layout."""
    is_plain = maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if is_plain else torch.channels_last


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _check_rois(op: str, rois: Tensor, num_images: int) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise RuntimeError(f"{op}: rois must be (R, 5), each (index of image, x1, y1, x2, y2); got {tuple(rois.shape)}")
    if rois.device.type == "cpu" and ((rois[:, 0] < 0) | (rois[:, 0] >= num_images)).any():
        raise RuntimeError(f"{op}: a roi is of an image that features do not hold; they hold {num_images} images")


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

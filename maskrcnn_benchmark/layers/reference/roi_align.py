"""ROIAlign with torchvision's kernel, one call per pyramid level.

torchvision loads under one version of PyTorch, the compiled kernels under many. It is therefore imported where it is
called.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers._tracing import memory_format
from maskrcnn_benchmark.layers.boxes import box_areas
from maskrcnn_benchmark.layers.reference.precision import widened

_LARGEST_CORNER = 1e9  # in pixels; torchvision's kernel counts cells in 32 bits


def roi_align(
    features: Tensor, rois: Tensor, scale: float, bins_h: int, bins_w: int, samples: int, aligned: bool
) -> Tensor:
    import torchvision

    _check_rois("roi_align", rois, features.shape[0])
    wide = widened(features)
    if features.numel() == 0:  # torchvision's kernel would read out of bounds
        size = (rois.shape[0], features.shape[1], bins_h, bins_w)
        return torch.zeros(size, dtype=features.dtype, device=features.device)
    rois, usable = _usable(rois.to(wide.dtype))
    pooled: Tensor = torchvision.ops.roi_align(wide, rois, (bins_h, bins_w), scale, samples, aligned)
    pooled = torch.where(usable, pooled, 0)
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
    """On CUDA torchvision's kernel is not deterministic; under `use_deterministic_algorithms` it raises or warns."""
    import torchvision  # noqa: F401  defines the op

    _check_rois("roi_align_backward", rois, sizes[0])
    wide = widened(grad)
    rois, usable = _usable(rois.to(wide.dtype))
    wide = torch.where(usable, wide, 0).contiguous()
    grad_features: Tensor = torch.ops.torchvision._roi_align_backward(
        wide, rois, scale, *grad.shape[2:], *sizes, samples, aligned
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


def assign_levels(
    rois: Tensor, scales: Sequence[float], canonical_size: float, canonical_level: float, offset: int
) -> Tensor:
    """(R, 5) rois -> (R,) int64 positions in scales, as assign_level in csrc/box_geometry.h."""
    lowest = -torch.tensor(scales[0], dtype=torch.float64).log2().round().item()
    sides = box_areas(rois[:, 1:].double(), offset).sqrt()
    levels = torch.floor(canonical_level + torch.log2(sides / canonical_size + 1e-6)) - lowest
    return levels.nan_to_num(nan=0.0).clamp(0, len(scales) - 1).long()


def _usable(rois: Tensor) -> tuple[Tensor, Tensor]:
    """Replace rois (R, 5) that torchvision's kernel cannot index, such as those with a NaN corner, by empty ones.

    Returns: the rois, and (R, 1, 1, 1) bool: which were kept? The others pool zeros.
    """
    usable = (rois[:, 1:].abs() < _LARGEST_CORNER).all(dim=1)
    return torch.cat((rois[:, :1], rois[:, 1:].where(usable[:, None], 0)), dim=1), usable[:, None, None, None]


def _check_rois(op: str, rois: Tensor, num_images: int) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise RuntimeError(f"{op}: rois must be (R, 5), each (index of image, x1, y1, x2, y2); got {tuple(rois.shape)}")
    if rois.device.type == "cpu" and ((rois[:, 0] < 0) | (rois[:, 0] >= num_images)).any():
        raise RuntimeError(f"{op}: a roi is of an image that features do not hold; they hold {num_images} images")

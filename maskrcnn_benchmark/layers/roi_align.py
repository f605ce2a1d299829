"""ROIAlign: pool regions of any size to grids of a fixed size, from one map or from the levels of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers._extension import ops
from maskrcnn_benchmark.layers._tracing import check_one_device, fake_kernel, memory_format
from maskrcnn_benchmark.layers.boxes import INCLUSIVE

Size = int | tuple[int, int]

KERNEL_EPS = 1e-6  # assign_level in csrc/box_geometry.h adds it to side / canonical size
_FINER = 30  # KERNEL_EPS at this many levels below the canonical one is a share of 1e-15 of the canonical size


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: Size,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = False,
) -> Tensor:
    """Average bilinear samples of a feature map over a fixed grid of bins, one grid per region.

    Args:
        features: (N, C, H, W) of any floating type, contiguous or channels last; other formats are copied.
        rois: (R, 5) of any floating type, each (index into N, x1, y1, x2, y2) with corners in image pixels.
        output_size: (height, width) of the grid, in bins, or one number for both.
        spatial_scale: feature cells per image pixel, 1 / stride; 0.25 for a stride of 4.
        sampling_ratio: samples per bin side; 0 or less takes ceil(region cells / bins).
        aligned: cell i is centred at i + 0.5, and a region may be smaller than a cell. Otherwise cell i is centred at i
            and a region has a size of at least one cell, as in the first versions of Mask R-CNN.
    Returns: (R, C, *output_size) in the dtype and memory format of features, accumulated in float32 or float64. Samples
        more than one cell off the map count as zero. Differentiable in features.
    Raises: RuntimeError if rois is not (R, 5), if types or devices do not match, or if the image index of a roi is out
        of range (on a CPU; on a GPU such a roi pools zeros).
    Determinism: on a CPU the gradient has the same bits every time. On a GPU it is summed in an order that varies,
        unless `torch.use_deterministic_algorithms(True)` is set when backward runs: then 64-bit integers are summed,
        with the same result in any order. Each term is rounded to a multiple of 2^(b - 61) times the largest magnitude
        in the incoming gradient, where b is the number of bits of R * bins: 2^-45 for 1,000 regions of 7 x 7 bins.
        That is finer than float32 and coarser than float64. If the incoming gradient holds an infinity or a NaN, the
        whole result is NaN. It takes 8 more bytes per element of features while it runs.
    Source: He et al. 2017, Mask R-CNN, section 3; `aligned` adds the half-cell shift of later variants.
    """
    bins_h, bins_w = _pair(output_size)
    pooled: Tensor = ops.roi_align(
        features, rois, float(spatial_scale), bins_h, bins_w, max(int(sampling_ratio), 0), aligned
    )
    return pooled


def multi_level_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    output_size: Size,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool = False,
    *,
    canonical_size: float = 224.0,
    canonical_level: float = 4.0,
    offset: int = INCLUSIVE,
    level_eps: float = KERNEL_EPS,
    level_eps_after_log: bool = False,
) -> Tensor:
    """`roi_align` of each region from the pyramid level for its size, for all levels and images in one call.

    The level of a region is floor(canonical_level + log2(sqrt(area) / canonical_size + level_eps)), clamped to the
    given levels.

    Args:
        features: L maps (N, C, H_l, W_l) of one type and format, finest first.
        rois: (R, 5), each (index into N, x1, y1, x2, y2) with corners in image pixels.
        output_size, sampling_ratio, aligned: as in `roi_align`.
        scales: 1 / stride of each level; each half the one before it.
        canonical_size: side, in pixels, of the regions that the canonical level pools.
        canonical_level: log2 of that level's stride.
        offset: box convention of the area.
        level_eps: above 0; regions up to this share smaller than a power of two of canonical_size count as that large.
        level_eps_after_log: add it to the logarithm instead, as torchvision.
    Returns: (R, C, *output_size). Differentiable in features; for determinism see `roi_align`, with the largest
        magnitude of all levels.
    Raises: RuntimeError as `roi_align`, and if the levels or their scales do not match.
    Source: Lin et al. 2017, Feature Pyramid Networks, equation 1.
    """
    bins_h, bins_w = _pair(output_size)
    size, level = _rule_of_kernel(canonical_size, canonical_level, level_eps, level_eps_after_log)
    pooled: Tensor = ops.multi_level_roi_align(
        list(features),
        rois,
        [float(scale) for scale in scales],
        bins_h,
        bins_w,
        max(int(sampling_ratio), 0),
        aligned,
        size,
        level,
        offset,
    )
    return pooled


def _rule_of_kernel(size: float, level: float, eps: float, after_log: bool) -> tuple[float, float]:
    """Canonical size and level with which a kernel, which adds KERNEL_EPS before the logarithm, adds `eps` in effect.

    Half the canonical size at the level below is the same rule, but KERNEL_EPS is then half as large in pixels.
    """
    if after_log:
        return float(size) * 2.0**-_FINER, float(level) - _FINER + eps
    share = eps / KERNEL_EPS
    return float(size) * share, float(level) + math.log2(share)


class ROIAlign(nn.Module):
    """`roi_align` as a module. Inputs: features (N, C, H, W) and rois (R, 5)."""

    def __init__(self, output_size: Size, spatial_scale: float, sampling_ratio: int, aligned: bool = False) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_align(features, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


def _pair(size: Size) -> tuple[int, int]:
    if isinstance(size, Sequence):
        height, width = size
        return height, width
    return size, size


# ---- fake kernels and autograd rules


def _empty(like: Tensor, size: Sequence[int], layout: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@fake_kernel("roi_align")
def _roi_align_fake(
    features: Tensor, rois: Tensor, scale: float, bins_h: int, bins_w: int, samples: int, aligned: bool
) -> Tensor:
    check_one_device("roi_align", "features", "rois", features, rois)
    return _empty(features, (rois.shape[0], features.shape[1], bins_h, bins_w), memory_format(features))


@fake_kernel("roi_align_backward")
def _roi_align_backward_fake(
    grad: Tensor,
    rois: Tensor,
    sizes: Sequence[int],
    scale: float,
    samples: int,
    aligned: bool,
    channels_last: bool,
    deterministic: bool,
) -> Tensor:
    check_one_device("roi_align_backward", "features", "rois", grad, rois)
    return _empty(grad, sizes, _layout(channels_last))


@fake_kernel("multi_level_roi_align")
def _multi_level_fake(
    features: Sequence[Tensor], rois: Tensor, scales: Sequence[float], bins_h: int, bins_w: int, *rule: Any
) -> Tensor:
    check_one_device("multi_level_roi_align", "features", "rois", *features, rois)
    return _empty(features[0], (rois.shape[0], features[0].shape[1], bins_h, bins_w), memory_format(features[0]))


@fake_kernel("multi_level_roi_align_backward")
def _multi_level_backward_fake(
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
    check_one_device("multi_level_roi_align_backward", "features", "rois", grad, rois)
    images, channels, *sides = sizes
    layout = _layout(channels_last)
    return [
        _empty(grad, (images, channels, height, width), layout)
        for height, width in zip(sides[::2], sides[1::2], strict=True)
    ]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scale, _, _, ctx.samples, ctx.aligned = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = tuple(features.shape)
    ctx.channels_last = memory_format(features) is torch.channels_last


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    grad_features = ops.roi_align_backward(
        grad,
        rois,
        ctx.sizes,
        ctx.scale,
        ctx.samples,
        ctx.aligned,
        ctx.channels_last,
        torch.are_deterministic_algorithms_enabled(),
    )
    return grad_features, None, None, None, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, ctx.scale, ctx.samples, ctx.aligned, _, _ = inputs
    ctx.save_for_backward(rois)
    ctx.bins = tuple(grad.shape[2:])


def _double_backward(ctx: Any, grad_of_grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors  # backward is linear in its gradient, and forward is its transpose
    pooled = ops.roi_align(grad_of_grad, rois, ctx.scale, *ctx.bins, ctx.samples, ctx.aligned)
    return pooled, None, None, None, None, None, None, None


def _save_levels_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scales, _, _, *ctx.rule = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = [*features[0].shape[:2], *(side for maps in features for side in maps.shape[2:])]
    ctx.channels_last = memory_format(features[0]) is torch.channels_last


def _levels_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    grads = ops.multi_level_roi_align_backward(
        grad, rois, ctx.sizes, ctx.scales, *ctx.rule, ctx.channels_last, torch.are_deterministic_algorithms_enabled()
    )
    return grads, None, None, None, None, None, None, None, None, None


def _save_levels_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, rois, _, ctx.scales, *ctx.rule, _, _ = inputs
    ctx.save_for_backward(rois)
    ctx.bins = tuple(grad.shape[2:])


def _levels_double_backward(ctx: Any, grads_of_grads: list[Tensor]) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    pooled = ops.multi_level_roi_align(grads_of_grads, rois, ctx.scales, *ctx.bins, *ctx.rule)
    return pooled, None, None, None, None, None, None, None, None, None, None


torch.library.register_autograd("maskrcnn_benchmark::roi_align", _backward, setup_context=_save_for_backward)
torch.library.register_autograd(
    "maskrcnn_benchmark::roi_align_backward", _double_backward, setup_context=_save_for_double_backward
)
torch.library.register_autograd(
    "maskrcnn_benchmark::multi_level_roi_align", _levels_backward, setup_context=_save_levels_for_backward
)
torch.library.register_autograd(
    "maskrcnn_benchmark::multi_level_roi_align_backward",
    _levels_double_backward,
    setup_context=_save_levels_for_double_backward,
)

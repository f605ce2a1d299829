"""Pool the features of regions from the levels of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.layers.roi_align import KERNEL_EPS, multi_level_roi_align
from maskrcnn_benchmark.modeling.batching import cat_boxes
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

COARSEST_STRIDE = 32  # of the levels that are pooled from by default: on coarser maps a region has too few cells


def rois_from_boxlists(boxlists: Sequence[BoxList]) -> Tensor:
    """Boxes of N images -> (R, 5) float32 rois (index of the image, x1, y1, x2, y2), in pixels, in order."""
    boxes, image_ids = cat_boxes(boxlists)
    return rois_of(image_ids, boxes)


def rois_of(image_ids: Tensor, boxes: Tensor) -> Tensor:
    """(R,) indices of images and (R, 4) boxes -> (R, 5)."""
    return torch.cat([image_ids[:, None].to(boxes.dtype), boxes], dim=1)


class Pooler(nn.Module):
    """ROIAlign on the pyramid level that suits the size of each region, for all levels and images in one call.

    Args:
        output_size: (height, width) of the grid of bins, or one number for both.
        scales: 1 / stride of each level, finest first, each half the one before. Empty: from the backbone, set by
            `fit_poolers`.
        sampling_ratio: samples per side of a bin; 0 means ceil(region cells / bins).
        aligned: shift samples by half a cell.
        offset: box convention for the area of a region.
        canonical_size, canonical_level: a region of this side, in pixels, is pooled from the level of stride
            2 ** canonical_level; one of half the side from the next finer level.
        level_eps, level_eps_after_log: added to the side in parts of canonical_size, or to its logarithm, so that
            regions of exactly these sides are not rounded to a finer level.
    Inputs: features, maps (N, C, H_l, W_l), of which the first L are read; rois (R, 5) or N BoxLists.
    Returns: (R, C, height, width).
    Raises: ValueError for invalid scales, or for fewer feature maps than scales.
    Source: Lin et al. 2017, Feature pyramid networks, equation 1.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        aligned: bool = False,
        offset: int = INCLUSIVE,
        *,
        canonical_size: float = 224.0,
        canonical_level: float = 4.0,
        level_eps: float = KERNEL_EPS,
        level_eps_after_log: bool = False,
    ) -> None:
        super().__init__()
        if scales:
            check_scales(scales)
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.scales = tuple(float(scale) for scale in scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.offset = offset
        self.canonical_size = canonical_size
        self.canonical_level = canonical_level
        self.level_eps = level_eps
        self.level_eps_after_log = level_eps_after_log

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str, *, offset: int | None = None) -> Pooler:
        """The pooler of MODEL.<section>, for boxes of the model's convention unless `offset` names another."""
        node, heads = cfg.MODEL[section], cfg.MODEL.ROI_HEADS
        check_range("MODEL.ROI_HEADS.LEVEL_EPS", heads.LEVEL_EPS, 1e-12, 0.01)
        scales, problem = node.POOLER_SCALES, _scales_problem(node.POOLER_SCALES) if node.POOLER_SCALES else None
        if problem is not None:
            config_problem(f"MODEL.{section}.{problem}")
            scales = ()
        return cls(
            node.POOLER_RESOLUTION,
            scales,
            node.POOLER_SAMPLING_RATIO,
            aligned=node.POOLER_ALIGNED,
            offset=cfg.MODEL.BOX_OFFSET if offset is None else offset,
            level_eps=heads.LEVEL_EPS,
            level_eps_after_log=heads.LEVEL_EPS_AFTER_LOG,
        )

    def forward(self, features: Sequence[Tensor], rois: Tensor | Sequence[BoxList]) -> Tensor:
        if not self.scales:
            raise ValueError("the pooler has no scales; pass them to its constructor, or call fit_poolers")
        if len(features) < len(self.scales):
            raise ValueError(
                f"the pooler reads {len(self.scales)} levels (POOLER_SCALES {self.scales}), "
                f"the backbone gives {len(features)}"
            )
        if not isinstance(rois, Tensor):
            rois = rois_from_boxlists(rois)
        return multi_level_roi_align(
            features[: len(self.scales)],
            rois,
            self.output_size,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            canonical_size=self.canonical_size,
            canonical_level=self.canonical_level,
            offset=self.offset,
            level_eps=self.level_eps,
            level_eps_after_log=self.level_eps_after_log,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, scales={self.scales}, sampling_ratio={self.sampling_ratio}, "
            f"aligned={self.aligned}, offset={self.offset}"
        )


def fit_poolers(roi_heads: nn.Module, strides: Sequence[int] | None) -> None:
    """Set the scales of every pooler that has none, and compare the scales of the others with the backbone's.

    Without scales, a pooler reads all levels up to a stride of COARSEST_STRIDE, or the finest if all are coarser.

    Args:
        strides: of the backbone's levels, finest first; None if the backbone does not declare them.
    Raises: ConfigError if scales differ from the backbone's, or if neither declares them.
    """
    expected = tuple(1 / stride for stride in strides or ())
    for name, pooler in roi_heads.named_modules():
        if not isinstance(pooler, Pooler):
            continue
        head = name.split(".")[0]
        if not pooler.scales and not expected:
            config_problem(
                f"the {head} head's POOLER_SCALES is (), which means the scales of the backbone, but the backbone has "
                "no attribute `strides` (pixels per cell of each map, finest first); add it, or set POOLER_SCALES."
            )
        elif not pooler.scales:
            pooler.scales = tuple(scale for scale in expected if scale * COARSEST_STRIDE >= 1) or expected[:1]
            check_scales(pooler.scales)
        elif expected and pooler.scales != expected[: len(pooler.scales)]:
            config_problem(
                f"the {head} head's POOLER_SCALES are {pooler.scales}, the backbone's levels have the scales "
                f"{expected}; expected 1 / stride of the first of them, or () for the scales of the backbone."
            )


def check_scales(scales: Sequence[float]) -> None:
    """Raises: ValueError unless each scale is 1 / a power of two and half the one before."""
    problem = _scales_problem(scales)
    if problem is not None:
        raise ValueError(problem)


def _scales_problem(scales: Sequence[float]) -> str | None:
    exponents = [-math.log2(scale) if scale > 0 else math.nan for scale in scales]
    if not exponents or any(exponent != exponents[0] + level for level, exponent in enumerate(exponents)):
        return (
            f"POOLER_SCALES is {tuple(scales)}; expected 1 / stride of successive levels, finest first, each half the "
            "one before, such as (0.25, 0.125, 0.0625, 0.03125)"
        )
    if not all(exponent.is_integer() for exponent in exponents):
        return f"POOLER_SCALES is {tuple(scales)}; expected 1 / a power of two, such as 0.25 for a stride of 4"
    return None

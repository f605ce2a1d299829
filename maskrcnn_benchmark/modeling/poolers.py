"""From boxes of images to features of regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.layers.roi_align import multi_level_roi_align
from maskrcnn_benchmark.modeling.batching import cat_boxes
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


def rois_from_boxlists(boxlists: Sequence[BoxList]) -> Tensor:
    """Boxes of N images -> (R, 5) float32 rois (index of the image, x1, y1, x2, y2), in pixels, in order."""
    boxes, image_ids = cat_boxes(boxlists)
    return rois_of(image_ids, boxes)


def rois_of(image_ids: Tensor, boxes: Tensor) -> Tensor:
    """(R,) indices of images and (R, 4) boxes -> (R, 5)."""
    return torch.cat([image_ids[:, None].to(boxes.dtype), boxes], dim=1)


class Pooler(nn.Module):
    """ROIAlign out of the level of a pyramid that suits each region's size; all levels and images in one call.

    Args:
        output_size: (height, width) of the grid of bins, or one number for both.
        scales: 1 / stride of each level, finest first; each half the one before.
        sampling_ratio: samples per side of a bin; 0 takes ceil(region cells / bins).
        aligned: shift samples by half a cell.
        offset: box convention, by which a region's area is measured.
        canonical_size, canonical_level: a region of this side, in pixels, belongs to the level of stride
            2 ** canonical_level; one of half the side to the level below.
    Inputs: features, L or more maps (N, C, H_l, W_l), of which the first L are read; rois (R, 5) or N BoxLists.
    Returns: (R, C, height, width).
    Raises: ValueError for scales that are not a pyramid's, or fewer feature maps than scales.
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
    ) -> None:
        super().__init__()
        check_scales(scales)
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.scales = tuple(float(scale) for scale in scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.offset = offset
        self.canonical_size = canonical_size
        self.canonical_level = canonical_level

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str, *, offset: int | None = None) -> Pooler:
        """The pooler of MODEL.<section>, for boxes of the model's convention unless `offset` names another."""
        node = cfg.MODEL[section]
        return cls(
            node.POOLER_RESOLUTION,
            node.POOLER_SCALES,
            node.POOLER_SAMPLING_RATIO,
            aligned=node.POOLER_ALIGNED,
            offset=cfg.MODEL.BOX_OFFSET if offset is None else offset,
        )

    def forward(self, features: Sequence[Tensor], rois: Tensor | Sequence[BoxList]) -> Tensor:
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
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, scales={self.scales}, sampling_ratio={self.sampling_ratio}, "
            f"aligned={self.aligned}, offset={self.offset}"
        )


def check_scales(scales: Sequence[float]) -> None:
    """ValueError unless the scales are 1 / a power of two each and halve from level to level."""
    exponents = [-math.log2(scale) if scale > 0 else math.nan for scale in scales]
    if not exponents or any(exponent != exponents[0] + level for level, exponent in enumerate(exponents)):
        raise ValueError(
            f"POOLER_SCALES is {tuple(scales)}; expected 1 / stride of each level, finest first, each half of the one "
            "before it, as (0.25, 0.125, 0.0625, 0.03125)"
        )
    if not all(exponent.is_integer() for exponent in exponents):
        raise ValueError(f"POOLER_SCALES is {tuple(scales)}; strides are powers of two, 0.25 for a stride of 4")

"""Coarse predictions in the frame of an enlarged region: as inputs of the trunk, and as the start of its outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import expand_boxes
from maskrcnn_benchmark.layers.mask_ops import resample_grids
from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind

PROBABILITY, LOGIT, FEATURES = "probability", "logit", "features"
INDICATOR_FORMS = (PROBABILITY, LOGIT, FEATURES)

_MIN_SIDE = 1.0  # pixels


@dataclass(frozen=True)
class CoarsePrediction:
    """Prediction of one coarse head for R RoIs."""

    kind: MapKind[Any]
    logits: Tensor  # (R, num_own_maps, m, m)
    features: Tensor  # (R, C, f, f), input of the head's predictor
    frames: Tensor  # (R, 4) that the maps span, in pixels

    def detach(self) -> CoarsePrediction:
        """The same, without gradients into the head."""
        return replace(self, logits=self.logits.detach(), features=self.features.detach())


def enlarge_extents(extents: Tensor, factor: float, sizes_wh: Tensor) -> Tensor:
    """Enlarge regions about their centres within their images.

    Args:
        extents: (R, 4) half-open rectangles in pixels.
        factor: new side over old side.
        sizes_wh: (R, 2) width and height of each region's image, in pixels.
    Returns: (R, 4) half-open rectangles inside the image. Their sides are at least a pixel long, even for a region
        outside its image.
    """
    x1, y1, x2, y2 = expand_boxes(extents, factor, sizes_wh).unbind(1)
    width, height = sizes_wh.to(extents).unbind(1)
    x1, x2 = _widen_to_pixel(x1, x2, width)
    y1, y2 = _widen_to_pixel(y1, y2, height)
    return torch.stack([x1, y1, x2, y2], dim=1)


def _widen_to_pixel(low: Tensor, high: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Widen intervals shorter than a pixel about their middle to a pixel inside [0, limit]."""
    start = ((low + high - _MIN_SIDE) / 2).clamp(min=0).minimum(limit - _MIN_SIDE)
    short = high - low < _MIN_SIDE
    return torch.where(short, start, low), torch.where(short, start + _MIN_SIDE, high)


def _full_precision(values: Tensor) -> Tensor:
    """Half precision to float32; others unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def draw_indicator(coarse: CoarsePrediction, form: str, extents: Tensor, size: int) -> Tensor:
    """A coarse prediction as input channels of the trunk.

    Each new cell is the average over its area, and outside the coarse RoI values are zero. Averages, because the new
    cells are larger than the old: point samples would miss a peak that is one old cell wide.

    Args:
        coarse: R predictions.
        form: "probability": of the pixel for masks; over the cells of a map for keypoints, normalized to a peak of 1.
            "logit": as predicted. "features": input of the head's predictor.
        extents: (R, 4) half-open rectangles in pixels that the drawn maps span.
        size: M, cells per side.
    Returns: (R, I, M, M) float32 or finer; I is `num_own_maps` of the output, or the channels of the features.
    Raises: ValueError for another form.
    """
    if form == FEATURES:
        values = _full_precision(coarse.features)
    elif form == LOGIT:
        values = _full_precision(coarse.logits)
    elif form == PROBABILITY:
        values = coarse.kind.probabilities(_full_precision(coarse.logits))
    else:
        raise ValueError(f"MODEL.ROI_REFINE_HEAD.INDICATOR_FORM is {form!r}; expected one of {INDICATOR_FORMS}")
    drawn = resample_grids(values, coarse.frames, extents, size, mode="area")
    return coarse.kind.normalize_drawn(drawn) if form == PROBABILITY else drawn


def redraw_logits(coarse: CoarsePrediction, extents: Tensor, size: int) -> Tensor:
    """The coarse logits, interpolated at the centres of new cells; an output starts from them.

    Args:
        coarse: R predictions.
        extents: (R, 4) half-open rectangles in pixels that the new maps span.
        size: cells per side.
    Returns: (R, num_own_maps, size, size) float32 or finer; outside the coarse RoI `outside_logit` of the output.
    """
    logits = _full_precision(coarse.logits)
    return resample_grids(logits, coarse.frames, extents, size, fill=coarse.kind.outside_logit(logits))

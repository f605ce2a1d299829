"""Coarse predictions in the frame of an enlarged region: as inputs of the trunk, and as what its outputs start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import expand_boxes
from maskrcnn_benchmark.layers.mask_ops import resample_grids
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_predictors import KEYPOINT, MASK

PROBABILITY, LOGIT, FEATURES = "probability", "logit", "features"
INDICATOR_FORMS = (PROBABILITY, LOGIT, FEATURES)

# What an output starts from where the coarse branch did not look. For masks the logit of about 5 %, the share of the
# ring around a RoI that belongs to the object: background, yet near enough for a correction to turn it. For keypoints
# as much below the log of the map's mean probability: a cell out there is a twentieth as likely as the average one
# inside, however peaked the map is, so that the ring as a whole holds a few percent and the maximum stays inside.
OUTSIDE_LOGIT = -3.0

_MIN_SIDE = 1.0  # pixels


@dataclass(frozen=True)
class CoarsePrediction:
    """What one coarse branch made of R RoIs."""

    kind: str  # MASK or KEYPOINT
    logits: Tensor  # (R, 1, m, m), the map of the RoI's own class, or (R, K, s, s)
    features: Tensor  # (R, C, f, f), what the branch's predictor read
    frames: Tensor  # (R, 4): what the maps span, in pixels

    def detach(self) -> CoarsePrediction:
        """The same without a way back into the branch."""
        return replace(self, logits=self.logits.detach(), features=self.features.detach())


def enlarge_extents(extents: Tensor, factor: float, sizes_wh: Tensor) -> Tensor:
    """Enlarge regions about their centres within their images.

    Args:
        extents: (R, 4) half-open rectangles in pixels.
        factor: new side over old side.
        sizes_wh: (R, 2) width and height of each region's image, in pixels.
    Returns: (R, 4) half-open rectangles inside the image with sides of a pixel or more, so that no frame is empty,
        also where a region lies off its image.
    """
    x1, y1, x2, y2 = expand_boxes(extents, factor, sizes_wh).unbind(1)
    width, height = sizes_wh.to(extents).unbind(1)
    x1, x2 = _at_least(x1, x2, width)
    y1, y2 = _at_least(y1, y2, height)
    return torch.stack([x1, y1, x2, y2], dim=1)


def _at_least(low: Tensor, high: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Widen intervals shorter than a pixel about their middle to a pixel inside [0, limit]."""
    start = ((low + high - _MIN_SIDE) / 2).clamp(min=0).minimum(limit - _MIN_SIDE)
    short = high - low < _MIN_SIDE
    return torch.where(short, start, low), torch.where(short, start + _MIN_SIDE, high)


def keypoint_frames(boxes: Tensor) -> Tensor:
    """(R, 4) boxes -> (R, 4) what a coarse heat map spans: the box from corner to corner, at least a pixel wide."""
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + _MIN_SIDE)], dim=1)


def _full_precision(values: Tensor) -> Tensor:
    """Half precision becomes float32; what is finer stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def draw_indicator(coarse: CoarsePrediction, form: str, extents: Tensor, size: int) -> Tensor:
    """A coarse prediction as input channels of the trunk.

    Each cell takes the average over its area, and what lies outside the coarse RoI counts as zero: the new cells are
    larger than the old, and a point sample would step over a peak that is one old cell wide.

    Args:
        coarse: R predictions.
        form: "probability": of the pixel for masks; for keypoints over the cells of a map, divided by the largest value
            of the drawn map, so that a map peaks at 1 whether it is sure or not (its spread says how sure).
            "logit": as predicted. "features": those that the branch's predictor read.
        extents: (R, 4) half-open rectangles in pixels that the drawn maps span.
        size: M, cells per side.
    Returns: (R, I, M, M) float32 or finer, I = 1 for masks, K for keypoints, C for features.
    Raises: ValueError for another form.
    """
    if form == FEATURES:
        values = _full_precision(coarse.features)
    elif form == LOGIT:
        values = _full_precision(coarse.logits)
    elif form == PROBABILITY:
        logits = _full_precision(coarse.logits)
        values = logits.sigmoid() if coarse.kind == MASK else logits.flatten(2).softmax(-1).view_as(logits)
    else:
        raise ValueError(f"MODEL.ROI_REFINE_HEAD.INDICATOR_FORM is {form!r}; expected one of {INDICATOR_FORMS}")
    drawn = resample_grids(values, coarse.frames, extents, size, mode="area")
    if form == PROBABILITY and coarse.kind == KEYPOINT:
        peaks = drawn.flatten(2).amax(-1)[..., None, None]
        drawn = drawn / peaks.clamp(min=torch.finfo(drawn.dtype).tiny)
    return drawn


def redraw_logits(coarse: CoarsePrediction, extents: Tensor, size: int) -> Tensor:
    """What an output starts from: the coarse logits, interpolated at the centres of the new cells.

    Args:
        coarse: R predictions.
        extents: (R, 4) half-open rectangles in pixels that the new maps span.
        size: cells per side.
    Returns: (R, 1 or K, size, size) float32 or finer; outside the coarse RoI see `OUTSIDE_LOGIT`.
    """
    logits = _full_precision(coarse.logits)
    outside: Tensor | float = OUTSIDE_LOGIT
    if coarse.kind == KEYPOINT:
        cells = logits.shape[-2] * logits.shape[-1]
        log_mean = logits.flatten(2).logsumexp(-1)[..., None, None] - math.log(cells)
        outside = log_mean + OUTSIDE_LOGIT
    return resample_grids(logits, coarse.frames, extents, size, fill=outside)

"""Box geometry on plain tensors.

Boxes are (..., 4) tensors x1, y1, x2, y2 in pixels unless a function says otherwise. `offset` is INCLUSIVE or HALF_OPEN
in every function. Only this file, and `csrc/box_geometry.h` in C++, adds or subtracts that pixel. No function creates
a tensor from Python numbers on the boxes' device: on a GPU that copy would synchronise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# does a box cover its far corner pixel? released weights: yes; torchvision and Detectron2: no
INCLUSIVE, HALF_OPEN = 1, 0

DELTA_CLAMP = math.log(1000.0 / 16)  # upper limit of dw and dh in decode_boxes; keeps exp() finite


def box_sizes(boxes: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """(..., 4) xyxy in pixels -> widths (...) and heights (...), in pixels; negative for an inverted box."""
    return boxes[..., 2] - boxes[..., 0] + offset, boxes[..., 3] - boxes[..., 1] + offset


def box_areas(boxes: Tensor, offset: int) -> Tensor:
    """(..., 4) xyxy in pixels -> areas (...), in square pixels."""
    widths, heights = box_sizes(boxes, offset)
    return widths * heights


def box_extents(boxes: Tensor, offset: int) -> Tensor:
    """(..., 4) boxes -> (..., 4) half-open rectangles that they cover; pixel p covers [p, p + 1)."""
    if offset == HALF_OPEN:
        return boxes
    return torch.cat([boxes[..., :2], boxes[..., 2:] + offset], dim=-1)


def clip_boxes(boxes: Tensor, size_wh: Tensor | Sequence[float], offset: int) -> Tensor:
    """Clip every corner to the image.

    Args:
        boxes: (..., 4) xyxy in pixels.
        size_wh: image (width, height) in pixels, or a tensor (..., 2) of them that broadcasts against the boxes.
    Returns: (..., 4), x in [0, width - offset] and y in [0, height - offset]; boxes outside collapse to the edge.
    """
    x1, y1, x2, y2 = boxes.clamp(min=0).unbind(-1)
    if isinstance(size_wh, Tensor):
        limits = size_wh.to(boxes) - offset
        x_limit, y_limit = limits[..., 0], limits[..., 1]
        clipped = [x1.minimum(x_limit), y1.minimum(y_limit), x2.minimum(x_limit), y2.minimum(y_limit)]
    else:
        width, height = size_wh
        x_max, y_max = width - offset, height - offset
        clipped = [x1.clamp(max=x_max), y1.clamp(max=y_max), x2.clamp(max=x_max), y2.clamp(max=y_max)]
    return torch.stack(clipped, dim=-1)


def mirror_boxes(boxes: Tensor, widths: Tensor | float, offset: int) -> Tensor:
    """Boxes after their image is flipped left to right.

    Args:
        boxes: (..., 4) xyxy in pixels.
        widths: of the image, in pixels; or a tensor (...) of a width for each box.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([widths - offset - x2, y1, widths - offset - x1, y2], dim=-1)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor, offset: int) -> Tensor:
    """Intersection over union of each box of one set with each of another.

    Args:
        boxes1: (..., G, 4) xyxy.
        boxes2: (..., A, 4) xyxy; leading dimensions broadcast.
    Returns: (..., G, A) in [0, 1]. 0, not NaN, if two boxes share no area; empty and inverted boxes share none.
    """
    first, second = boxes1.unsqueeze(-2), boxes2.unsqueeze(-3)  # (..., G, 1, 4) and (..., 1, A, 4)
    widths = torch.minimum(first[..., 2], second[..., 2])
    widths.sub_(torch.maximum(first[..., 0], second[..., 0])).add_(offset).clamp_(min=0)
    heights = torch.minimum(first[..., 3], second[..., 3])
    heights.sub_(torch.maximum(first[..., 1], second[..., 1])).add_(offset).clamp_(min=0)
    intersection = widths.mul_(heights)
    del heights  # (G, A) is large: keep at most three such tensors alive
    union = box_areas(first, offset) + box_areas(second, offset) - intersection
    return torch.where(intersection > 0, intersection / union, 0)


def encode_boxes(boxes: Tensor, references: Tensor, weights: Sequence[float], offset: int) -> Tensor:
    """Compute the regression targets that `decode_boxes` turns into the boxes.

    Args:
        boxes: (..., 4) xyxy, the boxes to encode.
        references: (..., 4) xyxy, the anchors or proposals.
        weights: four factors, for the shifts dx, dy and the log sizes dw, dh.
    Returns: (..., 4): shifts of the centre in units of the reference's size and log ratios of the sizes, weighted.
    Source: Girshick et al. 2014, Rich feature hierarchies, appendix C.
    """
    weight_x, weight_y, weight_w, weight_h = weights
    widths, heights = box_sizes(boxes, offset)
    ref_widths, ref_heights = box_sizes(references, offset)
    shift_x = boxes[..., 0] + 0.5 * widths - (references[..., 0] + 0.5 * ref_widths)
    shift_y = boxes[..., 1] + 0.5 * heights - (references[..., 1] + 0.5 * ref_heights)
    deltas = [
        weight_x * shift_x / ref_widths,
        weight_y * shift_y / ref_heights,
        weight_w * torch.log(widths / ref_widths),
        weight_h * torch.log(heights / ref_heights),
    ]
    return torch.stack(deltas, dim=-1)


def decode_boxes(
    deltas: Tensor, references: Tensor, weights: Sequence[float], offset: int, clamp: float = DELTA_CLAMP
) -> Tensor:
    """Apply one or several sets of deltas to each reference; the inverse of `encode_boxes`.

    Args:
        deltas: (..., 4 * J), J sets of (dx, dy, dw, dh) for each reference.
        references: (..., 4) xyxy.
        weights: as in `encode_boxes`.
        clamp: upper bound of the unweighted dw and dh.
    Returns: (..., 4 * J) xyxy in the dtype of references, one box per set; not clipped.
    """
    # compute in the precision of the references: half precision cannot hold coordinates of a thousand pixels
    per_set = deltas.to(references.dtype).unflatten(-1, (-1, 4)).unbind(-1)
    shift_x, shift_y, log_width, log_height = (delta / weight for delta, weight in zip(per_set, weights, strict=True))
    ref_widths, ref_heights = (size.unsqueeze(-1) for size in box_sizes(references, offset))
    widths = log_width.clamp(max=clamp).exp() * ref_widths
    heights = log_height.clamp(max=clamp).exp() * ref_heights
    x1 = references[..., 0, None] + (0.5 + shift_x) * ref_widths - 0.5 * widths
    y1 = references[..., 1, None] + (0.5 + shift_y) * ref_heights - 0.5 * heights
    return torch.stack([x1, y1, x1 + widths - offset, y1 + heights - offset], dim=-1).flatten(-2)


def convert_boxes(boxes: Tensor, src: str, dst: str, offset: int) -> Tensor:
    """Convert between the two forms of a box.

    Args:
        boxes: (..., 4) in the form `src`.
        src, dst: "xyxy" (two corners) or "xywh" (near corner and size).
    Returns: (..., 4) in the form `dst`. A size below `offset` becomes a box whose far corner is its near corner.
    Raises: ValueError for another form.
    """
    for form in (src, dst):
        if form not in ("xyxy", "xywh"):
            raise ValueError(f"box form {form!r} is unknown; expected 'xyxy' or 'xywh'")
    if src == dst:
        return boxes
    if dst == "xywh":
        widths, heights = box_sizes(boxes, offset)
        return torch.stack([boxes[..., 0], boxes[..., 1], widths, heights], dim=-1)
    x1, y1, widths, heights = boxes.unbind(-1)
    return torch.stack([x1, y1, x1 + (widths - offset).clamp(min=0), y1 + (heights - offset).clamp(min=0)], dim=-1)


def expand_boxes(extents: Tensor, factor: float, size_wh: Tensor | Sequence[float]) -> Tensor:
    """Scale rectangles about their centres and clip them to the image.

    Args:
        extents: (..., 4) half-open rectangles, see `box_extents`.
        factor: new size over old size, per side.
        size_wh: image (width, height) in pixels, or a tensor (..., 2) of them that broadcasts.
    Returns: (..., 4) half-open rectangles.
    """
    x1, y1, x2, y2 = extents.unbind(-1)
    margin_x, margin_y = (x2 - x1) * (0.5 * (factor - 1)), (y2 - y1) * (0.5 * (factor - 1))
    enlarged = torch.stack([x1 - margin_x, y1 - margin_y, x2 + margin_x, y2 + margin_y], dim=-1)
    return clip_boxes(enlarged, size_wh, HALF_OPEN)

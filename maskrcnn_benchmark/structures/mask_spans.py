"""Where the masks of detections lie in an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import pixel_extents
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import MASK_BOXES, MASK_IN_PIXELS


def mask_extents(
    detections: BoxList, side: int, size_wh: Sequence[float] | None = None, boxes_field: str | None = MASK_BOXES
) -> Tensor:
    """The rectangle that the cells of each mask divide.

    Args:
        detections: R boxes. With the field `mask_in_pixels` their masks are pasted as `pixel_extents` says.
        side: M, cells per side of the masks.
        size_wh: (width, height) of the image to paste into; None for the image of the detections.
        boxes_field: field with the boxes that the masks span, if it is present; else they span the detections' boxes.
    Returns: (R, 4) half-open rectangles in pixels of the image of `size_wh`.
    """
    spanned = detections
    if boxes_field is not None and detections.has_field(boxes_field):
        spanned = detections.get_field(boxes_field)
    # extents are scaled, not inclusive corners, which would move a mask's far side by up to a pixel
    in_pixels = detections.has_field(MASK_IN_PIXELS)
    boxes = spanned.convert("xyxy").bbox if in_pixels else spanned.extents()
    if size_wh is not None:
        ratios = (size_wh[0] / detections.size[0], size_wh[1] / detections.size[1])
        boxes = boxes * torch.tensor(ratios * 2, dtype=boxes.dtype).to(boxes.device, non_blocking=True)
    return pixel_extents(boxes, side) if in_pixels else boxes

"""Masks of detections as COCO's compressed run lengths."""

from __future__ import annotations

from typing import Any

import torch
from pycocotools import mask as mask_utils
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.mask_ops import mask_run_lengths
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.mask_spans import mask_extents

RLE = dict[str, Any]  # {"size": [height, width], "counts": str}

# Masks of the image's size take one byte per pixel. This many pixels are encoded at once, to use at most 64 MiB.
_PIXELS_AT_ONCE = 1 << 26


def encode_detected_masks(
    detections: BoxList, mask_field: str, boxes_field: str | None, size_wh: tuple[int, int]
) -> list[RLE]:
    """The masks of one image's detections as run lengths, pasted into an image of `size_wh`.

    Probabilities (R, 1, M, M) are pasted where `mask_extents` says. Masks that the model has pasted already (bool or
    uint8, (R, 1, H, W), MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS) are resized.
    """
    masks = detections.get_field(mask_field)
    if masks.shape[0] == 0:
        return []
    masks = masks[:, 0]
    width, height = int(size_wh[0]), int(size_wh[1])
    if masks.dtype in (torch.bool, torch.uint8):
        rles: list[RLE] = []
        for chunk in masks.split(max(1, _PIXELS_AT_ONCE // (height * width))):
            rles += encode_masks(resize_drawn_masks(chunk, (height, width)))
        return rles
    extents = mask_extents(detections, masks.shape[-1], (width, height), boxes_field)
    runs = mask_run_lengths(masks, extents, (height, width))
    size = [height, width]
    return _plain(mask_utils.frPyObjects([{"size": size, "counts": counts} for counts in runs], height, width))


def encode_masks(masks: Tensor) -> list[RLE]:
    """(R, H, W) bool -> R run lengths. COCO's runs go down the columns; the device of the masks transposes them."""
    columns = masks.transpose(1, 2).contiguous().to(torch.uint8).cpu().numpy()  # (R, W, H)
    return _plain(mask_utils.encode(columns.transpose(2, 1, 0)))  # a Fortran-ordered (H, W, R) view, no copy


def _plain(rles: list[RLE]) -> list[RLE]:
    """pycocotools' run lengths with strings instead of bytes, for JSON."""
    for rle in rles:
        rle["size"] = [int(side) for side in rle["size"]]
        rle["counts"] = rle["counts"].decode("ascii")
    return rles


def resize_drawn_masks(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Masks (R, H, W), set where they are not 0 -> (R, *size_hw) bool."""
    if tuple(masks.shape[-2:]) == size_hw:
        return masks > 0
    resized = F.interpolate((masks > 0)[:, None].float(), size=size_hw, mode="bilinear", align_corners=False)
    return resized[:, 0] > 0.5

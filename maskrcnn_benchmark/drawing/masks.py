"""Masks as a tint with an outline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import paste_masks
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .colours import Colour
from .strokes import line_width

_FILL = 0.45  # opacity of a mask

Window = tuple[int, int, NDArray[np.uint8]]  # left and top in pixels, and the part (h, w) of an image that begins there


def draw_masks(
    canvas: NDArray[np.uint8],
    boxlist: BoxList,
    colours: Sequence[Colour],
    *,
    threshold: float = 0.5,
    stroke_scale: float = 1.0,
) -> None:
    """Tint the pixels of each mask, and within them its outline more strongly; nothing where there are no masks."""
    outline = max(1, line_width(canvas, stroke_scale) // 2)
    scratch = np.empty((2, canvas.size), dtype=np.uint8)
    for (left, top, mask), colour in zip(_mask_windows(boxlist, threshold), colours, strict=False):
        x, y, width, height = cv2.boundingRect(mask)
        if width and height:
            window = canvas[top + y : top + y + height, left + x : left + x + width]
            _tint(window, mask[y : y + height, x : x + width], colour, outline, scratch)


def image_masks(boxlist: BoxList, threshold: float = 0.5) -> Tensor | None:
    """(R, H, W), not 0 where an instance is, or None for boxes without masks; predictions go before ground truth."""
    width, height = (int(side) for side in boxlist.size)
    if boxlist.has_field(fields.MASK):
        masks, spans = _predicted_masks(boxlist)
        return masks if spans is None else paste_masks(masks, spans.extents(), (height, width), threshold)
    return boxlist.get_field(fields.MASKS).get_mask_tensor() if boxlist.has_field(fields.MASKS) else None


def probability_windows(boxlist: BoxList, size_wh: tuple[int, int]) -> Iterator[Window]:
    """For each instance the part of the image scaled to `size_wh` that MASK reaches: its probability * 255 there."""
    masks, spans = _predicted_masks(boxlist)
    if spans is None:
        for mask in masks.numpy():
            heat = mask.astype(np.uint8) * (255 if masks.is_floating_point() or mask.max(initial=0) <= 1 else 1)
            yield 0, 0, cv2.resize(heat, size_wh, interpolation=cv2.INTER_AREA)
        return
    ratios = [size_wh[0] / boxlist.size[0], size_wh[1] / boxlist.size[1]] * 2
    extents = spans.extents().double() * spans.bbox.new_tensor(ratios)
    for left, top, values in _enlarged(masks, extents, size_wh):
        yield left, top, (255 * values).clip(0, 255).astype(np.uint8)


def _mask_windows(boxlist: BoxList, threshold: float) -> Iterator[Window]:
    """For each instance a part of the image, which is not 0 where the instance is; there is nothing of it outside."""
    if boxlist.has_field(fields.MASK):
        masks, spans = _predicted_masks(boxlist)
        if spans is not None:
            size_wh = (int(boxlist.size[0]), int(boxlist.size[1]))
            for left, top, values in _enlarged(masks, spans.extents().double(), size_wh):
                yield left, top, (values > threshold).view(np.uint8)
            return
    drawn = image_masks(boxlist)
    if drawn is not None:
        for mask in drawn.contiguous().numpy():
            yield 0, 0, mask.view(np.uint8) if mask.itemsize == 1 else (mask != 0).astype(np.uint8)


def _predicted_masks(boxlist: BoxList) -> tuple[Tensor, BoxList | None]:
    """MASK as (R, M, M) probabilities and the boxes that they span; or as (R, H, W) drawn masks, and None."""
    masks = boxlist.get_field(fields.MASK)
    masks = masks[:, 0] if masks.dim() == 4 else masks
    if not masks.is_floating_point() and masks.shape[-2:] == (int(boxlist.size[1]), int(boxlist.size[0])):
        return masks, None
    return masks, boxlist.get_field(fields.MASK_BOXES) if boxlist.has_field(fields.MASK_BOXES) else boxlist


def _enlarged(
    masks: Tensor, extents: Tensor, size_wh: tuple[int, int]
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """What `paste_masks` computes, on the CPU and three times as fast, for pictures of many people in a video.

    Its products of matrices meet all cells of a row for each pixel. Here a pixel meets its four cells: the grid's
    columns are blended to the window's columns first, which are few values, then its rows are copied and blended, which
    runs through memory in order.

    Args:
        masks: (R, M, M) probabilities.
        extents: (R, 4) float64, what each mask spans, in pixels.
    Yields: left, top, and the probabilities (h, w) in the part of the image that the mask reaches. They are
        overwritten when the next are asked for; memory that was used before is several times as fast as fresh one.
    """
    grids = np.pad(masks.detach().cpu().float().numpy(), ((0, 0), (1, 1), (1, 1)))  # around a mask lies zero
    memory = np.empty((2, size_wh[0] * size_wh[1]), dtype=np.float32)
    for grid, (x1, y1, x2, y2) in zip(grids, extents.tolist(), strict=True):
        left, columns, right_share = _blended_cells(x1, x2, grid.shape[1] - 2, size_wh[0])
        top, rows, lower_share = _blended_cells(y1, y2, grid.shape[0] - 2, size_wh[1])
        strip = grid[:, columns] + (grid[:, columns + 1] - grid[:, columns]) * right_share
        shape = (len(rows), len(columns))
        values, steps = (part[: shape[0] * shape[1]].reshape(shape) for part in memory)
        strip.take(rows, axis=0, out=values, mode="clip")
        np.diff(strip, axis=0).take(rows, axis=0, out=steps, mode="clip")
        steps *= lower_share[:, None]
        values += steps
        yield left, top, values


def _blended_cells(
    low: float, high: float, cells: int, pixels: int
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    """Which cells a pixel's centre lies between, along one axis of a mask that spans low .. high.

    Returns: the first of the pixels that the mask reaches; for each of them the cell before its centre, counted from
    the cell of zeros that was put in front, and how near it is to the next one, 0 .. 1. None where high <= low.
    """
    if not high > low or not np.isfinite(high - low):
        return 0, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    cell = (high - low) / cells
    first, end = (int(min(max(side, 0), pixels)) for side in (np.floor(low - cell / 2), np.ceil(high + cell / 2)))
    positions = ((np.arange(first, end) + 0.5 - low) / cell + 0.5).clip(0, cells + 1)
    before = np.minimum(positions.astype(np.int64), cells)
    return first, before, (positions - before).astype(np.float32)


def _tint(
    window: NDArray[np.uint8], mask: NDArray[np.uint8], colour: Colour, outline: int, scratch: NDArray[np.uint8]
) -> None:
    """Blend a colour into the part (h, w, 3) of a picture where a mask (h, w) is not 0.

    A mean over the mask tells how deep inside it a pixel lies: the outline is where that is below 1. At the tips of
    steps it is least, and these have the weaker tint of the mask's inside, which makes slanted edges smoother. The
    pixels that change are those of the mask, no others.

    Args:
        scratch: (2, S), S >= h * w * 3; memory that was used before.
    """
    padded = np.zeros((mask.shape[0] + 2 * outline, mask.shape[1] + 2 * outline), dtype=np.uint8)
    inside = padded[outline:-outline, outline:-outline]
    cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY, dst=inside)
    side = 2 * outline + 1
    depth = cv2.blur(padded, (side, side))[outline:-outline, outline:-outline]
    straight = int(255 * (outline + 1) / side)  # at the outermost pixel along a straight edge
    edge = cv2.bitwise_and(cv2.inRange(depth, straight - 8, 254), inside)
    flat, blended = (memory[: window.size].reshape(window.shape) for memory in scratch)
    cv2.rectangle(flat, (0, 0), (flat.shape[1], flat.shape[0]), colour, -1)
    cv2.addWeighted(window, 1 - _FILL, flat, _FILL, 0, dst=blended)
    cv2.copyTo(blended, inside, window)
    cv2.copyTo(flat, edge, window)

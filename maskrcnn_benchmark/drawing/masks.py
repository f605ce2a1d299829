"""Masks as a tint with an outline, and further masks of the same instances as outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import paste_masks, paste_windows
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.mask_spans import mask_extents
from maskrcnn_benchmark.structures.named_masks import mask_names, with_mask

from .colours import Colour
from .strokes import line_width

_FILL = 0.45  # opacity of a mask

Window = tuple[int, int, NDArray[np.uint8]]  # left and top in pixels, and the part (h, w) of the image from there


def draw_masks(
    canvas: NDArray[np.uint8],
    boxlist: BoxList,
    colours: Sequence[Colour],
    *,
    mask: str | None = None,
    threshold: float = 0.5,
    stroke_scale: float = 1.0,
) -> None:
    """Tint the pixels of each mask, and its outline more strongly. Draws nothing for boxes without masks.

    If instances have several masks, the others are drawn as outlines in the same colour, above all tints.

    Args:
        mask: name of the mask that is filled; None for the first. If there is no such mask, all are outlines.
        threshold: pixels with a higher probability are in a predicted mask.
    """
    names = mask_names(boxlist)
    filled = names[0] if mask is None and names else mask
    line = line_width(canvas, stroke_scale)
    if filled in names:
        scratch = np.empty((2, canvas.size), dtype=np.uint8)
        for (window, inside), colour in zip(_parts(canvas, boxlist, filled, threshold), colours, strict=False):
            if inside.size:
                _tint(window, inside, colour, max(1, line // 2), scratch)
    for name in names:
        if name != filled:
            for (window, inside), colour in zip(_parts(canvas, boxlist, name, threshold), colours, strict=False):
                if inside.size:
                    _outline(window, inside, colour, line)


def _parts(
    canvas: NDArray[np.uint8], boxlist: BoxList, name: str, threshold: float
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """For each instance the part (h, w, 3) of the canvas around its mask, and the mask (h, w) there."""
    for left, top, mask in _mask_windows(with_mask(boxlist, name), threshold):
        x, y, width, height = cv2.boundingRect(mask)
        yield (
            canvas[top + y : top + y + height, left + x : left + x + width],
            mask[y : y + height, x : x + width],
        )


def image_masks(boxlist: BoxList, threshold: float = 0.5) -> Tensor | None:
    """(R, H, W), nonzero inside each instance; None for boxes without masks. MASK is preferred to MASKS."""
    width, height = (int(side) for side in boxlist.size)
    if boxlist.has_field(fields.MASK):
        masks, extents = _predicted_masks(boxlist)
        return masks if extents is None else paste_masks(masks, extents, (height, width), threshold)
    return boxlist.get_field(fields.MASKS).get_mask_tensor() if boxlist.has_field(fields.MASKS) else None


def probability_windows(boxlist: BoxList, size_wh: tuple[int, int]) -> Iterator[Window]:
    """MASK's probability * 255 in the image scaled to `size_wh`: one window per instance; outside of it all is 0."""
    masks, extents = _predicted_masks(boxlist, size_wh)
    if extents is None:
        for mask in masks.numpy():
            heat = mask.astype(np.uint8) * (255 if mask.max(initial=0) <= 1 else 1)
            yield 0, 0, cv2.resize(heat, size_wh, interpolation=cv2.INTER_AREA)
        return
    yield from _windows(masks, extents, size_wh, threshold=-1.0)


def _mask_windows(boxlist: BoxList, threshold: float) -> Iterator[Window]:
    """A window around each instance, nonzero inside the instance."""
    if boxlist.has_field(fields.MASK):
        masks, extents = _predicted_masks(boxlist)
        if extents is not None:
            yield from _windows(masks, extents, (int(boxlist.size[0]), int(boxlist.size[1])), threshold)
            return
    drawn = image_masks(boxlist)
    if drawn is not None:
        for mask in drawn.contiguous().numpy():
            yield 0, 0, mask.view(np.uint8) if mask.itemsize == 1 else (mask != 0).astype(np.uint8)


def _windows(masks: Tensor, extents: Tensor, size_wh: tuple[int, int], threshold: float) -> Iterator[Window]:
    """`paste_windows` as arrays of uint8."""
    for left, top, window in paste_windows(masks, extents, size_wh[::-1], threshold):
        yield left, top, window.numpy().view(np.uint8)


def _predicted_masks(boxlist: BoxList, size_wh: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """MASK as (R, M, M) probabilities with their extents (R, 4), or as (R, H, W) masks of the image with None.

    Extents are in the image scaled to `size_wh`, or in the boxlist's image.
    """
    masks = boxlist.get_field(fields.MASK)
    masks = masks[:, 0] if masks.dim() == 4 else masks
    if not masks.is_floating_point() and masks.shape[-2:] == (int(boxlist.size[1]), int(boxlist.size[0])):
        return masks, None
    return masks, mask_extents(boxlist, masks.shape[-1], size_wh)


def _tint(
    window: NDArray[np.uint8], mask: NDArray[np.uint8], colour: Colour, outline: int, scratch: NDArray[np.uint8]
) -> None:
    """Blend a colour into a window (h, w, 3) of the picture where the mask (h, w) is nonzero; other pixels stay.

    The outline consists of the pixels of the mask whose neighbourhood is partly outside it: a box filter gives the
    fraction inside. It is lowest at the tips of steps along slanted edges; these get the weaker tint of the interior,
    which makes such edges smoother.

    Args:
        outline: width of the outline in pixels.
        scratch: (2, S) with S >= h * w * 3; reused memory is faster than new memory.
    """
    padded = np.zeros((mask.shape[0] + 2 * outline, mask.shape[1] + 2 * outline), dtype=np.uint8)
    inside = padded[outline:-outline, outline:-outline]
    cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY, dst=inside)
    side = 2 * outline + 1
    depth = cv2.blur(padded, (side, side))[outline:-outline, outline:-outline]
    straight = int(255 * (outline + 1) / side)  # depth of the outermost pixels along a straight edge
    edge = cv2.bitwise_and(cv2.inRange(depth, straight - 8, 254), inside)
    flat, blended = (memory[: window.size].reshape(window.shape) for memory in scratch)
    cv2.rectangle(flat, (0, 0), (flat.shape[1], flat.shape[0]), colour, -1)
    cv2.addWeighted(window, 1 - _FILL, flat, _FILL, 0, dst=blended)
    cv2.copyTo(blended, inside, window)
    cv2.copyTo(flat, edge, window)


def _outline(window: NDArray[np.uint8], mask: NDArray[np.uint8], colour: Colour, width: int) -> None:
    """Draw the border of a mask (h, w) on a window (h, w, 3) of the picture."""
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(window)
    cv2.drawContours(drawn, contours, -1, colour, width, cv2.LINE_AA)
    window[:] = drawn

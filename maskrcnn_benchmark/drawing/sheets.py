"""Pictures composed of several pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .instances import as_canvas, best_last
from .masks import Window, probability_windows
from .text import Categories, label_texts, text_size, write_bare_text, write_text

PANEL_STROKES = 1.4  # `stroke_scale` of panels side by side, which are usually shown at a reduced size
_TILE_DIMMING = 0.35  # brightness of the image below a heat map
_SMALLEST_HEIGHT = 400  # pixels


def mask_montage(
    image: NDArray[np.uint8],
    boxlist: BoxList,
    per_side: int,
    categories: Categories = None,
    *,
    channel_order: str = "RGB",
) -> NDArray[np.uint8]:
    """Heat maps of the mask probabilities of the best detections, in a square of tiles, each over the dimmed image.

    Args:
        image: (H, W, 3) uint8, in `channel_order`.
        boxlist: boxes of that image size with MASK: probabilities, or masks of the image.
        per_side: tiles per row and per column.
    Returns: (H, W, 3) uint8, in `channel_order`; surplus tiles show the dimmed image only.
    Raises: ValueError if the boxes do not belong to an image of this size or have no MASK, or if `per_side` is 0.
    """
    if per_side < 1:
        raise ValueError(f"mask_montage: per_side is {per_side}; it must be 1 or more")
    if not boxlist.has_field(fields.MASK):
        raise ValueError(
            f"mask_montage takes detections with the field {fields.MASK!r}; these have "
            f"{', '.join(boxlist.fields()) or 'no fields'}"
        )
    sheet = as_canvas(image, boxlist)
    order = best_last(boxlist.to("cpu").convert("xyxy"))
    best = order[list(reversed(range(len(order))))[: per_side**2]]
    width, height = max(1, image.shape[1] // per_side), max(1, image.shape[0] // per_side)
    dimmed = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    dimmed = cv2.convertScaleAbs(dimmed, alpha=_TILE_DIMMING)
    sheet[:] = 0
    tiles = [
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(per_side)
        for column in range(per_side)
    ]
    for tile in tiles:
        tile[:] = dimmed
    maps = probability_windows(best, (width, height))
    for tile, heat_map, text in zip(tiles, maps, label_texts(best, categories), strict=False):
        _draw_heat(tile, heat_map, channel_order)
        write_text(tile, text, (0, 0), (255, 255, 255))
    return sheet


def _draw_heat(tile: NDArray[np.uint8], heat_map: Window, channel_order: str) -> None:
    """Draw a heat map of probabilities * 255 over a tile, except where they are 0."""
    left, top, heat = heat_map
    if heat.size:
        coloured = cv2.applyColorMap(heat, cv2.COLORMAP_TURBO)  # BGR
        coloured = coloured if channel_order == "BGR" else coloured[..., ::-1]
        window = tile[top : top + heat.shape[0], left : left + heat.shape[1]]
        cv2.copyTo(np.ascontiguousarray(coloured), heat, window)


def enlarge_small(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """Enlarge an image (H, W, 3) that is too small for sharp lines and text. Returns: the image and the factor."""
    factor = max(1, -(-_SMALLEST_HEIGHT // image.shape[0]))
    if factor == 1:
        return image, 1
    size_wh = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_CUBIC), dtype=np.uint8), int(factor)


def side_by_side(
    panels: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, height: int | None = None, gap: int = 8
) -> np.ndarray:
    """Join pictures from left to right, each under its title.

    Args:
        panels: images (H, W, 3) uint8, RGB; they are scaled to the same height.
        titles: one line per panel; cut off at the panel's right edge.
        height: of the panels, in pixels; by default the largest height.
        gap: white space between panels, in pixels.
    Returns: (H', W', 3) uint8, RGB, on white.
    """
    if not panels or (titles is not None and len(titles) != len(panels)):
        raise ValueError(f"side_by_side: {len(panels)} panels with {len(titles or ())} titles")
    height = height or max(panel.shape[0] for panel in panels)
    scaled = [_of_height(panel, height) for panel in panels]
    if titles is not None:
        scale = max(0.4, height / 800)
        scaled = [_titled(panel, title, scale) for panel, title in zip(scaled, titles, strict=True)]
    total = sum(panel.shape[1] for panel in scaled) + gap * (len(scaled) - 1)
    sheet = np.full((scaled[0].shape[0], total, 3), 255, dtype=np.uint8)
    left = 0
    for panel in scaled:
        sheet[:, left : left + panel.shape[1]] = panel
        left += panel.shape[1] + gap
    return sheet


def _of_height(panel: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(panel.shape[1] * height / panel.shape[0]))
    method = cv2.INTER_AREA if height < panel.shape[0] else cv2.INTER_CUBIC
    return panel if panel.shape[0] == height else cv2.resize(panel, (width, height), interpolation=method)


def _titled(panel: np.ndarray, title: str, scale: float) -> np.ndarray:
    """The panel with its title on a white strip above it."""
    strip = text_size("Ag", scale)[1] + 4
    sheet = np.full((panel.shape[0] + strip, panel.shape[1], 3), 255, dtype=np.uint8)
    write_bare_text(sheet, title, (2, 2), (0, 0, 0), scale)
    sheet[strip:] = panel
    return sheet

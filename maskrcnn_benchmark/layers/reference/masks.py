"""Masks pasted into images, as matrix products with interpolation weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Pixels that one step of a chunked loop holds at a time; 64 MiB in float32.
_CHUNK_ELEMENTS = 1 << 24


def paste_masks_(pasted: Tensor, masks: Tensor, extents: Tensor, threshold: float, zeroed: bool) -> None:
    """On the CPU window by window, since most regions are a small part of the image; else many whole images at once."""
    if not zeroed:
        pasted.zero_()
    height, width = pasted.shape[1:]
    if pasted.device.type == "cpu":
        for index, (rows, columns) in enumerate(_windows(extents, masks.shape, height, width)):
            one = slice(index, index + 1)
            window = paste_window(masks[one], extents[one], rows, columns, threshold)
            pasted[one, slice(*rows), slice(*columns)] = window
        return
    step = max(1, _CHUNK_ELEMENTS // max(1, height * width))
    for first in range(0, len(masks), step):
        chunk = slice(first, first + step)
        pasted[chunk] = paste_window(masks[chunk], extents[chunk], (0, height), (0, width), threshold)


def mask_run_lengths(
    masks: Tensor, extents: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    runs = []
    for mask, extent in zip(masks.split(1), extents.split(1), strict=True):
        pasted = torch.zeros((1, height, width), dtype=torch.bool, device=masks.device)
        paste_masks_(pasted, mask, extent, threshold, True)
        column_by_column = pasted[0].t().flatten()
        changes = column_by_column.diff(prepend=column_by_column.new_zeros(1)).nonzero().flatten()
        ends = torch.cat((changes.new_zeros(1), changes, changes.new_full((1,), height * width)))
        runs.append(ends.diff())
    starts = torch.tensor([0, *(len(lengths) for lengths in runs)], device=masks.device).cumsum(0)
    return torch.cat([starts.new_zeros(0), *runs]), starts


def paste_window(
    masks: Tensor, regions: Tensor, rows: tuple[int, int], columns: tuple[int, int], threshold: float
) -> Tensor:
    """The window rows x columns of the image with each mask (R, M, M) on it: bool, or uint8 if threshold < 0."""
    row_weights = _tent_weights(_pixels_in_cells(rows, regions[:, 1::2], masks.shape[1]), masks.shape[1])
    column_weights = _tent_weights(_pixels_in_cells(columns, regions[:, 0::2], masks.shape[2]), masks.shape[2])
    with torch.autocast(device_type=masks.device.type, enabled=False):
        values = row_weights.to(masks.dtype) @ masks @ column_weights.to(masks.dtype).transpose(1, 2)
    return values > threshold if threshold >= 0 else (values * 255).clamp(0, 255).to(torch.uint8)


def touched_pixels(extents: Tensor, cells_hw: tuple[int, int], height: int, width: int) -> Tensor:
    """(R, 4) int64: the pixels left, top, right, bottom (right and bottom exclusive) that each mask can reach."""
    x1, y1, x2, y2 = extents.unbind(1)
    margin_x, margin_y = (x2 - x1) / (2 * cells_hw[1]), (y2 - y1) / (2 * cells_hw[0])
    left, right = _pixel_range(x1 - margin_x, x2 + margin_x, width)
    top, bottom = _pixel_range(y1 - margin_y, y2 + margin_y, height)
    return torch.stack((left, top, right, bottom), dim=1)


def _pixel_range(low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(R,) int64: the first of `count` pixels whose centre may lie in [low, high], and one after the last.

    Where an end is NaN the range is empty.
    """
    first = (low - 0.5).floor().clamp(0, count).nan_to_num(nan=0.0)
    last = (high + 0.5).ceil().clamp(0, count).nan_to_num(nan=0.0).maximum(first)
    return first.long(), last.long()


def _windows(
    extents: Tensor, shape: torch.Size, height: int, width: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """For each region the rows and the columns, first and one after the last, that its mask can reach."""
    for left, top, right, bottom in touched_pixels(extents, (shape[1], shape[2]), height, width).tolist():
        yield (top, bottom), (left, right)


def _pixels_in_cells(pixels: tuple[int, int], span: Tensor, cells: int) -> Tensor:
    """Centres of pixels first .. last - 1 as positions (R, n), in cells, among the cells of each span (R, 2).

    Cell i has its centre at position i. A span without extent puts every pixel out of reach.
    """
    centres = torch.arange(*pixels, device=span.device, dtype=span.dtype) + 0.5
    extent = span[:, 1:] - span[:, :1]
    return torch.where(extent > 0, (centres - span[:, :1]) / extent * cells - 0.5, -2.0)


def _tent_weights(positions: Tensor, cells: int) -> Tensor:
    """(R, n) positions in cells -> (R, n, cells) weights of linear interpolation; zero beyond the cells."""
    centres = torch.arange(cells, device=positions.device, dtype=positions.dtype)
    return (1 - (positions[..., None] - centres).abs()).clamp(min=0)

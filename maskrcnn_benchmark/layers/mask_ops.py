"""Masks between the image and the frame of a region: crop, resample, paste.

Coordinates are continuous: pixel p covers [p, p + 1), a region has extents x1, y1, x2, y2 (`box_extents`), and cell i
of M cells across a region of width w covers [x1 + i * w / M, x1 + (i + 1) * w / M).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.layers._extension import ops
from maskrcnn_benchmark.layers._tracing import fake_kernel
from maskrcnn_benchmark.layers.reference.masks import touched_pixels
from maskrcnn_benchmark.layers.roi_align import roi_align
from maskrcnn_benchmark.utils.allocator import RecycledMemory

# Values that one step of a chunked loop holds at a time; 64 MiB in float32.
_CHUNK_ELEMENTS = 1 << 24
# Areas are sums of rounded products. The tolerance keeps rounding from deciding whether a cell is half covered.
_AREA_TOLERANCE = 1e-9
# Clearing used pages takes a third of the time of mapping new ones.
_pasted_memory = RecycledMemory(max_bytes=256 << 20)


def rasterize_polygons(polygons: Sequence[Sequence[np.ndarray]], extents: Tensor, size: int) -> Tensor:
    """Draw polygons on a size x size grid over each region, exactly as pycocotools draws them on an image of that size.

    Args:
        polygons: per region the polygons (P, 2) of one instance, x and y in pixels; their union is drawn.
        extents: (R, 4).
        size: cells per side of the grid.
    Returns: (R, size, size) uint8, 0 or 1, on the device of extents; zero if a region is empty.
    Raises: ValueError if the counts differ or a polygon is not (P >= 3, 2).
    """
    if len(polygons) != len(extents):
        raise ValueError(f"rasterize_polygons: {len(polygons)} instances for {len(extents)} regions")
    distinct = {id(instance): instance for instance in polygons}
    for polygon in (polygon for instance in distinct.values() for polygon in instance):
        if polygon.ndim != 2 or polygon.shape[0] < 3 or polygon.shape[1] != 2:
            raise ValueError(f"a polygon is (P, 2) with at least 3 points, not {polygon.shape}")
    corners = extents.detach().to("cpu", torch.float64)
    place = {key: position for position, key in enumerate(distinct)}
    parts = [polygon for instance in distinct.values() for polygon in instance]
    drawn: Tensor = ops.rasterize_polygons(
        torch.from_numpy(np.concatenate([np.zeros((0, 2)), *parts]).astype(np.float64, copy=False)),
        _starts([len(part) for part in parts]),
        _starts([len(instance) for instance in distinct.values()]),
        torch.tensor([place[id(instance)] for instance in polygons], dtype=torch.int64),
        corners,
        size,
    )
    return drawn.to(extents.device)


def _starts(lengths: Sequence[int]) -> Tensor:
    """Start of each part of a concatenation, given the lengths of the parts, and the end of the last."""
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def cover_fractions(
    bitmaps: Sequence[Tensor], bitmap_extents: Tensor, indices: Tensor, extents: Tensor, size_hw: tuple[int, int]
) -> Tensor:
    """Divide each region into a grid, and compute the exact fraction of each cell that the region's bitmap covers.

    Args:
        bitmaps: G tensors (h, w) of 0 and 1 (any dtype, sizes may differ), all on one device.
        bitmap_extents: (G, 4), the rectangle that the cells of each bitmap divide evenly; a bitmap is 0 outside it.
        indices: (R,) int64 into bitmaps, one per region.
        extents: (R, 4) of the regions.
        size_hw: rows and columns of the grid.
    Returns: (R, *size_hw) float64 in [0, 1] on the bitmaps' device; 0 if a region or a bitmap is empty.
    """
    if len(bitmaps) == 0:
        if len(indices):
            raise ValueError(f"cover_fractions: {len(indices)} regions, but no bitmap to cut them from")
        return torch.zeros((0, *size_hw), dtype=torch.float64, device=extents.device)
    table, starts, shapes = _summed_areas(bitmaps)
    indices = indices.to(table.device)
    regions = extents.detach().to(table.device, torch.float64)
    sources = bitmap_extents.detach().to(table.device, torch.float64)
    fractions = regions.new_zeros((len(indices), *size_hw))
    step = max(1, _CHUNK_ELEMENTS // (8 * (size_hw[0] + 1) * (size_hw[1] + 1)))
    for first in range(0, len(indices), step):
        chosen, region = indices[first : first + step], regions[first : first + step]
        source, (height, width) = sources[chosen], shapes[chosen].unbind(1)
        row, row_part, cell_height = _grid_lines(region[:, 1::2], source[:, 1::2], height, size_hw[0])
        column, column_part, cell_width = _grid_lines(region[:, 0::2], source[:, 0::2], width, size_hw[1])
        below = (width + 1)[:, None, None]
        corner = starts[chosen][:, None, None] + row[:, :, None] * below + column[:, None, :]
        upper = torch.lerp(table[corner].double(), table[corner + 1].double(), column_part[:, None, :])
        lower = torch.lerp(table[corner + below].double(), table[corner + below + 1].double(), column_part[:, None, :])
        covered = torch.lerp(upper, lower, row_part[:, :, None]).diff(dim=1).diff(dim=2)
        cell_area = (cell_height * cell_width)[:, None, None]
        fractions[first : first + step] = torch.where(cell_area > 0, covered / cell_area, 0.0)
    return fractions


def crop_bitmaps(bitmaps: Tensor, indices: Tensor, extents: Tensor, size: int) -> Tensor:
    """Crop regions from whole-image bitmaps to size x size grids.

    Args:
        bitmaps: (G, H, W) of 0 and 1, any dtype.
        indices: (R,) int64 into bitmaps.
        extents: (R, 4); outside the image a bitmap is 0.
        size: cells per side of the grid.
    Returns: (R, size, size) uint8 on the bitmaps' device: 1 where at least half of a cell's area is covered.
    """
    if bitmaps.dim() != 3:
        raise ValueError(f"crop_bitmaps takes bitmaps (G, H, W), not {tuple(bitmaps.shape)}")
    count, height, width = bitmaps.shape
    whole = extents.new_tensor([0.0, 0.0, width, height]).expand(count, 4)
    return at_least_half(cover_fractions(list(bitmaps), whole, indices, extents, (size, size)))


def at_least_half(fractions: Tensor) -> Tensor:
    """Covered fractions of cells -> uint8, 1 from one half on."""
    return (fractions >= 0.5 - _AREA_TOLERANCE).to(torch.uint8)


def paste_masks(masks: Tensor, extents: Tensor, image_size_hw: Sequence[int], threshold: float = 0.5) -> Tensor:
    """Resize the mask of each region bilinearly and paste it into the image.

    A pixel takes the value at its centre, u = (p + 0.5 - x1) / w * M - 0.5 in cells. The mask is padded with zeros:
    from the outermost cell centres it falls off to 0 within one cell, half of which is outside the extents.

    Args:
        masks: (R, M, M) probabilities.
        extents: (R, 4), the rectangle of each mask; an empty region stays zero.
        image_size_hw: (height, width) in pixels.
        threshold: a pixel is set if its probability exceeds this; negative to get the probabilities themselves.
    Returns: (R, height, width) bool; uint8, probability * 255 rounded down, if the threshold is negative. On a CPU the
        memory of earlier results that are no longer in use is reused; up to 256 MiB are kept.
    """
    _check_masks(masks, extents)
    shape = (len(masks), int(image_size_hw[0]), int(image_size_hw[1]))
    dtype = torch.bool if threshold >= 0 else torch.uint8
    if masks.device.type == "cpu":
        block, zeroed = _pasted_memory.take(shape)
        pasted = torch.from_numpy(block).view(dtype)
    else:
        pasted, zeroed = masks.new_zeros(shape, dtype=dtype), True
    values = masks.detach().to(torch.promote_types(masks.dtype, torch.float32))
    ops.paste_masks_(pasted, values, extents.detach().double(), float(threshold), zeroed)
    return pasted


def pixel_extents(boxes: Tensor, side: int) -> Tensor:
    """The rectangles in which upstream and torchvision paste masks: whole pixels around each box.

    They pad a mask with a cell of zeros, enlarge the box in proportion, cut its corners to integers, count both corner
    pixels, and resize the padded mask to that many pixels. That is `paste_masks` in the inner cells of this rectangle.

    Args:
        boxes: (R, 4) corners in pixels of the image, of any convention.
        side: M, cells per side of a mask without padding.
    Returns: (R, 4) for `paste_masks`, float64.
    """
    scale = (side + 2) / side
    centres, reach = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    first = (centres - reach).trunc().double()
    sizes = ((centres + reach).trunc().double() - first + 1).clamp(min=1)
    cells = sizes / (side + 2)
    return torch.cat([first + cells, first + sizes - cells], dim=1)


def mask_run_lengths(
    masks: Tensor, extents: Tensor, image_size_hw: Sequence[int], threshold: float = 0.5
) -> list[np.ndarray]:
    """Run lengths (COCO's uncompressed RLE) of the masks that `paste_masks` draws, without drawing whole images.

    Args:
        masks: (R, M, M) probabilities. From a GPU they are copied to the host; they are much smaller than the images.
        extents: (R, 4), the rectangle of each mask.
        image_size_hw: (height, width) in pixels.
        threshold: a pixel is set if its probability exceeds this; not negative.
    Returns: for each mask the lengths, int64, of its runs of equal pixels, column by column. The first run is of zeros;
        its length is 0 if the first pixel is set.
    """
    _check_masks(masks, extents)
    if len(masks) == 0:
        return []
    height, width = int(image_size_hw[0]), int(image_size_hw[1])
    masks = masks.detach().cpu()
    masks, regions = masks.to(torch.promote_types(masks.dtype, torch.float32)), extents.detach().cpu().double()
    lengths, starts = ops.mask_run_lengths(masks, regions, height, width, float(threshold))
    return np.split(lengths.numpy(), starts[1:-1].numpy())


def paste_windows(
    masks: Tensor, extents: Tensor, image_size_hw: Sequence[int], threshold: float = 0.5
) -> Iterator[tuple[int, int, Tensor]]:
    """`paste_masks` one region at a time, limited to the window of the image that its mask can reach.

    Yields: left, top and the pixels (h, w) of the window, bool or uint8; a window may be empty.
    """
    _check_masks(masks, extents)
    height, width = int(image_size_hw[0]), int(image_size_hw[1])
    regions = extents.detach().double()
    windows = touched_pixels(regions, (masks.shape[1], masks.shape[2]), height, width)
    in_window = regions - windows[:, [0, 1, 0, 1]]  # x1, y1, x2, y2 from the window's corner
    for index, (left, top, right, bottom) in enumerate(windows.tolist()):
        one = slice(index, index + 1)
        yield left, top, paste_masks(masks[one], in_window[one], (bottom - top, right - left), threshold)[0]


def expected_iou(masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Estimate the IoU of each thresholded mask with its object: expected intersection over expected union.

    Assumes that each cell belongs to the object with the cell's probability, independently of the others.

    Args:
        masks: (R, M, M) probabilities; half precision is computed in float32.
        threshold: a cell belongs to the mask if its probability exceeds this, as in `paste_masks`.
    Returns: (R,) in [0, 1]: 1 if every cell is certain, 0 for an empty mask. Not differentiable.
    """
    if masks.dim() != 3:
        raise ValueError(f"expected_iou takes masks (R, M, M), not {tuple(masks.shape)}")
    probabilities = masks.detach().to(torch.promote_types(masks.dtype, torch.float32)).flatten(1)
    drawn = probabilities > threshold
    intersection = probabilities.where(drawn, 0.0).sum(dim=1)
    union = probabilities.where(~drawn, 1.0).sum(dim=1)
    return intersection / union.clamp(min=1)  # a union below one cell means an empty mask


def resample_grids(
    values: Tensor,
    src_extents: Tensor,
    dst_extents: Tensor,
    size: int,
    mode: str = "bilinear",
    fill: float | Tensor = 0.0,
) -> Tensor:
    """Resample a grid over one region to a grid over another region.

    Each new cell takes the value at its centre. Inside the old region [x1, x2) x [y1, y2) the value is interpolated
    between the centres of the old cells; between an outermost centre and the edge of the region it is constant. Outside
    the old region it is `fill`. If new cells are larger than old ones, some old cells are skipped; mode "area" averages
    over each new cell instead, with constant old cells and `fill` around them.

    Args:
        values: (R, C, h, w), finite; half precision is computed in float32.
        src_extents: (R, 4), the rectangle of the old cells; an empty region has no values.
        dst_extents: (R, 4), the rectangle of the new cells.
        size: new cells per side.
        mode: "bilinear", "area", or "nearest" for the value of the old cell that contains the centre.
        fill: the value outside the old region; a number, or (R or 1, C or 1, 1, 1).
    Returns: (R, C, size, size) in the dtype of values; differentiable in values, not in the extents.
    """
    if values.dim() != 4 or src_extents.shape != (len(values), 4) or dst_extents.shape != (len(values), 4):
        raise ValueError(
            "resample_grids takes values (R, C, h, w) and two extents (R, 4), not "
            f"{tuple(values.shape)}, {tuple(src_extents.shape)}, {tuple(dst_extents.shape)}"
        )
    if mode not in ("bilinear", "nearest", "area"):
        raise ValueError(f"resample_grids: mode is {mode!r}; it can be 'bilinear', 'nearest' or 'area'")
    dtype = torch.promote_types(values.dtype, torch.float32)
    src, dst = src_extents.detach().double(), dst_extents.detach().double()
    if mode == "bilinear":
        return _interpolate(values.to(dtype), src, dst, size, fill).to(values.dtype)
    row_weights, row_covered = _resampling_weights(src[:, 1::2], dst[:, 1::2], values.shape[2], size, mode)
    column_weights, column_covered = _resampling_weights(src[:, 0::2], dst[:, 0::2], values.shape[3], size, mode)
    with torch.autocast(device_type=values.device.type, enabled=False):
        columns_done = torch.einsum("rchw,rjw->rchj", values.to(dtype), column_weights.to(dtype))
        resampled = torch.einsum("rih,rchj->rcij", row_weights.to(dtype), columns_done)
    covered = row_covered[:, None, :, None] * column_covered[:, None, None, :]
    if mode == "area":
        resampled = resampled + fill * (1 - covered.to(dtype))
    else:
        resampled = torch.where(covered > 0, resampled, fill)
    return resampled.to(values.dtype)


def _interpolate(values: Tensor, src: Tensor, dst: Tensor, size: int, fill: float | Tensor) -> Tensor:
    """`resample_grids` by bilinear interpolation; extents are float64.

    This is ROIAlign with one map per region and one sample per bin, except that values outside the region are `fill`.
    """
    (left, right), (top, bottom) = (
        _in_cells(dst[:, axis::2], src[:, axis::2], values.shape[3 - axis]).unbind(1) for axis in (0, 1)
    )
    maps = torch.arange(len(values), device=src.device, dtype=src.dtype)
    frames = torch.stack([maps, left, top, right, bottom], dim=1).to(values.dtype)
    sampled = roi_align(values, frames, size, 1.0, 1, aligned=True)
    columns, rows = (_centres_inside(src[:, axis::2], dst[:, axis::2], size)[1] for axis in (0, 1))
    return sampled.where((rows[:, :, None] & columns[:, None, :])[:, None], fill)


def _in_cells(coordinates: Tensor, span: Tensor, cells: int) -> Tensor:
    """Convert coordinates (R, n) to cells of each span (R, 2); 0 if a span is empty."""
    extent = span[:, 1:] - span[:, :1]
    return torch.where(extent > 0, (coordinates - span[:, :1]) / extent * cells, 0.0)


def _centres_inside(src: Tensor, dst: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Centres (R, size) of new cells across spans dst (R, 2), and (R, size) bool: is it in the old span src (R, 2)?"""
    steps = (torch.arange(size, device=src.device, dtype=src.dtype) + 0.5) / size
    centres = dst[:, :1] + steps * (dst[:, 1:] - dst[:, :1])
    return centres, (centres >= src[:, :1]) & (centres < src[:, 1:])


def _check_masks(masks: Tensor, extents: Tensor) -> None:
    if masks.dim() != 3 or extents.shape != (len(masks), 4):
        raise ValueError(
            f"paste_masks takes masks (R, M, M) and extents (R, 4), not {tuple(masks.shape)}, {tuple(extents.shape)}"
        )


def _summed_areas(bitmaps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Summed-area tables of G bitmaps in one flat int32 tensor, the start of each table (G,), and the sizes (G, 2).

    Entry (i, j) of a table (h + 1, w + 1) counts the ones above row i and left of column j. Between entries the count
    is bilinear, so areas of fractional windows are exact.
    """
    tables, sizes = [], []
    for bitmap in bitmaps:
        bitmap = bitmap if bitmap.numel() else bitmap.new_zeros((1, 1))
        ones = torch.nn.functional.pad((bitmap != 0).to(torch.int32), (1, 0, 1, 0))
        tables.append(ones.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32).flatten())
        sizes.append(bitmap.shape)
    shapes = torch.tensor(sizes, dtype=torch.int64)
    ends = (shapes + 1).prod(dim=1).cumsum(0)
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    device = tables[0].device
    return torch.cat(tables), starts.to(device), shapes.to(device)


def _grid_lines(span: Tensor, source: Tensor, cells: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Locate the count + 1 grid lines over each span among the cells of its source.

    Args:
        span, source: (R, 2), first and last coordinate.
        cells: (R,) int64, number of cells of the source.
    Returns: (R, count + 1) index of the source line before, (R, count + 1) distance from it in source cells, and the
        (R,) size of a grid cell in source cells, not positive if span or source is empty. Lines outside the source are
        moved to its edge, since there is nothing to count beyond it.
    """
    extent = source[:, 1] - source[:, 0]
    scale = torch.where(extent > 0, cells / extent, 0.0)
    steps = torch.arange(count + 1, device=span.device, dtype=span.dtype) / count
    lines = span[:, :1] + steps * (span[:, 1:] - span[:, :1])
    lines = ((lines - source[:, :1]) * scale[:, None]).clamp(min=0).minimum(cells[:, None])
    before = lines.long().minimum((cells - 1)[:, None])
    return before, lines - before, (span[:, 1] - span[:, 0]).clamp(min=0) * scale / count


def _resampling_weights(src: Tensor, dst: Tensor, cells: int, size: int, mode: str) -> tuple[Tensor, Tensor]:
    """Weights (R, size, cells) of the old cells in each new cell, and their sum (R, size): the part of the new cell (of
    its centre, if mode is "nearest") that is in the old span."""
    extent = src[:, 1:] - src[:, :1]
    if mode == "area":
        steps = torch.arange(size + 1, device=src.device, dtype=src.dtype) / size
        lines = dst[:, :1] + steps * (dst[:, 1:] - dst[:, :1])
        lines = torch.where(extent > 0, (lines - src[:, :1]) / extent * cells, -1.0)  # in old cells
        old = torch.arange(cells, device=src.device, dtype=src.dtype)
        low, high = lines[:, :-1, None], lines[:, 1:, None]
        overlaps = (torch.minimum(high, old + 1) - torch.maximum(low, old)).clamp(min=0)
        weights = torch.where(high > low, overlaps / (high - low), 0.0)
        return weights, weights.sum(2)
    centres, inside = _centres_inside(src, dst, size)
    old_cell = torch.where(inside, (centres - src[:, :1]) / extent * cells, 0.0).floor().clamp(0, cells - 1)
    weights = (old_cell[..., None] == torch.arange(cells, device=src.device)).to(src.dtype)
    return weights * inside[..., None], inside.to(src.dtype)


@fake_kernel("paste_masks_")
def _paste_masks_fake(pasted: Tensor, masks: Tensor, extents: Tensor, threshold: float, zeroed: bool) -> None:
    return None


@fake_kernel("mask_run_lengths")
def _mask_run_lengths_fake(
    masks: Tensor, extents: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    lengths = masks.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
    return lengths, masks.new_empty(masks.shape[0] + 1, dtype=torch.int64)


@fake_kernel("rasterize_polygons")
def _rasterize_polygons_fake(
    points: Tensor, parts: Tensor, instances: Tensor, indices: Tensor, extents: Tensor, size: int
) -> Tensor:
    return points.new_empty((indices.shape[0], size, size), dtype=torch.uint8)

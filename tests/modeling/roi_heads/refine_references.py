"""Slow references for the refine head's geometry, in NumPy and by loops, independent of the package."""

import numpy as np


def enlarge(extents, factor: float, size_wh) -> np.ndarray:
    """One rectangle enlarged about its centre and cut at the image's border."""
    x1, y1, x2, y2 = (float(value) for value in extents)
    width, height = size_wh
    cx, cy, half_w, half_h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * factor / 2, (y2 - y1) * factor / 2
    return np.array([max(cx - half_w, 0), max(cy - half_h, 0), min(cx + half_w, width), min(cy + half_h, height)])


def overlaps(src_low: float, src_high: float, cells: int, dst_low: float, dst_high: float, size: int) -> np.ndarray:
    """(size, cells): part of each new cell that each old cell covers, along one axis."""
    table = np.zeros((size, cells))
    for new in range(size):
        low = dst_low + (dst_high - dst_low) * new / size
        high = dst_low + (dst_high - dst_low) * (new + 1) / size
        for old in range(cells):
            old_low = src_low + (src_high - src_low) * old / cells
            old_high = src_low + (src_high - src_low) * (old + 1) / cells
            table[new, old] = max(0.0, min(high, old_high) - max(low, old_low)) / (high - low)
    return table


def average_over_cells(values: np.ndarray, src, dst, size: int) -> np.ndarray:
    """(h, w) known on cells of src -> (size, size): average over each cell of dst, zero outside src."""
    src, dst = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    rows = overlaps(src[1], src[3], values.shape[0], dst[1], dst[3], size)
    columns = overlaps(src[0], src[2], values.shape[1], dst[0], dst[2], size)
    return rows @ values.astype(np.float64) @ columns.T


def interpolate_at_centres(values: np.ndarray, src, dst, size: int, outside: float) -> np.ndarray:
    """(h, w) known on cells of src -> (size, size): bilinear at the centres of the cells of dst; edges continue to the
    border of src, beyond it is `outside`."""
    src, dst, values = (np.asarray(value, dtype=np.float64) for value in (src, dst, values))
    rows, columns = values.shape
    drawn = np.full((size, size), outside, dtype=np.float64)
    for i in range(size):
        y = dst[1] + (dst[3] - dst[1]) * (i + 0.5) / size
        for j in range(size):
            x = dst[0] + (dst[2] - dst[0]) * (j + 0.5) / size
            if not (src[0] <= x < src[2] and src[1] <= y < src[3]):
                continue
            v = min(max((y - src[1]) / (src[3] - src[1]) * rows - 0.5, 0), rows - 1)
            u = min(max((x - src[0]) / (src[2] - src[0]) * columns - 0.5, 0), columns - 1)
            top, left = min(int(v), max(rows - 2, 0)), min(int(u), max(columns - 2, 0))
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            upper = values[top, left] * (1 - b) + values[top, right] * b
            lower = values[bottom, left] * (1 - b) + values[bottom, right] * b
            drawn[i, j] = upper * (1 - a) + lower * a
    return drawn


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over all cells of one map."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))

"""Rasterize polygons with pycocotools, on the CPU."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as coco_mask
import torch
from numpy.typing import NDArray
from torch import Tensor

# pycocotools follows polygon edges in steps of a fifth of a cell. Polygons are clipped this many cells off the grid.
_FAR_CELLS = 4096.0


def rasterize_polygons(
    points: Tensor, parts: Tensor, instances: Tensor, indices: Tensor, extents: Tensor, size: int
) -> Tensor:
    polygons = np.split(points.numpy(), parts[1:-1].numpy()) if len(parts) > 1 else []
    first_part = instances.tolist()
    drawn = np.zeros((len(indices), size, size), dtype=np.uint8)
    outlines: list[NDArray[np.float64]] = []
    owners: list[int] = []
    for region, (instance, (x1, y1, x2, y2)) in enumerate(zip(indices.tolist(), extents.numpy(), strict=True)):
        if not (x2 > x1 and y2 > y1):
            continue
        scale = np.array((size / (x2 - x1), size / (y2 - y1)))
        for polygon in polygons[first_part[instance] : first_part[instance + 1]]:
            outline = (polygon - (x1, y1)) * scale
            if max(-outline.min(), outline.max()) > size + _FAR_CELLS:
                outline = _clip_polygon(outline, -_FAR_CELLS, size + _FAR_CELLS)
            if len(outline) >= 3:
                outlines.append(outline.reshape(-1))
                owners.append(region)
    if outlines:
        masks = coco_mask.decode(coco_mask.frPyObjects(outlines, size, size)).transpose(2, 0, 1)
        regions, firsts = np.unique(owners, return_index=True)
        drawn[regions] = np.maximum.reduceat(masks, firsts, axis=0)
    return torch.from_numpy(drawn)


def _clip_polygon(points: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Clip a polygon (P, 2) to the square [low, high]^2 (Sutherland-Hodgman). Returns (Q, 2); Q may be 0."""
    for axis, sign, bound in ((0, 1, low), (0, -1, high), (1, 1, low), (1, -1, high)):
        if len(points) == 0:
            return points
        following = np.roll(points, -1, axis=0)
        depth, next_depth = sign * (points[:, axis] - bound), sign * (following[:, axis] - bound)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings = points + (following - points) * (depth / (depth - next_depth))[:, None]
        crossings[:, axis] = bound
        # An edge contributes its first point if that is inside, and its crossing if it has one.
        keep = np.stack((depth >= 0, (depth >= 0) != (next_depth >= 0)), axis=1)
        points = np.stack((points, crossings), axis=1)[keep]
    return points

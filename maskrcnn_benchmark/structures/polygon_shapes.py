"""Exact operations on polygons: areas, clipping to a rectangle, and cutting away what others cover.

Polygons are drawn by the even-odd rule, as pycocotools draws them. A polygon that crosses itself is therefore the area
of its odd regions. Results have no holes: a piece with a hole is cut into pieces without one.

Only augmentation needs this module, so it is imported where it is used: nothing else needs shapely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

try:
    import shapely
except ImportError as error:
    raise ImportError("augmentation cuts polygons with shapely; install it by `pip install shapely`") from error

Part = NDArray[np.float64]  # (P, 2) corners, x and y in pixels

_MIN_AREA = 1e-6  # square pixels; smaller pieces come from rounding


def shape_of(parts: Sequence[Part]) -> shapely.Geometry:
    """The union of polygons (P, 2), as a valid geometry; empty if there are none."""
    shapes = [shapely.Polygon(part) for part in parts]
    shapes = [shape if shape.is_valid else shapely.make_valid(shape) for shape in shapes]
    return shapes[0] if len(shapes) == 1 else shapely.union_all(shapes)


def parts_of(shape: shapely.Geometry) -> tuple[Part, ...]:
    """The polygons of a geometry, without holes; its points and lines are left out."""
    parts: list[Part] = []
    for piece in shapely.get_parts(shapely.get_parts(shape)).tolist():  # a collection may hold multipolygons
        if not isinstance(piece, shapely.Polygon) or piece.area < _MIN_AREA:
            continue
        if piece.interiors:
            parts += [part for half in _cut_at_hole(piece) for part in parts_of(half)]
        else:
            parts.append(shapely.get_coordinates(piece.exterior)[:-1])  # the last point repeats the first
    return tuple(parts)


def _cut_at_hole(piece: shapely.Polygon) -> list[shapely.Geometry]:
    """Cut along the vertical line through the middle of the first hole, which divides that hole."""
    x1, y1, x2, y2 = piece.bounds
    left, _, right, _ = piece.interiors[0].bounds
    middle = (left + right) / 2
    return [piece.intersection(shapely.box(x1, y1, middle, y2)), piece.intersection(shapely.box(middle, y1, x2, y2))]


def polygon_area(parts: Sequence[Part]) -> float:
    """Area of the union of polygons, in square pixels."""
    return float(shape_of(parts).area)


def clip_polygons(parts: Sequence[Part], size_wh: Sequence[float]) -> tuple[Part, ...]:
    """The parts of polygons inside [0, width] x [0, height]. A polygon that is inside is returned as it is."""
    clipped: list[Part] = []
    size = np.asarray(size_wh, dtype=np.float64)
    for part in parts:
        low, high = part.min(axis=0), part.max(axis=0)
        if (low >= 0).all() and (high <= size).all():
            clipped.append(part)
        elif (low < size).all() and (high > 0).all():
            clipped += parts_of(shape_of([part]).intersection(shapely.box(0, 0, *size.tolist())))
    return tuple(clipped)


def subtract_polygons(parts: Sequence[Part], cover: shapely.Geometry) -> tuple[Part, ...]:
    """What is left of polygons that a geometry hides. Polygons that it does not touch stay as they are."""
    left: list[Part] = []
    for part in parts:
        shape = shape_of([part])
        left += parts_of(shape.difference(cover)) if shapely.intersects(shape, cover) else [part]
    return tuple(left)

"""Checks and maps that `resize`, `transpose`, `crop`, `affine` and indexing of boxes, masks and keypoints share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

FLIP_LEFT_RIGHT = 0
FLIP_TOP_BOTTOM = 1


def check_flip(method: int) -> None:
    """Raise ValueError if `method` is not one of the two flips."""
    if method not in (FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM):
        raise ValueError(
            f"transpose was given {method!r}; expected FLIP_LEFT_RIGHT ({FLIP_LEFT_RIGHT}) "
            f"or FLIP_TOP_BOTTOM ({FLIP_TOP_BOTTOM})"
        )


def check_size(size: Sequence[float], owner: str) -> tuple[float, float]:
    """(width, height) as a tuple. Raises ValueError that names `owner` if it is not two non-negative numbers."""
    if isinstance(size, (str, int, float)) or len(size) != 2 or size[0] < 0 or size[1] < 0:
        raise ValueError(f"{owner}: an image size is (width, height) in pixels, not {size!r}")
    return size[0], size[1]


def resize_ratios(old_size: Sequence[float], new_size: Sequence[float], owner: str) -> tuple[float, float]:
    """Factors of x and y from one (width, height) to another; 1 if the old side is 0."""
    width, height = check_size(new_size, owner)
    return (width / old_size[0] if old_size[0] else 1.0, height / old_size[1] if old_size[1] else 1.0)


def check_crop(box: Any, owner: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the crop [x1, x2) x [y1, y2) in pixels. Raises ValueError if it is empty."""
    corners = box.tolist() if isinstance(box, (torch.Tensor, np.ndarray)) else list(box)
    if len(corners) != 4 or not (corners[2] > corners[0] and corners[3] > corners[1]):
        raise ValueError(f"{owner}: crop takes (x1, y1, x2, y2) with x2 > x1 and y2 > y1, not {corners}")
    return corners[0], corners[1], corners[2], corners[3]


def check_affine(matrix: Any, owner: str) -> NDArray[np.float64]:
    """A (2, 3) matrix [A | b] as float64; it maps a point p, a column of x and y, to A p + b.

    Raises: ValueError that names `owner` if it has another shape, a number that is not finite, or a determinant that is
        not positive. A mirror image has a negative one; `transpose` makes it and swaps left and right keypoints.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (2, 3) or not np.isfinite(values).all() or np.linalg.det(values[:, :2]) <= 0:
        raise ValueError(
            f"{owner}: an affine map is a finite (2, 3) matrix whose determinant is positive (`transpose` mirrors), "
            f"not {values.tolist()}"
        )
    return values


def map_extents(extents: torch.Tensor, matrix: NDArray[np.float64]) -> torch.Tensor:
    """(R, 4) half-open boxes -> the smallest ones around their mapped corners, (R, 4) float64, not clipped."""
    corners = extents.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    mapped = map_points(corners, matrix)
    return torch.cat([mapped.amin(dim=1), mapped.amax(dim=1)], dim=1)


def map_points(points: torch.Tensor, matrix: NDArray[np.float64]) -> torch.Tensor:
    """(..., 2) continuous coordinates -> where the matrix maps them, float64."""
    linear = torch.from_numpy(matrix).to(points.device)
    return points.double() @ linear[:, :2].T + linear[:, 2]


def index_to_list(index: Any, length: int) -> list[int]:
    """Convert an index of a BoxList (int, slice, sequence or tensor of ints or bools) to non-negative positions."""
    if isinstance(index, slice):
        return list(range(length))[index]
    values = torch.as_tensor(index)
    if values.dtype == torch.bool:
        if values.shape != (length,):
            raise IndexError(f"a bool index of shape {tuple(values.shape)} does not match {length} instances")
        return values.nonzero()[:, 0].tolist()
    positions = [int(position) for position in values.reshape(-1).tolist()]
    for position in positions:
        if not -length <= position < length:
            raise IndexError(f"index {position} is out of range for {length} instances")
    return [position % length for position in positions]

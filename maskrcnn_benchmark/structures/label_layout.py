"""Where labels go on a picture, so that each is near its box, whole, and covers no other label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 40, 4  # how far a label moves away from its box, in heights and in widths of the label


def place_labels(
    boxes: NDArray[np.float64], sizes_wh: Sequence[tuple[int, int]], image_size_wh: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """Corners (left, top) in pixels for the labels of R boxes; labels later in the list choose first.

    A label stands above its box where there is room, else in the box's upper corner, else at the box's other corners,
    else as near to there as another place is free.

    Args:
        boxes: (R, 4) x1, y1, x2, y2 in pixels.
        sizes_wh: width and height of each label in pixels; (0, 0) for a box without one.
        image_size_wh: the picture's.
    Returns: R corners; None where there is no label, and where the picture has no room left for it.
    """
    width, height = image_size_wh
    corners: list[tuple[int, int] | None] = [None] * len(sizes_wh)
    taken = np.zeros((0, 4), dtype=np.int64)
    for index in reversed(range(len(sizes_wh))):
        label_width, label_height = sizes_wh[index]
        if not label_width or not label_height:
            continue
        places = _places(boxes[index], label_width, label_height)
        places[:, 0] = places[:, 0].clip(0, max(0, width - label_width))
        whole = (places[:, 1] >= 0) & (places[:, 1] + label_height <= height)
        if not whole.any():  # a picture lower than a label has some of it all the same
            places[:, 1], whole = 0, np.ones(len(places), dtype=bool)
        places = places[whole]
        ends = places + (label_width, label_height)
        apart = (ends[:, None] <= taken[None, :, :2]) | (places[:, None] >= taken[None, :, 2:])
        free = np.all(np.any(apart, axis=2), axis=1)
        if free.any():
            chosen = int(free.argmax())
            left, top = int(places[chosen, 0]), int(places[chosen, 1])
            corners[index] = (left, top)
            taken = np.concatenate([taken, [[left, top, left + label_width, top + label_height]]])
    return corners


def _places(box: NDArray[np.float64], width: int, height: int) -> NDArray[np.int64]:
    """(P, 2) left and top of the places that suit a label of that size, the best first."""
    x1, y1, x2, y2 = (int(round(side)) for side in box)
    right = x2 - width
    beside = [(x1, y1 - height), (x1, y1), (right, y1 - height), (right, y1), (x1, y2 - height), (x1, y2), (right, y2)]
    rows, columns = np.meshgrid(np.arange(-_ROWS, _ROWS + 1), np.arange(-_COLUMNS, _COLUMNS + 1), indexing="ij")
    moved = np.stack([x1 + columns.ravel() * width, y1 - height + rows.ravel() * height], axis=1)
    distance = np.hypot(moved[:, 0] - x1, moved[:, 1] - (y1 - height))
    return np.concatenate([np.array(beside, dtype=np.int64), moved[distance.argsort(kind="stable")]])

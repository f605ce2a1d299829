"""Places for labels on a picture: near their boxes, inside the picture, without overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 40, 4  # how far a label may move from its box, in heights and widths of the label


def place_labels(
    boxes: NDArray[np.float64], sizes_wh: Sequence[tuple[int, int]], image_size_wh: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """Find the corner (left, top) of the label of each box. Later labels in the list choose first.

    A label goes above its box if there is room, otherwise into the upper corner of the box, then to the other corners,
    then to the nearest free place.

    Args:
        boxes: (R, 4) x1, y1, x2, y2 in pixels.
        sizes_wh: width and height of each label, in pixels; (0, 0) for a box without a label.
        image_size_wh: width and height of the picture, in pixels.
    Returns: R corners in pixels; None for a box without a label and for a label that has no room.
    """
    width, height = image_size_wh
    corners: list[tuple[int, int] | None] = [None] * len(sizes_wh)
    taken = np.zeros((0, 4), dtype=np.int64)
    for index in reversed(range(len(sizes_wh))):
        label_width, label_height = sizes_wh[index]
        if not label_width or not label_height:
            continue
        places = _candidate_places(boxes[index], label_width, label_height)
        places[:, 0] = places[:, 0].clip(0, max(0, width - label_width))
        is_inside = (places[:, 1] >= 0) & (places[:, 1] + label_height <= height)
        if not is_inside.any():  # the picture is lower than the label: cut the label
            places[:, 1], is_inside = 0, np.ones(len(places), dtype=bool)
        places = places[is_inside]
        ends = places + (label_width, label_height)
        is_apart = (ends[:, None] <= taken[None, :, :2]) | (places[:, None] >= taken[None, :, 2:])
        is_free = np.all(np.any(is_apart, axis=2), axis=1)
        if is_free.any():
            chosen = int(is_free.argmax())
            left, top = int(places[chosen, 0]), int(places[chosen, 1])
            corners[index] = (left, top)
            taken = np.concatenate([taken, [[left, top, left + label_width, top + label_height]]])
    return corners


def _candidate_places(box: NDArray[np.float64], width: int, height: int) -> NDArray[np.int64]:
    """Corners (P, 2), left and top, that a label of this size may have, best first."""
    x1, y1, x2, y2 = (int(round(side)) for side in box)
    right = x2 - width
    beside = [(x1, y1 - height), (x1, y1), (right, y1 - height), (right, y1), (x1, y2 - height), (x1, y2), (right, y2)]
    rows, columns = np.meshgrid(np.arange(-_ROWS, _ROWS + 1), np.arange(-_COLUMNS, _COLUMNS + 1), indexing="ij")
    moved = np.stack([x1 + columns.ravel() * width, y1 - height + rows.ravel() * height], axis=1)
    distance = np.hypot(moved[:, 0] - x1, moved[:, 1] - (y1 - height))
    return np.concatenate([np.array(beside, dtype=np.int64), moved[distance.argsort(kind="stable")]])

"""Order of the rows of the last layers: where the background is, and how anchors are counted.

Here, as in maskrcnn-benchmark, the first row is the background's in class scores, box deltas and masks. Other projects
put it last, or have no row where the background's would not be used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def convert_rows(weights: dict[str, Tensor], name: str, convert: Callable[[Tensor], Tensor]) -> None:
    """Replace the tensor `name` by `convert` of it, if there is one."""
    if name in weights:
        weights[name] = convert(weights[name])


def background_first(rows: Tensor) -> Tensor:
    """Move the last row to the front."""
    return rows.roll(1, dims=0)


def background_last(rows: Tensor) -> Tensor:
    """Move the first row to the end."""
    return rows.roll(-1, dims=0)


def add_background(rows: Tensor, count: int) -> Tensor:
    """Put `count` rows of zeros in front. These rows of box deltas and masks are neither trained nor read."""
    return torch.cat([rows.new_zeros(count, *rows.shape[1:]), rows])


def drop_background(rows: Tensor, count: int) -> Tensor:
    """Remove the first `count` rows."""
    return rows[count:].clone()


def ratios_outside(rows: Tensor, num_anchors: int, num_ratios: int) -> Tensor:
    """Reorder the rows of all anchors of a cell: from (size, ratio) to (ratio, size), the ratio changing slowest.

    Args:
        rows: (num_anchors * k, ...), k rows per anchor.
    """
    return _swap(rows, num_anchors // num_ratios, num_ratios)


def sizes_outside(rows: Tensor, num_anchors: int, num_ratios: int) -> Tensor:
    """The opposite of `ratios_outside`."""
    return _swap(rows, num_ratios, num_anchors // num_ratios)


def _swap(rows: Tensor, outer: int, inner: int) -> Tensor:
    if outer <= 1 or inner <= 1:
        return rows
    grid: Tensor = rows.unflatten(0, (outer, inner, -1))
    return grid.transpose(0, 1).flatten(0, 2).contiguous()

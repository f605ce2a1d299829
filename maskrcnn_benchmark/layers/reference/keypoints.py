"""Peaks of heatmaps enlarged by cubic interpolation, as matrix products over padded batches."""

from __future__ import annotations

import torch
from torch import Tensor

# Values of enlarged heatmaps that exist at a time: what a processor's cache holds, and 128 MiB on an accelerator.
_CHUNK_ELEMENTS_CPU, _CHUNK_ELEMENTS = 1 << 20, 1 << 25
# OpenCV's and PyTorch's coefficient of the cubic kernel.
_CUBIC_A = -0.75


def decode_bicubic(logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Regions of similar size share one padded batch of products."""
    keypoints = max(1, logits.shape[1])
    extents = (frames[:, 2:] - frames[:, :2]).clamp(min=1)
    pixels = extents.ceil().long()  # (R, 2), width and height of the enlarged map
    scores = logits.new_zeros(logits.shape[:2])
    peaks = logits.new_zeros((*logits.shape[:2], 2))
    chunk = _CHUNK_ELEMENTS_CPU if logits.device.type == "cpu" else _CHUNK_ELEMENTS
    groups = _size_groups(pixels.tolist(), chunk // keypoints)
    # one asynchronous copy of all regions, group by group: a blocking copy per group would synchronise each time
    order = torch.tensor([region for members, _ in groups for region in members], dtype=torch.int64)
    order = order.to(logits.device, non_blocking=True)
    for index, (_, (width, height)) in zip(order.split([len(members) for members, _ in groups]), groups, strict=True):
        row_weights = _cubic_weights(pixels[index, 1], height, logits.shape[2])
        column_weights = _cubic_weights(pixels[index, 0], width, logits.shape[3])
        widened = torch.einsum("rkhw,rjw->rkhj", logits[index], column_weights)
        best = logits.new_full((len(index), logits.shape[1]), -torch.inf)
        where = torch.zeros_like(best, dtype=torch.int64)
        band = max(1, chunk // (len(index) * keypoints * width))
        for top in range(0, height, band):
            enlarged = torch.einsum("rih,rkhj->rkij", row_weights[:, top : top + band], widened)
            value, position = enlarged.flatten(2).max(dim=2)
            where = torch.where(value > best, position + top * width, where)
            best = torch.maximum(best, value)
        # The padding repeats the last row and column, so a peak in it is a peak of that row or column.
        peak = torch.stack((where % width, where // width), dim=-1).minimum(pixels[index, None] - 1)
        peaks[index] = peak.float()
        scores[index] = best
    return frames[:, None, :2] + (peaks + 0.5) * (extents / pixels)[:, None], scores


def _size_groups(sizes: list[list[int]], limit: int) -> list[tuple[list[int], tuple[int, int]]]:
    """Indices of regions to enlarge together, with the width and height that hold all of them.

    Regions are sorted by area. A group takes the next region while its padded maps stay within `limit` pixels and
    padding at most doubles them.
    """
    groups: list[tuple[list[int], tuple[int, int]]] = []
    used = 0
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index][0] * sizes[index][1]):
        width, height = sizes[index]
        if groups:
            members, (group_width, group_height) = groups[-1]
            joint = (max(width, group_width), max(height, group_height))
            padded = (len(members) + 1) * joint[0] * joint[1]
            if padded <= limit and padded <= 2 * (used + width * height):
                groups[-1] = (members + [index], joint)
                used += width * height
                continue
        groups.append(([index], (width, height)))
        used = width * height
    return groups


def _cubic_weights(pixels: Tensor, padded: int, cells: int) -> Tensor:
    """Weights (R, padded, cells) that enlarge `cells` cells to pixels (R,) pixels each.

    Edge cells are repeated outside the map. Pixels beyond a region's own count repeat its last one.
    """
    own = torch.arange(padded, device=pixels.device).minimum(pixels[:, None] - 1)
    positions = (own + 0.5) * (cells / pixels[:, None]) - 0.5
    before = positions.floor()
    weights = positions.new_zeros((*positions.shape, cells))
    for tap in range(-1, 3):
        distance = (positions - before - tap).abs()
        near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
        far = ((_CUBIC_A * distance - 5 * _CUBIC_A) * distance + 8 * _CUBIC_A) * distance - 4 * _CUBIC_A
        cell = (before.long() + tap).clamp(0, cells - 1)
        weights.scatter_add_(2, cell[..., None], torch.where(distance <= 1, near, far)[..., None])
    return weights

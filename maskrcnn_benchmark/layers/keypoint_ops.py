"""Encode keypoints as heatmap cells, and decode heatmaps to keypoints.

A frame x1, y1, x2, y2 is the rectangle in image pixels that the S x S cells of a heatmap divide evenly; cell (i, j) has
its centre at x1 + (j + 0.5) * (x2 - x1) / S and y1 + (i + 0.5) * (y2 - y1) / S.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers._extension import ops
from maskrcnn_benchmark.layers._tracing import fake_kernel

DECODE_METHODS = ("argmax", "quarter", "dark", "bicubic")

# What the values of a heatmap are: logits of a softmax over its cells, or heights of a hill, where below 0 means 0.
SOFTMAX, RELU = "softmax", "relu"
ACTIVATIONS = (SOFTMAX, RELU)

# Standard deviation, in cells, of the smoothing in "dark": about the width of a cell.
_DARK_SIGMA = 1.0
# Distance, in cells, beyond which a peak in "dark" does not belong to the best cell.
_DARK_REACH = 1.0
# Distance, in standard deviations, at which a Gaussian ends.
_GAUSSIAN_REACH = 3.0
# Heights below this share of a map's largest are noise.
_LEAST_SHARE = 0.1


def encode_keypoints(keypoints: Tensor, frames: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the heatmap cell that contains each keypoint.

    Args:
        keypoints: (R, K, 3): x, y in image pixels, visibility.
        frames: (R, 4).
        size: S, cells per side.
    Returns:
        targets: (R, K) int64, row * S + column of the cell; 0 if not valid. A point exactly on the far edge of the
            frame belongs to the last cell.
        valid: (R, K) bool: labelled (visibility > 0), finite, and inside a frame that is not empty.
    """
    x1, y1, x2, y2 = frames[:, None, :].unbind(-1)
    x, y, visibility = keypoints.unbind(-1)
    column, inside_x = _cell_of(x, x1, x2, size)
    row, inside_y = _cell_of(y, y1, y2, size)
    valid = inside_x & inside_y & (visibility > 0)
    return torch.where(valid, row * size + column, 0), valid


def encode_gaussians(
    keypoints: Tensor, frames: Tensor, size: int, sigma: float, *, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw a Gaussian around each keypoint, centred at its exact position between the cells.

    Args:
        keypoints: (R, K, 3): x, y in image pixels, visibility.
        frames: (R, 4).
        size: S, cells per side.
        sigma: standard deviation, in cells.
        normalize: scale each map to a sum of 1; otherwise the Gaussian's peak is 1.
    Returns:
        maps: (R, K, S, S) float32; arbitrary if not valid.
        valid: (R, K) bool: labelled (visibility > 0), finite, in a frame that is not empty, and not further outside it
            than 3 sigma, in cells.
    Source: Xiao et al. 2018, Simple Baselines for Human Pose Estimation, whose code, like HRNet's, rounds the centre to
        a cell; Zhang et al. 2020, Distribution-Aware Coordinate Representation, which does not.
    """
    valid = keypoints[..., 2] > 0
    profiles = []
    for axis in (0, 1):
        first, extent = frames[:, axis, None].float(), (frames[:, axis + 2] - frames[:, axis])[:, None].float()
        position = (keypoints[..., axis].float() - first) * (size / extent)
        cell, reach = position.floor(), _GAUSSIAN_REACH * sigma
        valid = valid & (extent > 0) & (cell >= -reach) & (cell <= size - 1 + reach)
        position = torch.where(valid, position, 0.0)  # no NaN may reach a gradient
        distances = torch.arange(size, device=keypoints.device) + 0.5 - position[..., None]
        exponents = -0.5 * (distances / sigma) ** 2
        profiles.append(exponents.softmax(dim=-1) if normalize else exponents.exp())
    columns, rows = profiles
    return rows[..., :, None] * columns[..., None, :], valid


def cell_probabilities(maps: Tensor, activation: str = SOFTMAX) -> Tensor:
    """Values of heatmaps (R, K, h, w) -> the probability of each cell to contain the keypoint, of the same shape.

    Args:
        activation: "softmax" over the cells of a map; or "relu": heights divided by their sum. Those below a tenth of
            the map's largest count as 0, because the noise of thousands of cells adds up to more than a hill. A map
            without heights above 0 is uniform.
    Raises: ValueError for another activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"the activation of heatmaps is {activation!r}; it can be {', '.join(ACTIVATIONS)}")
    if activation == SOFTMAX:
        return maps.flatten(2).softmax(dim=2).view_as(maps)
    largest = maps.amax(dim=(2, 3), keepdim=True)
    heights = torch.where((maps > 0) & (maps >= _LEAST_SHARE * largest), maps, 0.0)
    totals = heights.sum(dim=(2, 3), keepdim=True)
    uniform = 1 / (maps.shape[2] * maps.shape[3])
    return torch.where(totals > 0, heights / torch.where(totals > 0, totals, 1.0), uniform)


def decode_heatmaps(
    logits: Tensor, frames: Tensor, method: str = "bicubic", activation: str = SOFTMAX
) -> tuple[Tensor, Tensor]:
    """Find the position of each heatmap's peak in the image.

    Args:
        logits: (R, K, S, S), higher is likelier; half precision is computed in float32.
        frames: (R, 4); sides below one pixel count as one pixel in "bicubic".
        activation: see `cell_probabilities`. "dark" reads probabilities; of heights, the heights above 0.
        method: "argmax", the centre of the best cell;
            "quarter", the same moved by a quarter of a cell towards the better neighbour, in x and in y;
            "dark", the maximum of the parabola fitted to the logarithm of the smoothed probabilities at the best cell;
            "quarter" if that is no peak near the cell, or if the cell is on the border;
            "bicubic", the centre of the best pixel after enlarging the map to the frame's size in whole pixels.
    Returns: xy (R, K, 2) float32 in image pixels; scores (R, K) float32, the largest logit (of the enlarged
        map for "bicubic"). Among equal peaks the first in reading order is taken.
    Source: "quarter" Newell et al. 2016, Stacked Hourglass Networks; "dark" Zhang et al. 2020, Distribution-Aware
        Coordinate Representation; "bicubic" Detectron and maskrcnn-benchmark.
    """
    if logits.dim() != 4 or frames.shape != (len(logits), 4):
        raise ValueError(
            "decode_heatmaps takes logits (R, K, S, S) and frames (R, 4), not "
            f"{tuple(logits.shape)} and {tuple(frames.shape)}"
        )
    if method not in DECODE_METHODS:
        raise ValueError(f"decode_heatmaps: method is {method!r}; it can be {', '.join(DECODE_METHODS)}")
    logits, frames = logits.detach().float(), frames.detach().float()
    with torch.autocast(device_type=logits.device.type, enabled=False):
        if method == "bicubic":
            xy, scores = ops.decode_bicubic(logits, frames)
            return xy, scores
        scores, best = logits.flatten(2).max(dim=2)
        rows, columns = best // logits.shape[3], best % logits.shape[3]
        cells = torch.stack((columns, rows), dim=-1) + 0.5
        if method != "argmax":
            shift = _quarter_shift(logits, rows, columns)
            if method == "dark":
                hills = logits.clamp(min=0) if activation == RELU else cell_probabilities(logits, activation)
                dark, usable = _dark_shift(hills, rows, columns)
                shift = torch.where(usable[..., None], dark, shift)
            cells = cells + shift
    corner, extent = frames[:, None, :2], frames[:, None, 2:] - frames[:, None, :2]
    sides = torch.tensor([logits.shape[3], logits.shape[2]], dtype=cells.dtype)
    return corner + cells * extent / sides.to(cells.device, non_blocking=True), scores


def expected_oks(
    logits: Tensor, frames: Tensor, points: Tensor, areas: Tensor, sigmas: Tensor, activation: str = SOFTMAX
) -> Tensor:
    """Expected object keypoint similarity (OKS) of each decoded skeleton with the true one.

    Assumes that `cell_probabilities` are the probability of each cell to contain the keypoint, and that all keypoints
    are labelled.

    Args:
        logits: (R, K, S, S); half precision is computed in float32.
        frames: (R, 4).
        points: (R, K, 2) x, y of the decoded keypoints, in image pixels.
        areas: (R,) of the objects, in square pixels, above 0.
        sigmas: (K,), COCO's standard deviation of annotations per keypoint, relative to the square root of the area.
        activation: see `cell_probabilities`.
    Returns: (R,) float32 in [0, 1], the mean over keypoints of the expectation of exp(-d^2 / (2 area (2 sigma)^2));
        d is the distance in pixels of the point from the centre of a cell. Not differentiable.
    Source: https://cocodataset.org/#keypoints-eval, as pycocotools computes it.
    """
    count, keypoints = logits.shape[:2]
    shapes = [tuple(value.shape) for value in (logits, frames, points, areas, sigmas)]
    if logits.dim() != 4 or shapes[1:] != [(count, 4), (count, keypoints, 2), (count,), (keypoints,)]:
        raise ValueError(
            "expected_oks takes logits (R, K, S, S), frames (R, 4), points (R, K, 2), areas (R,) and sigmas (K,), not "
            + ", ".join(map(str, shapes))
        )
    logits, frames, points = (value.detach().float() for value in (logits, frames, points))
    spreads = 2 * sigmas.float() * areas.float().sqrt()[:, None]  # (R, K), in pixels
    # The Gaussian is separable, so the expectation is a product with the map along x and one along y.
    with torch.autocast(device_type=logits.device.type, enabled=False):
        probabilities = cell_probabilities(logits, activation)
        along_x, along_y = (
            torch.exp(-0.5 * ((centres - points[..., axis, None]) / spreads[..., None]) ** 2)
            for axis, centres in enumerate(_cell_centres(frames, logits.shape[2:]))
        )
        rows = (probabilities @ along_x[..., None])[..., 0]
        return (rows * along_y).sum(dim=2).mean(dim=1)


def _cell_centres(frames: Tensor, size_hw: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Coordinates, in pixels, of the centres of columns (R, 1, w) and of rows (R, 1, h)."""
    (height, width), (x1, y1, x2, y2) = size_hw, frames[:, None, :, None].unbind(2)
    columns, rows = ((torch.arange(size, device=frames.device) + 0.5) / size for size in (width, height))
    return x1 + columns * (x2 - x1), y1 + rows * (y2 - y1)


def _cell_of(coordinate: Tensor, first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Index (R, K) of the cell that contains each coordinate, and (R, K) bool: is there one?"""
    extent = last - first
    inside = (extent > 0) & (coordinate >= first) & (coordinate <= last)
    position = torch.where(inside, (coordinate - first) * (size / extent), 0.0)
    return position.floor().long().clamp(max=size - 1), inside


def _distances(centres: Tensor, size: int) -> Tensor:
    """(R, K) cells -> (R, K, 3, size): distance of every cell from the cell before, the cell itself, the one after."""
    around = centres[..., None] + torch.arange(-1, 2, device=centres.device)
    return torch.arange(size, device=centres.device) - around[..., None]


def _quarter_shift(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(R, K, 2): a quarter of a cell towards the better neighbour; 0 along an axis if the cell is on its border."""
    height, width = logits.shape[2:]

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        return logits.flatten(2).gather(2, index[..., None])[..., 0]

    along_x = torch.sign(at(rows, columns + 1) - at(rows, columns - 1)) * ((columns > 0) & (columns < width - 1))
    along_y = torch.sign(at(rows + 1, columns) - at(rows - 1, columns)) * ((rows > 0) & (rows < height - 1))
    return 0.25 * torch.stack((along_x, along_y), dim=-1)


def _dark_shift(hills: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Newton step (R, K, 2), in cells, to the maximum of the log of the smoothed map, and (R, K) bool: is it usable?"""
    height, width = hills.shape[2:]
    row_weights = torch.exp(-0.5 * (_distances(rows, height) / _DARK_SIGMA) ** 2)
    column_weights = torch.exp(-0.5 * (_distances(columns, width) / _DARK_SIGMA) ** 2)
    patch = (row_weights @ hills @ column_weights.transpose(-1, -2)).clamp(min=1e-30).log()
    slope_x, slope_y = (patch[..., 1, 2] - patch[..., 1, 0]) / 2, (patch[..., 2, 1] - patch[..., 0, 1]) / 2
    bend_xx = patch[..., 1, 2] - 2 * patch[..., 1, 1] + patch[..., 1, 0]
    bend_yy = patch[..., 2, 1] - 2 * patch[..., 1, 1] + patch[..., 0, 1]
    bend_xy = (patch[..., 2, 2] - patch[..., 2, 0] - patch[..., 0, 2] + patch[..., 0, 0]) / 4
    determinant = bend_xx * bend_yy - bend_xy**2
    is_peak = (bend_xx < 0) & (determinant > 0)
    divisor = torch.where(is_peak, determinant, 1.0)
    shift_x = (bend_xy * slope_y - bend_yy * slope_x) / divisor
    shift_y = (bend_xy * slope_x - bend_xx * slope_y) / divisor
    shift = torch.stack((shift_x, shift_y), dim=-1)
    off_border = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    return shift, is_peak & off_border & (shift.abs() <= _DARK_REACH).all(dim=-1)


@fake_kernel("decode_bicubic")
def _decode_bicubic_fake(logits: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty((*logits.shape[:2], 2)), logits.new_empty(logits.shape[:2])

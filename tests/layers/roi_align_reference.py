"""ROIAlign in plain loops over bins, samples and corners, in float64; written from the definition alone."""

import math

import torch
from torch import Tensor


def interpolate(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of (C, H, W) at a continuous cell position; zero more than a cell off the map, its edge before."""
    _, height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(plane[:, 0, 0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    value = torch.zeros_like(plane[:, 0, 0])
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if weight_y * weight_x > 0:
                value = value + weight_y * weight_x * plane[:, row, column]
    return value


def roi_align_reference(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int, aligned: bool = False
) -> Tensor:
    """(N, C, H, W) and (R, 5) -> (R, C, *size), float64, differentiable."""
    features, bins_h, bins_w = features.double(), *size
    pooled = []
    for image, *corners in rois.double().tolist():
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0.0) for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        samples_y = samples or max(math.ceil(height / bins_h), 0)
        samples_x = samples or max(math.ceil(width / bins_w), 0)
        for bin_y in range(bins_h):
            for bin_x in range(bins_w):
                total = torch.zeros_like(features[0, :, 0, 0])
                for i in range(samples_y):
                    for j in range(samples_x):
                        y = y1 + (bin_y + (i + 0.5) / samples_y) * height / bins_h
                        x = x1 + (bin_x + (j + 0.5) / samples_x) * width / bins_w
                        total = total + interpolate(features[int(image)], y, x)
                pooled.append(total / max(samples_y * samples_x, 1))
    if not pooled:
        return features.new_zeros(0, features.shape[1], bins_h, bins_w)
    return torch.stack(pooled).view(len(rois), bins_h, bins_w, -1).permute(0, 3, 1, 2)


def level_reference(roi: Tensor, levels: int, lowest: int, size: float, level: float, offset: int) -> int:
    """Position of the level that pools one (5,) roi, by equation 1 of the FPN paper."""
    _, x1, y1, x2, y2 = roi.tolist()
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    wanted = math.floor(level + math.log2(math.sqrt(area) / size + 1e-6))
    return min(max(wanted - lowest, 0), levels - 1)

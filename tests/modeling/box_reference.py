"""Slow box arithmetic in plain Python, for comparison, and boxes to compare on."""

import math

import torch
from torch import Tensor

from maskrcnn_benchmark.structures.bounding_box import BoxList


def iou_reference(first: list[float], second: list[float], offset: int) -> float:
    width = max(min(first[2], second[2]) - max(first[0], second[0]) + offset, 0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]) + offset, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (first, second)]
    intersection = width * height
    return intersection / (sum(areas) - intersection) if intersection else 0.0


def decode_reference(delta: list[float], box: list[float], weights: tuple[float, ...], offset: int) -> list[float]:
    dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
    width, height = box[2] - box[0] + offset, box[3] - box[1] + offset
    centre_x, centre_y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    return [
        centre_x - width / 2,
        centre_y - height / 2,
        centre_x + width / 2 - offset,
        centre_y + height / 2 - offset,
    ]


def encode_reference(box: list[float], source: list[float], weights: tuple[float, ...], offset: int) -> list[float]:
    width, height = box[2] - box[0] + offset, box[3] - box[1] + offset
    from_width, from_height = source[2] - source[0] + offset, source[3] - source[1] + offset
    return [
        weights[0] * (box[0] + width / 2 - source[0] - from_width / 2) / from_width,
        weights[1] * (box[1] + height / 2 - source[1] - from_height / 2) / from_height,
        weights[2] * math.log(width / from_width),
        weights[3] * math.log(height / from_height),
    ]


def smooth_l1_reference(values: list[float], beta: float) -> float:
    return sum(0.5 * v * v / beta if abs(v) < beta else abs(v) - 0.5 * beta for v in values)


def nms_reference(boxes: list[list[float]], scores: list[float], threshold: float, offset: int) -> list[int]:
    """Greedy suppression; equal scores in the order of their indices."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou_reference(boxes[index], boxes[other], offset) <= threshold for other in kept):
            kept.append(index)
    return kept


def random_boxes(count: int, size_wh: tuple[int, int], min_side: float = 4.0, device: str = "cpu") -> Tensor:
    """(count, 4) xyxy inside the image, of all sizes from `min_side` to half the image."""
    width, height = size_wh
    sides = min_side + torch.rand(count, 2) * (torch.tensor([width, height]) / 2 - min_side)
    corners = torch.rand(count, 2) * (torch.tensor([width, height]) - sides - 1)
    return torch.cat([corners, corners + sides], dim=1).to(device)


def boxlist(boxes: Tensor, size_wh: tuple[int, int], offset: int = 1, **fields: Tensor) -> BoxList:
    boxes_with_fields = BoxList(boxes, size_wh, offset=offset)
    for name, value in fields.items():
        boxes_with_fields.add_field(name, value)
    return boxes_with_fields

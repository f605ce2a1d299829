"""Detectron2's own code as further peers if it is installed; empty lists if it is not.

Its ROIAlign and NMS are torchvision's kernels, which the cases have already. The peers here are the code around them.
It has no release on PyPI, and these peers have not been run yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from op_cases.case import IMAGE_HW, Peer

NAME = "Detectron2"
Compare = Callable[[Any, Any], None]


def is_installed() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def pooling(
    maps: Sequence[Tensor], boxes: Sequence[Tensor], scales: Sequence[float], grad: Tensor, compare: Compare
) -> list[Peer]:
    """Forward and backward of its pooler over levels: 7 x 7 bins, two samples a side, not aligned."""
    if not is_installed():
        return []
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.structures import Boxes

    pooler = ROIPooler(7, scales, 2, "ROIAlign")
    regions = [Boxes(of_image) for of_image in boxes]
    return [Peer(NAME, lambda: torch.autograd.grad(pooler(list(maps), regions), maps, grad), compare)]


def pasting(masks: Tensor, boxes: Tensor, compare: Compare) -> list[Peer]:
    if not is_installed():
        return []
    from detectron2.layers.mask_ops import paste_masks_in_image

    return [Peer(NAME, lambda: paste_masks_in_image(masks, boxes, IMAGE_HW), compare)]


def polygon_targets(
    images: Sequence[tuple[list[list[np.ndarray]], Tensor, Tensor]], cells: int, compare: Compare
) -> list[Peer]:
    """Per image the polygons of its instances, and for each region its instance and its box."""
    if not is_installed():
        return []
    from detectron2.structures import PolygonMasks

    flat = [
        (PolygonMasks([[part.ravel() for part in parts] for parts in instances]), matched, regions)
        for instances, matched, regions in images
    ]
    return [
        Peer(
            NAME,
            lambda: torch.cat([masks[matched].crop_and_resize(regions, cells) for masks, matched, regions in flat]),
            compare,
        )
    ]


def keypoint_decoding(logits: Tensor, frames: Tensor, compare: Compare) -> list[Peer]:
    if not is_installed():
        return []
    from detectron2.structures.keypoints import heatmaps_to_keypoints

    return [Peer(NAME, lambda: heatmaps_to_keypoints(logits, frames)[..., :2], compare)]

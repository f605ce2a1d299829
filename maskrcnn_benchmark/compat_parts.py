"""Functions and classes of maskrcnn-benchmark that the package itself does not need, for code written for it.

`compat.py` gives them their upstream import paths. All have upstream's names and signatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.layers.keypoint_ops import decode_heatmaps, encode_keypoints
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS
from maskrcnn_benchmark.structures.keypoint import Keypoints

# --- modeling.utils, modeling.rpn.utils, modeling.make_layers, utils.cv2_util, utils.env


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat`; the tensor itself if there is only one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def permute_and_flatten(layer: Tensor, N: int, A: int, C: int, H: int, W: int) -> Tensor:  # noqa: N803
    """(N, A * C, H, W) -> (N, H * W * A, C), with the anchors of a cell next to each other."""
    return layer.view(N, A, C, H, W).permute(0, 3, 4, 1, 2).reshape(N, H * W * A, C)


def concat_box_prediction_layers(box_cls: Sequence[Tensor], box_regression: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Levels (N, A * C, H_l, W_l) and (N, A * 4, H_l, W_l) -> (R, C) and (R, 4), image by image, level by level."""
    classes, regressions = [], []
    for logits, deltas in zip(box_cls, box_regression, strict=True):
        num_images, _, height, width = logits.shape
        anchors = deltas.shape[1] // 4
        num_classes = logits.shape[1] // anchors
        classes.append(permute_and_flatten(logits, num_images, anchors, num_classes, height, width))
        regressions.append(permute_and_flatten(deltas, num_images, anchors, 4, height, width))
    return torch.cat(classes, 1).flatten(0, 1), torch.cat(regressions, 1).flatten(0, 1)


def get_group_gn(dim: int, dim_per_gp: int, num_groups: int) -> int:
    """Number of groups of a group norm of `dim` channels; one of the other two is -1. Raises: ValueError."""
    if (dim_per_gp == -1) == (num_groups == -1):
        raise ValueError(f"give channels per group or groups, and -1 for the other; got {dim_per_gp} and {num_groups}")
    divisor = num_groups if dim_per_gp == -1 else dim_per_gp
    if dim % divisor:
        raise ValueError(f"{divisor} does not divide {dim} channels")
    return divisor if dim_per_gp == -1 else dim // divisor


def findContours(*args: Any, **kwargs: Any) -> tuple[Sequence[NDArray[Any]], NDArray[Any]]:  # noqa: N802
    """`cv2.findContours` of OpenCV 4 and later: contours and hierarchy."""
    contours, hierarchy = cv2.findContours(*args, **kwargs)
    return contours, hierarchy


def setup_environment() -> None:
    """Do nothing. Modules of your own are named by the config key IMPORTS, and imported when the config is loaded."""


# --- data.datasets.abstract


class AbstractDataset(DetectionDataset):
    """Data set of a user's own with the names of its classes; evaluated as COCO.

    A subclass sets CLASSES, of which the first is "__background__", calls `initMaps`, and defines `__getitem__`,
    `__len__` and `get_img_info`. The targets that it returns are the ground truth.
    """

    CLASSES: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.name_to_id: dict[str, int] = {}
        self.id_to_name: dict[int, str] = {}

    def initMaps(self) -> None:  # noqa: N802
        """Number the classes. Raises: ValueError unless the first is the background."""
        if not self.CLASSES or self.CLASSES[0] != "__background__":
            raise ValueError(f"{self.kind}.CLASSES is {list(self.CLASSES)[:3]}...; the first must be '__background__'")
        self.id_to_name = dict(enumerate(self.CLASSES))
        self.name_to_id = {name: label for label, name in self.id_to_name.items()}
        self.class_names = tuple(self.CLASSES)

    def map_class_id_to_class_name(self, class_id: int) -> str:
        return self.id_to_name[class_id]

    def get_groundtruth(self, index: int) -> BoxList:
        info = self.get_img_info(index)
        return self[index][1].resize((info["width"], info["height"]))


# --- modeling.poolers


class LevelMapper:
    """Level of the feature pyramid for each box: floor(canonical_level + log2(sqrt(area) / canonical_scale)).

    Args:
        k_min, k_max: first and last level; results are limited to them and count from k_min.
        canonical_scale: side, in pixels, of the box that belongs to `canonical_level`.
    Source: Lin et al. 2017, Feature Pyramid Networks, equation 1.
    """

    def __init__(
        self, k_min: float, k_max: float, canonical_scale: float = 224, canonical_level: float = 4, eps: float = 1e-6
    ) -> None:
        self.k_min, self.k_max = k_min, k_max
        self.s0, self.lvl0, self.eps = canonical_scale, canonical_level, eps

    def __call__(self, boxlists: Sequence[BoxList]) -> Tensor:
        """Boxes of all images -> (R,) int64."""
        sides = torch.cat([boxes.area() for boxes in boxlists]).sqrt()
        levels = torch.floor(self.lvl0 + torch.log2(sides / self.s0 + self.eps))
        return (levels.clamp(self.k_min, self.k_max) - self.k_min).to(torch.int64)


# --- structures.keypoint, modeling.roi_heads.keypoint_head


def keypoints_to_heat_map(keypoints: Tensor, rois: Tensor, heatmap_size: int) -> tuple[Tensor, Tensor]:
    """Cell (R, K) of each keypoint (R, K, 3) in its box (R, 4), and (R, K): 1 if it is visible and inside, else 0."""
    cells, valid = encode_keypoints(keypoints, rois, heatmap_size)
    return cells, valid.long()


def project_keypoints_to_heatmap(
    keypoints: Keypoints, proposals: BoxList, discretization_size: int
) -> tuple[Tensor, Tensor]:
    """`keypoints_to_heat_map` of structures, row by row."""
    return keypoints_to_heat_map(keypoints.keypoints, proposals.convert("xyxy").bbox, discretization_size)


def heatmaps_to_keypoints(
    maps: NDArray[np.floating[Any]], rois: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Peaks of heatmaps.

    Args:
        maps: (R, K, S, S) logits.
        rois: (R, 4) boxes in pixels.
    Returns: (R, K, 3) of x, y in pixels and 1, and (R, K) the largest logit of each map enlarged to its box.
    """
    points, scores = decode_heatmaps(torch.from_numpy(maps), torch.from_numpy(rois))
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=2).numpy(), scores.numpy()


class Keypointer:
    """Peaks of the heatmaps of one image, in pixels. `padding` is accepted and not used, as by upstream."""

    def __init__(self, padding: int = 0) -> None:
        self.padding = padding

    def __call__(self, masks: Tensor, boxes: BoxList | Sequence[BoxList]) -> tuple[Tensor, Tensor]:
        """
        Args:
            masks: (R, K, S, S) logits.
            boxes: the R boxes, or a list with these as its one element.
        Returns: (R, K, 3) and (R, K), as `heatmaps_to_keypoints`, on the device of `masks`.
        Raises: ValueError for the boxes of several images.
        """
        images = [boxes] if isinstance(boxes, BoxList) else list(boxes)
        if len(images) != 1:
            raise ValueError(f"Keypointer takes the boxes of one image, not of {len(images)}")
        points, scores = decode_heatmaps(masks, images[0].convert("xyxy").bbox)
        return torch.cat([points, torch.ones_like(points[..., :1])], dim=2), scores


# --- modeling.roi_heads.mask_head


def keep_only_positive_boxes(boxes: Sequence[BoxList]) -> tuple[list[BoxList], list[Tensor]]:
    """The boxes of each image whose label is above 0, and (R,) bool: which these are."""
    positives = [boxes_per_image.get_field(LABELS) > 0 for boxes_per_image in boxes]
    return [kept[positive.nonzero().squeeze(1)] for kept, positive in zip(boxes, positives, strict=True)], positives


def expand_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Scale xyxy boxes (R, 4) about their centres."""
    centres, halves = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)
    return torch.cat([centres - halves, centres + halves], dim=1)


def expand_masks(mask: Tensor, padding: int) -> tuple[Tensor, float]:
    """Masks (R, 1, M, M) with a border of zeros, and the factor by which the border makes them larger."""
    cells = mask.shape[-1]
    return torch.nn.functional.pad(mask, [padding] * 4), (cells + 2 * padding) / cells


def paste_mask_in_image(
    mask: Tensor, box: Tensor, im_h: int, im_w: int, thresh: float = 0.5, padding: int = 1
) -> Tensor:
    """Paste one mask (M, M), or (1, M, M), of an inclusive box (4,) -> (im_h, im_w), as `Masker` does."""
    boxes = BoxList(box.reshape(1, 4), (im_w, im_h))
    side = math.isqrt(mask.numel())
    pasted = Masker(thresh, padding).forward_single_image(mask.reshape(1, 1, side, side), boxes)
    return pasted[0, 0]

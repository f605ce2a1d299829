"""Move an image and its target together: by an affine map, or by a crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.transforms.transforms import IMAGE_FORMATS
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.geometry import map_extents
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.problems import check_choice

if TYPE_CHECKING:
    from yacs.config import CfgNode

Matrix = NDArray[np.float64]


def shift_and_scale(left: float, top: float, scale_x: float = 1.0, scale_y: float = 1.0) -> Matrix:
    """The (2, 3) matrix that moves the point (left, top) to (0, 0), and scales."""
    return np.array([[scale_x, 0.0, -left * scale_x], [0.0, scale_y, -top * scale_y]])


def rotation_about(centre: Sequence[float], degrees: float, scale: float) -> Matrix:
    """The (2, 3) matrix that rotates anticlockwise, as one sees the image, and scales about a point."""
    x, y = centre
    cosine, sine = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array(
        [[cosine, sine, (1 - cosine) * x - sine * y], [-sine, cosine, sine * x + (1 - cosine) * y]], dtype=np.float64
    )


def warp_image(image: Image.Image, matrix: Matrix, size_wh: tuple[int, int], fill: Sequence[int]) -> Image.Image:
    """An 8-bit RGB image after an affine map of continuous coordinates, bilinear; `fill` (RGB) outside the image."""
    linear = matrix[:, :2]
    # OpenCV's coordinates are those of pixel centres
    centred = np.column_stack([linear, linear @ (0.5, 0.5) + matrix[:, 2] - 0.5])
    pixels = cv2.warpAffine(
        np.asarray(image), centred, size_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return Image.fromarray(pixels)


def warp_target(target: BoxList, matrix: Matrix, size_wh: Sequence[float], min_visible: float) -> BoxList:
    """The target after an affine map of its image, without the instances that are gone or nearly gone.

    Args:
        min_visible: least share of an instance that has to be left: of the area of its masks, or of its box if it has
            none.
    """
    warped = target.affine(matrix, size_wh)
    return warped[visible_shares(target, warped, matrix) >= max(min_visible, torch.finfo(torch.float64).tiny)]


def visible_shares(before: BoxList, after: BoxList, matrix: Matrix) -> Tensor:
    """(R,) float64, which part of each instance is left: of the area of its masks, or of its box if it has none."""
    whole, left = mask_areas(before) * np.linalg.det(matrix[:, :2]), mask_areas(after)
    mapped = map_extents(before.extents(), matrix)
    limits = mapped.new_tensor(after.size * 2)
    boxes = _areas(torch.minimum(mapped.clamp(min=0), limits)) / _areas(mapped).clamp(
        min=torch.finfo(mapped.dtype).tiny
    )
    return torch.where(whole > 0, left / whole, boxes)


def crop_sample(
    image: Image.Image, target: BoxList | None, box: tuple[int, int, int, int], min_visible: float
) -> tuple[Image.Image, BoxList | None]:
    """Crop to whole pixels [x1, x2) x [y1, y2), and the target as `warp_target`."""
    x1, y1, x2, y2 = box
    if target is not None:
        target = warp_target(target, shift_and_scale(x1, y1), (x2 - x1, y2 - y1), min_visible)
    return image.crop(box), target


def mean_colour(cfg: CfgNode) -> tuple[int, int, int]:
    """INPUT.PIXEL_MEAN as an 8-bit RGB colour: what becomes zero in `Normalize`."""
    node = cfg.INPUT
    image_format = node.FORMAT or ("BGR255" if node.TO_BGR255 else "RGB")
    check_choice("INPUT.FORMAT", image_format, IMAGE_FORMATS)
    values = [value * (1.0 if image_format.endswith("255") else 255.0) for value in node.PIXEL_MEAN]
    red, green, blue = (int(min(max(round(value), 0), 255)) for value in values)
    return (blue, green, red) if image_format.startswith("BGR") else (red, green, blue)


def mask_areas(target: BoxList) -> Tensor:
    """(R,) float64, the area of the masks of each instance, of all fields together; 0 if it has none."""
    areas = torch.zeros(len(target), dtype=torch.float64)
    fields: list[Any] = [value for value in target.extra_fields.values() if isinstance(value, SegmentationMask)]
    return sum((masks.areas() for masks in fields), areas)


def _areas(extents: Tensor) -> Tensor:
    return (extents[:, 2] - extents[:, 0]) * (extents[:, 3] - extents[:, 1])

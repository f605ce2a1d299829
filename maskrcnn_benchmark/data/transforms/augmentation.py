"""Random crops, scales and rotations. Boxes, polygons, bitmaps and keypoints move with the image.

Instances of which less than INPUT.MIN_VISIBLE is left are removed, and keypoints outside the image are no longer
labelled. An image may end up without instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from maskrcnn_benchmark.data.transforms.warping import (
    crop_sample,
    mean_colour,
    rotation_about,
    shift_and_scale,
    warp_image,
    warp_target,
)
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.utils.problems import check_choice, check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

Pair = tuple[Image.Image, BoxList | None]

CENTRES = ("image", "instance")

_HALF_BODY_MIN_POINTS = 2  # of the half that is cropped to


class RandomCrop:
    """Crop to a random part of the image. If there are instances, the centre of the box of one of them is inside.

    Args:
        prob: probability of a crop.
        shares: smallest and largest width and height of the crop, as shares of the image's; drawn for each side.
        min_visible: see `warp_target`.
    """

    def __init__(self, prob: float, shares: tuple[float, float], min_visible: float) -> None:
        self.prob, self.shares, self.min_visible = prob, shares, min_visible

    @classmethod
    def from_cfg(cls, cfg: CfgNode, is_train: bool) -> RandomCrop | None:
        node = cfg.INPUT.RANDOM_CROP
        if not _is_on("INPUT.RANDOM_CROP.PROB", node.PROB, is_train):
            return None
        return cls(node.PROB, _bounds("INPUT.RANDOM_CROP.SHARES", node.SHARES, 1.0), min_visible_share(cfg))

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> Pair:
        if _uniform() >= self.prob:
            return image, target
        size = tuple(max(1, round(side * _uniform(*self.shares))) for side in image.size)
        centre = _instance_centre(target)
        start = []
        for axis in (0, 1):
            low, high = 0, image.size[axis] - size[axis]
            if centre is not None:
                low, high = max(low, int(centre[axis]) - size[axis] + 1), min(high, int(centre[axis]))
            start.append(_whole_number(low, max(low, high)))
        box = (start[0], start[1], start[0] + size[0], start[1] + size[1])
        return crop_sample(image, target, box, self.min_visible)

    def __repr__(self) -> str:
        return f"RandomCrop(prob={self.prob}, shares={self.shares}, min_visible={self.min_visible})"


class LargeScaleJitter:
    """Resize by a random factor, relative to the size that fits into a square, and crop to that square at random.

    It takes the place of `Resize`. An image smaller than the square is not padded here; the collator pads the batch.

    Args:
        size: side of the square, in pixels.
        scales: smallest and largest factor.
        min_visible: see `warp_target`.
    Source: Ghiasi et al. 2021, Simple Copy-Paste, section 3.
    """

    def __init__(self, size: int, scales: tuple[float, float], min_visible: float) -> None:
        self.size, self.scales, self.min_visible = size, scales, min_visible

    @classmethod
    def from_cfg(cls, cfg: CfgNode, is_train: bool) -> LargeScaleJitter | None:
        node = cfg.INPUT.LARGE_SCALE_JITTER
        if not (is_train and node.ENABLED):
            return None
        check_range("INPUT.LARGE_SCALE_JITTER.SIZE", node.SIZE, 1)
        if cfg.INPUT.RESIZE == "torchvision":
            config_problem(
                "INPUT.LARGE_SCALE_JITTER.ENABLED is True and INPUT.RESIZE is 'torchvision', which resizes tensors; "
                "the jitter resizes 8-bit images: set RESIZE to 'PIL' or 'detectron2'."
            )
        return cls(node.SIZE, _bounds("INPUT.LARGE_SCALE_JITTER.SCALES", node.SCALES), min_visible_share(cfg))

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> Pair:
        width, height = image.size
        factor = self.size / max(width, height) * _uniform(*self.scales)
        resized = max(1, round(width * factor)), max(1, round(height * factor))
        scale_x, scale_y = resized[0] / width, resized[1] / height
        new_width, new_height = min(resized[0], self.size), min(resized[1], self.size)
        left, top = _whole_number(0, resized[0] - new_width), _whole_number(0, resized[1] - new_height)
        box = (left / scale_x, top / scale_y, (left + new_width) / scale_x, (top + new_height) / scale_y)
        inside = (*box[:2], min(box[2], width), min(box[3], height))  # against rounding
        pixels = image.resize((new_width, new_height), Image.Resampling.BILINEAR, box=inside)
        if target is not None:
            matrix = shift_and_scale(*box[:2], scale_x, scale_y)
            target = warp_target(target, matrix, (new_width, new_height), self.min_visible)
        return pixels, target

    def __repr__(self) -> str:
        return f"LargeScaleJitter(size={self.size}, scales={self.scales}, min_visible={self.min_visible})"


class RandomAffine:
    """Rotate and scale about the centre of the image or of an instance. The image keeps its size.

    Args:
        prob: probability of a change.
        max_degrees: largest rotation in either direction.
        scales: smallest and largest factor.
        about: one of CENTRES. "instance": the centre of the box of a random instance, which stays where it is; the
            image's if there is none.
        fill: 8-bit RGB colour where the image has no pixel.
        min_visible: see `warp_target`.
    """

    def __init__(
        self,
        prob: float,
        max_degrees: float,
        scales: tuple[float, float],
        about: str,
        fill: Sequence[int],
        min_visible: float,
    ) -> None:
        self.prob, self.max_degrees, self.scales = prob, max_degrees, scales
        self.about, self.fill, self.min_visible = about, tuple(fill), min_visible

    @classmethod
    def from_cfg(cls, cfg: CfgNode, is_train: bool) -> RandomAffine | None:
        node = cfg.INPUT.RANDOM_AFFINE
        if not _is_on("INPUT.RANDOM_AFFINE.PROB", node.PROB, is_train):
            return None
        check_choice("INPUT.RANDOM_AFFINE.ABOUT", node.ABOUT, CENTRES)
        check_range("INPUT.RANDOM_AFFINE.MAX_DEGREES", node.MAX_DEGREES, 0, 180)
        scales = _bounds("INPUT.RANDOM_AFFINE.SCALES", node.SCALES)
        return cls(node.PROB, node.MAX_DEGREES, scales, node.ABOUT, mean_colour(cfg), min_visible_share(cfg))

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> Pair:
        if _uniform() >= self.prob:
            return image, target
        degrees, scale = _uniform(-self.max_degrees, self.max_degrees), _uniform(*self.scales)
        centre = _instance_centre(target) if self.about == "instance" else None
        matrix = rotation_about(centre or (image.width / 2, image.height / 2), degrees, scale)
        if target is not None:
            target = warp_target(target, matrix, image.size, self.min_visible)
        return warp_image(image, matrix, image.size, self.fill), target

    def __repr__(self) -> str:
        return (
            f"RandomAffine(prob={self.prob}, max_degrees={self.max_degrees}, scales={self.scales}, "
            f"about={self.about!r}, min_visible={self.min_visible})"
        )


class HalfBodyCrop:
    """Crop to the upper or the lower half of the keypoints of a random instance.

    Only instances with at least `min_keypoints` labelled keypoints are cropped to. The half is drawn; the other one is
    taken if it has fewer than two labelled keypoints.

    Args:
        prob: probability of a crop.
        upper: indices of the keypoints of the upper half; the others are the lower half.
        min_keypoints: as above.
        margin: added on each side, as a share of the longer side of the box around the half's keypoints.
        min_visible: see `warp_target`.
    Source: Sun et al. 2019, Deep High-Resolution Representation Learning for Human Pose Estimation, section 4.1.
    """

    def __init__(
        self, prob: float, upper: Sequence[int], *, min_keypoints: int, margin: float, min_visible: float
    ) -> None:
        self.prob, self.upper = prob, tuple(upper)
        self.min_keypoints, self.margin, self.min_visible = min_keypoints, margin, min_visible

    @classmethod
    def from_cfg(cls, cfg: CfgNode, is_train: bool) -> HalfBodyCrop | None:
        node = cfg.INPUT.HALF_BODY
        if not _is_on("INPUT.HALF_BODY.PROB", node.PROB, is_train):
            return None
        check_range("INPUT.HALF_BODY.MARGIN", node.MARGIN, 0)
        if not cfg.MODEL.KEYPOINT_ON:
            config_problem(
                "INPUT.HALF_BODY.PROB is above 0, but MODEL.KEYPOINT_ON is False: without keypoints there is no half "
                "of a body to crop to. Set PROB to 0."
            )
        return cls(
            node.PROB,
            _upper_keypoints(cfg),
            min_keypoints=node.MIN_KEYPOINTS,
            margin=node.MARGIN,
            min_visible=min_visible_share(cfg),
        )

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> Pair:
        if _uniform() >= self.prob:
            return image, target
        picks_upper = _uniform() < 0.5
        position = _uniform()  # always drawn, so that later numbers do not depend on the target
        box = None if target is None else self._half(target, picks_upper, position, image.size)
        return (image, target) if box is None else crop_sample(image, target, box, self.min_visible)

    def _half(
        self, target: BoxList, picks_upper: bool, position: float, size_wh: tuple[int, int]
    ) -> tuple[int, int, int, int] | None:
        """The crop, x1, y1, x2, y2 in whole pixels; None if no instance has enough keypoints."""
        points = target.get_field(fields.KEYPOINTS).keypoints
        labelled = points[..., 2] > 0
        candidates = (labelled.sum(dim=1) >= self.min_keypoints).nonzero()[:, 0].tolist()
        if not candidates:
            return None
        row = candidates[int(position * len(candidates))]
        is_upper = torch.zeros(points.shape[1], dtype=torch.bool)
        is_upper[list(self.upper)] = True
        halves = [labelled[row] & is_upper, labelled[row] & ~is_upper]
        if not picks_upper:
            halves.reverse()
        chosen = next((half for half in halves if half.sum() >= _HALF_BODY_MIN_POINTS), None)
        if chosen is None:
            return None
        near, far = points[row, chosen, :2].amin(dim=0), points[row, chosen, :2].amax(dim=0)
        border = self.margin * float((far - near).max())
        x1, y1 = (max(0, int(value - border)) for value in near.tolist())
        x2, y2 = (min(side, int(value + border) + 1) for side, value in zip(size_wh, far.tolist(), strict=True))
        return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None

    def __repr__(self) -> str:
        return (
            f"HalfBodyCrop(prob={self.prob}, upper={self.upper}, min_keypoints={self.min_keypoints}, "
            f"margin={self.margin}, min_visible={self.min_visible})"
        )


def min_visible_share(cfg: CfgNode) -> float:
    """INPUT.MIN_VISIBLE, checked."""
    check_range("INPUT.MIN_VISIBLE", cfg.INPUT.MIN_VISIBLE, 0, 1)
    share: float = cfg.INPUT.MIN_VISIBLE
    return share


def _upper_keypoints(cfg: CfgNode) -> tuple[int, ...]:
    """INPUT.HALF_BODY.UPPER, checked; for COCO's skeleton () means the points of head and arms."""
    upper, count = tuple(cfg.INPUT.HALF_BODY.UPPER), cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    names = PersonKeypoints.NAMES
    if not upper and count == len(names):
        return tuple(range(names.index("left_hip")))
    if not upper or len(set(upper)) == count or not all(0 <= index < count for index in upper):
        config_problem(
            f"INPUT.HALF_BODY.UPPER is {upper}; expected indices from 0 to {count - 1} of the keypoints of the upper "
            "half, but not of all. () is known for COCO's 17 keypoints only."
        )
    return upper


def _is_on(key: str, prob: float, is_train: bool) -> bool:
    check_range(key, prob, 0, 1)
    return is_train and prob > 0


def _bounds(key: str, values: Sequence[float], limit: float | None = None) -> tuple[float, float]:
    """A smallest and a largest factor from the config, checked."""
    if len(values) != 2 or not 0 < values[0] <= values[1] or (limit is not None and values[1] > limit):
        most = "" if limit is None else f", at most {limit:g}"
        config_problem(f"{key} is {values}; expected a smallest and a largest number, above 0{most}.")
        return (1.0, 1.0)
    return float(values[0]), float(values[1])


def _instance_centre(target: BoxList | None) -> tuple[float, float] | None:
    """The centre of the box of a random instance, in continuous coordinates; None if there is none."""
    if target is None or not len(target):
        return None
    x1, y1, x2, y2 = target.extents()[_whole_number(0, len(target) - 1)].tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2


def _uniform(low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand(()))


def _whole_number(low: int, high: int) -> int:
    """From low to high, both included."""
    return int(torch.randint(low, high + 1, ()))

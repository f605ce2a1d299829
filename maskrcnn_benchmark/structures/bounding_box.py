"""`BoxList`: the boxes of one image and their fields."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import INCLUSIVE, box_areas, box_extents, clip_boxes, convert_boxes, mirror_boxes
from maskrcnn_benchmark.structures.geometry import (
    FLIP_LEFT_RIGHT,
    FLIP_TOP_BOTTOM,
    check_affine,
    check_crop,
    check_flip,
    check_size,
    index_to_list,
    map_extents,
    resize_ratios,
)
from maskrcnn_benchmark.structures.keypoint import Keypoints

__all__ = ["BoxList", "FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM"]

_MODES = ("xyxy", "xywh")


class BoxList:
    """R boxes of one image and their fields. Every operation returns a new BoxList; none changes this one.

    A field has one entry per box. It is a tensor or an object that can be indexed: masks, keypoints, another BoxList,
    a list. `resize`, `transpose`, `crop` and `affine` call the method of the same name of masks, keypoints and
    BoxLists, and copy tensors unchanged.

    Args:
        bbox: (R, 4) tensor or nested sequence, in pixels.
        image_size: (width, height) of the image, in pixels.
        mode: "xyxy" for two corners, "xywh" for the first corner and the size.
        offset: 1 (INCLUSIVE) if the second corner is the last pixel of the box, 0 (HALF_OPEN) if it is a continuous
            coordinate. The width is x2 - x1 + offset.
    Attributes:
        bbox: (R, 4) float32, in pixels.
        size: (width, height) of the image, in pixels.
        mode: "xyxy" or "xywh".
        offset: 0 or 1; results of operations have the same.
        extra_fields: the fields by name.
    Raises: ValueError for a wrong shape, mode, size or offset.
    """

    def __init__(
        self,
        bbox: Tensor | Sequence[Sequence[float]] | np.ndarray,
        image_size: Sequence[float],
        mode: str = "xyxy",
        offset: int = INCLUSIVE,
    ) -> None:
        boxes = torch.as_tensor(bbox, dtype=torch.float32)
        if boxes.dim() == 1 and boxes.numel() == 0:
            boxes = boxes.reshape(0, 4)  # an empty list has no columns
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"BoxList takes boxes of shape (R, 4), not {tuple(boxes.shape)}")
        if mode not in _MODES:
            raise ValueError(f"BoxList mode is {mode!r}; it can be {' or '.join(map(repr, _MODES))}")
        if offset not in (0, 1):
            raise ValueError(f"BoxList offset is {offset!r}; it can be 1 (inclusive corners) or 0 (half-open)")
        self.bbox = boxes
        self.size = check_size(image_size, "BoxList")
        self.mode = mode
        self.offset = offset
        self.extra_fields: dict[str, Any] = {}

    # Fields

    def add_field(self, field: str, field_data: Any) -> None:
        """Add or replace a field of this BoxList."""
        self.extra_fields[field] = field_data

    def get_field(self, field: str) -> Any:
        """The field's value. Raises: KeyError with the names of the fields if there is no such field."""
        if field not in self.extra_fields:
            present = ", ".join(sorted(self.extra_fields)) or "none"
            raise KeyError(f"this BoxList of {len(self)} boxes has no field {field!r}; fields present: {present}")
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        """Is there a field of this name?"""
        return field in self.extra_fields

    def fields(self) -> list[str]:
        """Names of the fields, in the order in which they were added."""
        return list(self.extra_fields)

    def copy_with_fields(self, fields: str | Iterable[str], skip_missing: bool = False) -> "BoxList":
        """The same boxes with only these fields. Raises KeyError if one is missing, unless `skip_missing`."""
        copy = self._like(self.bbox)
        for field in [fields] if isinstance(fields, str) else fields:
            if self.has_field(field) or not skip_missing:
                copy.add_field(field, self.get_field(field))
        return copy

    # Geometry

    def convert(self, mode: str) -> "BoxList":
        """The same boxes as "xyxy" or "xywh"."""
        if mode not in _MODES:
            raise ValueError(f"BoxList.convert was given {mode!r}; it knows {' and '.join(map(repr, _MODES))}")
        if mode == self.mode:
            return self
        converted = self._like(convert_boxes(self.bbox, self.mode, mode, self.offset))
        converted.mode = mode
        converted.extra_fields = dict(self.extra_fields)
        return converted

    def resize(self, size: Sequence[float], *args: Any, **kwargs: Any) -> "BoxList":
        """The boxes after the image is resized to `size` (width, height): both corners times the ratio of the sizes."""
        ratio_x, ratio_y = resize_ratios(self.size, size, "BoxList.resize")
        x1, y1, x2, y2 = self._corners().unbind(1)
        scaled = torch.stack((x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y), dim=1)
        resized = self._from_corners(scaled, size)
        for name, value in self.extra_fields.items():
            resized.add_field(name, value.resize(size, *args, **kwargs) if _has_operation(value, "resize") else value)
        return resized

    def transpose(self, method: int) -> "BoxList":
        """The boxes after FLIP_LEFT_RIGHT or FLIP_TOP_BOTTOM of the image: x becomes width - offset - x."""
        check_flip(method)
        width, height = self.size
        if method == FLIP_LEFT_RIGHT:
            corners = mirror_boxes(self._corners(), width, self.offset)
        else:
            x1, y1, x2, y2 = self._corners().unbind(1)
            corners = torch.stack((x1, height - self.offset - y2, x2, height - self.offset - y1), dim=1)
        flipped = self._from_corners(corners, self.size)
        for name, value in self.extra_fields.items():
            if isinstance(value, Keypoints):  # keypoints have no offset of their own
                value = value.transpose(method, offset=self.offset)
            elif _has_operation(value, "transpose"):
                value = value.transpose(method)
            flipped.add_field(name, value)
        return flipped

    def crop(self, box: Sequence[float] | Tensor) -> "BoxList":
        """The boxes after the image is cropped to [x1, x2) x [y1, y2), clipped to the crop.

        No box is removed: a box outside the crop ends on its border. Remove those with `clip_to_image` or
        `remove_small_boxes`.
        """
        left, top, right, bottom = check_crop(box, "BoxList.crop")
        size = (right - left, bottom - top)
        x1, y1, x2, y2 = self._corners().unbind(1)
        shifted = torch.stack((x1 - left, y1 - top, x2 - left, y2 - top), dim=1)
        cropped = self._from_corners(clip_boxes(shifted, size, self.offset), size)
        for name, value in self.extra_fields.items():
            cropped.add_field(name, value.crop(box) if _has_operation(value, "crop") else value)
        return cropped

    def affine(self, matrix: Any, size: Sequence[float]) -> "BoxList":
        """The boxes after an affine map of the image (rotation, scale, shift), clipped to the new image.

        Masks and keypoints follow. A box that was turned or cut is then drawn around what is left of the instance's
        masks (of all fields with masks together); an instance without a mask gets the box around the mapped corners of
        its box. No box is removed: one outside ends on the border, as in `crop`.

        Args:
            matrix: (2, 3), of continuous coordinates, in which pixel p covers [p, p + 1); see `check_affine`.
            size: (width, height) of the mapped image, in pixels.
        """
        values, (width, height) = check_affine(matrix, "BoxList.affine"), check_size(size, "BoxList.affine")
        mapped = map_extents(self.extents(), values)
        limits = mapped.new_tensor([width, height] * 2)
        clipped = torch.minimum(mapped.clamp(min=0), limits)
        warped = self._from_extents(clipped, size)
        for name, value in self.extra_fields.items():
            if isinstance(value, Keypoints):  # keypoints have no offset of their own
                value = value.affine(matrix, size, offset=self.offset)
            elif _has_operation(value, "affine"):
                value = value.affine(matrix, size)
            warped.add_field(name, value)
        is_turned = bool(values[0, 1] or values[1, 0])
        return warped.fit_to_masks((mapped != clipped).any(dim=1) | is_turned)

    def fit_to_masks(self, rows: Tensor) -> "BoxList":
        """With new boxes around the instances' masks, of all fields with masks together.

        Args:
            rows: (R,) bool, the boxes to replace; an instance without a mask keeps its box.
        """
        masks = [value for value in self.extra_fields.values() if _has_operation(value, "bounds")]
        if not masks or not rows.any():
            return self
        stacked = torch.stack([value.bounds() for value in masks]).to(self.bbox.device)  # (.., R, 4), NaN: empty
        low = stacked[..., :2].nan_to_num(math.inf).amin(dim=0)
        high = stacked[..., 2:].nan_to_num(-math.inf).amax(dim=0)
        fitted = torch.cat([low.clamp(min=0), torch.minimum(high, high.new_tensor(self.size))], dim=1)
        replace = rows & fitted.isfinite().all(dim=1)
        extents = torch.where(replace[:, None], fitted, self.extents().double())
        replaced = self._from_extents(extents, self.size)
        replaced.extra_fields = dict(self.extra_fields)
        return replaced

    def clip_to_image(self, remove_empty: bool = True) -> "BoxList":
        """Clip the boxes to the image; `remove_empty` removes those with x2 <= x1 or y2 <= y1 after that."""
        corners = clip_boxes(self._corners(), self.size, self.offset)
        clipped = self._from_corners(corners, self.size)
        clipped.extra_fields = dict(self.extra_fields)
        if not remove_empty:
            return clipped
        return clipped[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]

    def area(self) -> Tensor:
        """Areas (R,), in square pixels."""
        return box_areas(self._corners(), self.offset)

    def extents(self) -> Tensor:
        """Half-open boxes (R, 4), x1, y1, x2, y2, in continuous coordinates: pixel p covers [p, p + 1)."""
        return box_extents(self._corners(), self.offset)

    # Devices and indexing

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "BoxList":
        """Copy the boxes and all fields that have a method `to` to a device."""
        moved = self._like(self.bbox.to(device, non_blocking=non_blocking))
        for name, value in self.extra_fields.items():
            if isinstance(value, (Tensor, Keypoints, BoxList)):
                value = value.to(device, non_blocking=non_blocking)
            elif hasattr(value, "to"):
                value = value.to(device)
            moved.add_field(name, value)
        return moved

    def pin_memory(self) -> "BoxList":
        """Copy to page-locked memory; called by `DataLoader(pin_memory=True)`."""
        pinned = self._like(self.bbox.pin_memory())
        for name, value in self.extra_fields.items():
            pinned.add_field(name, value.pin_memory() if hasattr(value, "pin_memory") else value)
        return pinned

    def __getitem__(self, item: Any) -> "BoxList":
        """Select boxes by int, slice, sequence or tensor of ints, or bool mask. One int gives a BoxList of one box."""
        if not isinstance(item, slice):
            item = torch.as_tensor(item, device=item.device if isinstance(item, Tensor) else self.bbox.device)
            item = item.reshape(1) if item.dim() == 0 else item
            item = item.long() if item.numel() == 0 and item.is_floating_point() else item  # [] selects nothing
        selected = self._like(self.bbox[item])
        for name, value in self.extra_fields.items():
            if isinstance(value, (list, tuple)):
                value = type(value)([value[position] for position in index_to_list(item, len(self))])
            elif isinstance(value, np.ndarray):
                value = value[index_to_list(item, len(self))]
            else:
                value = value[item]
            selected.add_field(name, value)
        return selected

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        return (
            f"BoxList(num_boxes={len(self)}, image_width={width}, image_height={height}, mode={self.mode}, "
            f"offset={self.offset}, fields=[{', '.join(self.extra_fields)}])"
        )

    def _split_into_xyxy(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns x1, y1, x2, y2, each (R, 1), in either mode."""
        x1, y1, x2, y2 = self._corners().split(1, dim=1)
        return x1, y1, x2, y2

    def _corners(self) -> Tensor:
        return self.bbox if self.mode == "xyxy" else convert_boxes(self.bbox, self.mode, "xyxy", self.offset)

    def _like(self, bbox: Tensor) -> "BoxList":
        """A BoxList of other boxes with the same size, mode and offset, without fields."""
        return BoxList(bbox, self.size, self.mode, self.offset)

    def _from_extents(self, extents: Tensor, size: Sequence[float]) -> "BoxList":
        """As `_from_corners`, of half-open boxes; none gets a negative width or height."""
        near, far = extents[:, :2], extents[:, 2:] - self.offset
        return self._from_corners(torch.cat([near, torch.maximum(near, far)], dim=1).float(), size)

    def _from_corners(self, corners: Tensor, size: Sequence[float]) -> "BoxList":
        """A BoxList of xyxy boxes in an image of `size`, converted to this one's mode, without fields."""
        if self.mode != "xyxy":
            corners = convert_boxes(corners, "xyxy", self.mode, self.offset)
        return BoxList(corners, size, self.mode, self.offset)


def _has_operation(value: Any, operation: str) -> bool:
    """Does a field's value have the method `operation`? Tensors have methods of these names with another meaning."""
    return not isinstance(value, (Tensor, np.ndarray)) and hasattr(value, operation)

"""`BoxList`: the boxes of one image, with whatever belongs to each box."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import INCLUSIVE, box_areas, box_extents, clip_boxes, convert_boxes
from maskrcnn_benchmark.structures.geometry import (
    FLIP_LEFT_RIGHT,
    FLIP_TOP_BOTTOM,
    check_crop,
    check_flip,
    check_size,
    index_to_list,
    resize_ratios,
)
from maskrcnn_benchmark.structures.keypoint import Keypoints

__all__ = ["BoxList", "FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM"]

_MODES = ("xyxy", "xywh")


class BoxList:
    """R boxes of one image and their fields; every operation returns a new BoxList and leaves this one as it was.

    A field holds one entry per box: a tensor, or an object that can be indexed (masks, keypoints, another BoxList, a
    list). `resize`, `transpose`, `crop` and `to` are handed on to fields that have a method of that name; tensors
    are carried along unchanged, apart from `to`.

    Args:
        bbox: (R, 4) tensor or nested sequence, in pixels; kept as float32.
        image_size: (width, height) of the image, in pixels.
        mode: "xyxy" for corners, "xywh" for the first corner and the size.
        offset: how far a box reaches beyond its second corner, in pixels: 1 (INCLUSIVE) when the corner names the
            last pixel covered, 0 (HALF_OPEN) when it is a continuous coordinate. Width is x2 - x1 + offset.
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
            boxes = boxes.reshape(0, 4)  # an empty Python list says nothing about its columns
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
        self.extra_fields[field] = field_data

    def get_field(self, field: str) -> Any:
        """The field's value; KeyError that lists the fields present."""
        if field not in self.extra_fields:
            present = ", ".join(sorted(self.extra_fields)) or "none"
            raise KeyError(f"this BoxList of {len(self)} boxes has no field {field!r}; fields present: {present}")
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        return field in self.extra_fields

    def fields(self) -> list[str]:
        return list(self.extra_fields)

    def copy_with_fields(self, fields: str | Iterable[str], skip_missing: bool = False) -> "BoxList":
        """The same boxes with these fields alone; a missing one is a KeyError unless `skip_missing`."""
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
        """For an image stretched to `size` (width, height); corners are multiplied, whatever the offset."""
        ratio_x, ratio_y = resize_ratios(self.size, size, "BoxList.resize")
        x1, y1, x2, y2 = self._corners().unbind(1)
        scaled = torch.stack((x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y), dim=1)
        resized = self._from_corners(scaled, size)
        for name, value in self.extra_fields.items():
            resized.add_field(name, value.resize(size, *args, **kwargs) if _follows(value, "resize") else value)
        return resized

    def transpose(self, method: int) -> "BoxList":
        """For a mirrored image: FLIP_LEFT_RIGHT or FLIP_TOP_BOTTOM. x becomes width - offset - x."""
        check_flip(method)
        width, height = self.size
        x1, y1, x2, y2 = self._corners().unbind(1)
        if method == FLIP_LEFT_RIGHT:
            x1, x2 = width - self.offset - x2, width - self.offset - x1
        else:
            y1, y2 = height - self.offset - y2, height - self.offset - y1
        flipped = self._from_corners(torch.stack((x1, y1, x2, y2), dim=1), self.size)
        for name, value in self.extra_fields.items():
            if isinstance(value, Keypoints):  # points have no extent, so they cannot know the boxes' convention
                value = value.transpose(method, offset=self.offset)
            elif _follows(value, "transpose"):
                value = value.transpose(method)
            flipped.add_field(name, value)
        return flipped

    def crop(self, box: Sequence[float] | Tensor) -> "BoxList":
        """For the window [x1, x2) x [y1, y2) cut out of the image, boxes clipped to it; none is removed.

        A box wholly outside the window ends up on its border: `clip_to_image` or `remove_small_boxes` drop it.
        """
        left, top, right, bottom = check_crop(box, "BoxList.crop")
        size = (right - left, bottom - top)
        x1, y1, x2, y2 = self._corners().unbind(1)
        shifted = torch.stack((x1 - left, y1 - top, x2 - left, y2 - top), dim=1)
        cropped = self._from_corners(clip_boxes(shifted, size, self.offset), size)
        for name, value in self.extra_fields.items():
            cropped.add_field(name, value.crop(box) if _follows(value, "crop") else value)
        return cropped

    def clip_to_image(self, remove_empty: bool = True) -> "BoxList":
        """Boxes cut at the image's border; `remove_empty` drops those whose corners then coincide in x or y."""
        corners = clip_boxes(self._corners(), self.size, self.offset)
        clipped = self._from_corners(corners, self.size)
        clipped.extra_fields = dict(self.extra_fields)
        if not remove_empty:
            return clipped
        return clipped[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]

    def area(self) -> Tensor:
        """(R,) in square pixels."""
        return box_areas(self._corners(), self.offset)

    def extents(self) -> Tensor:
        """(R, 4): the continuous rectangle that each box covers, x1, y1, x2, y2, pixel p covering [p, p + 1)."""
        return box_extents(self._corners(), self.offset)

    # The rest

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "BoxList":
        moved = self._like(self.bbox.to(device, non_blocking=non_blocking))
        for name, value in self.extra_fields.items():
            if isinstance(value, (Tensor, Keypoints, BoxList)):
                value = value.to(device, non_blocking=non_blocking)
            elif hasattr(value, "to"):
                value = value.to(device)
            moved.add_field(name, value)
        return moved

    def pin_memory(self) -> "BoxList":
        """In page-locked memory, as `DataLoader(pin_memory=True)` asks of each batch."""
        pinned = self._like(self.bbox.pin_memory())
        for name, value in self.extra_fields.items():
            pinned.add_field(name, value.pin_memory() if hasattr(value, "pin_memory") else value)
        return pinned

    def __getitem__(self, item: Any) -> "BoxList":
        """Boxes by int, slice, sequence or tensor of ints, or mask of bools; always a BoxList, also for one int."""
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
        """Columns x1, y1, x2, y2, each (R, 1), whatever the mode."""
        x1, y1, x2, y2 = self._corners().split(1, dim=1)
        return x1, y1, x2, y2

    def _corners(self) -> Tensor:
        return self.bbox if self.mode == "xyxy" else convert_boxes(self.bbox, self.mode, "xyxy", self.offset)

    def _like(self, bbox: Tensor) -> "BoxList":
        """Other boxes in this one's image, mode and convention, without fields."""
        return BoxList(bbox, self.size, self.mode, self.offset)

    def _from_corners(self, corners: Tensor, size: Sequence[float]) -> "BoxList":
        """Corners in an image of another size, kept in this one's mode, without fields."""
        if self.mode != "xyxy":
            corners = convert_boxes(corners, "xyxy", self.mode, self.offset)
        return BoxList(corners, size, self.mode, self.offset)


def _follows(value: Any, operation: str) -> bool:
    """Does a field's value take part in `operation`? Tensors have methods of these names that mean something else."""
    return not isinstance(value, (Tensor, np.ndarray)) and hasattr(value, operation)

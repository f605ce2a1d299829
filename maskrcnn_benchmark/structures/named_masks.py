"""Instances with several masks, each with a name: which there are, and one of them for code that knows only one."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from torch import Tensor

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import MaskFields, mask_fields
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask


def mask_names(boxlist: BoxList) -> list[str]:
    """Names of the predicted masks in the order of their fields; if there are none, of the masks of ground truth.

    If there are named masks, the plain mask is left out: it is one of them under another name.

    Returns: [""] for boxes with a plain mask only; [] for boxes without masks.
    """
    names = _names(boxlist, fields.MASK) or _names(boxlist, fields.MASKS)
    return [name for name in names if name] or names


def predicted_masks(boxlist: BoxList) -> list[MaskFields]:
    """The fields of all masks that detections have, the plain one included."""
    return [mask_fields(name) for name in _names(boxlist, fields.MASK)]


def with_mask(boxlist: BoxList, name: str) -> BoxList:
    """The same boxes with one of their masks as the plain mask, so that code for one mask can use it.

    Fields of other masks are left out, all others are kept.

    Args:
        name: of the mask; empty for the plain one.
    """
    if not name:
        return boxlist
    names = {"", *_names(boxlist, fields.MASK), *_names(boxlist, fields.MASKS)}
    of_masks = {field for other in names for field in _field_names(other)}
    result = boxlist.copy_with_fields([field for field in boxlist.fields() if field not in of_masks])
    for plain, own in zip(_field_names(""), _field_names(name), strict=True):
        if boxlist.has_field(own):
            result.add_field(plain, boxlist.get_field(own))
    return result


def _names(boxlist: BoxList, plain: str) -> list[str]:
    """Names of the masks with a field `plain` or `plain`_<name>."""
    names = [_name_in(field, plain) for field in boxlist.fields() if _holds_masks(boxlist.get_field(field))]
    return [name for name in names if name is not None]


def _holds_masks(value: Any) -> bool:
    return isinstance(value, SegmentationMask) or (isinstance(value, Tensor) and value.dim() >= 3)


def _name_in(field: str, plain: str) -> str | None:
    if field == plain:
        return ""
    if not field.startswith(f"{plain}_"):
        return None
    name = field.removeprefix(f"{plain}_")
    try:
        mask_fields(name)
    except ValueError:  # another field of a mask, such as its scores
        return None
    return name


def _field_names(name: str) -> tuple[str, ...]:
    return astuple(mask_fields(name))[1:]

"""Functions of BoxLists: NMS, filter by size, IoU, concatenation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_sizes, pairwise_iou
from maskrcnn_benchmark.layers.nms import nms
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList


def boxlist_nms(
    boxlist: BoxList, nms_thresh: float, max_proposals: int = -1, score_field: str = fields.SCORES
) -> BoxList:
    """Greedy non-maximum suppression over all classes.

    Args:
        nms_thresh: a box whose IoU with a box of higher score is above this is removed; <= 0 keeps every box.
        max_proposals: keep at most this many boxes, highest scores first; <= 0 for no limit.
        score_field: name of the field of scores (R,).
    Returns: the boxes that are kept, with all fields, by descending score.
    """
    if nms_thresh <= 0:
        return boxlist
    boxes = boxlist.convert("xyxy").bbox
    keep = nms(boxes, boxlist.get_field(score_field), nms_thresh, boxlist.offset)
    return boxlist[keep[:max_proposals] if max_proposals > 0 else keep]


def remove_small_boxes(boxlist: BoxList, min_size: float) -> BoxList:
    """The boxes whose width and height are both at least `min_size` pixels."""
    widths, heights = box_sizes(boxlist.convert("xyxy").bbox, boxlist.offset)
    return boxlist[(widths >= min_size) & (heights >= min_size)]


def boxlist_iou(boxlist1: BoxList, boxlist2: BoxList) -> Tensor:
    """Pairwise IoU (R1, R2). Raises ValueError if the image sizes or the offsets differ."""
    _check_compatible([boxlist1, boxlist2], "boxlist_iou")
    return pairwise_iou(boxlist1.convert("xyxy").bbox, boxlist2.convert("xyxy").bbox, boxlist1.offset)


def cat_boxlist(bboxes: Sequence[BoxList]) -> BoxList:
    """Concatenate BoxLists of one image. Raises ValueError if image size, mode, offset or fields differ."""
    if not bboxes:
        raise ValueError("cat_boxlist was given no BoxList, so the image size is unknown; give at least one")
    _check_compatible(bboxes, "cat_boxlist")
    first = bboxes[0]
    for boxes in bboxes:
        if boxes.mode != first.mode:
            raise ValueError(f"cat_boxlist: modes {first.mode!r} and {boxes.mode!r}; convert them to one mode first")
        if set(boxes.fields()) != set(first.fields()):
            raise ValueError(f"cat_boxlist: fields {sorted(first.fields())} and {sorted(boxes.fields())} differ")
    joined = BoxList(torch.cat([boxes.bbox for boxes in bboxes]), first.size, first.mode, first.offset)
    for name in first.fields():
        joined.add_field(name, _cat_values([boxes.get_field(name) for boxes in bboxes], name))
    return joined


def _check_compatible(boxlists: Sequence[BoxList], caller: str) -> None:
    first = boxlists[0]
    for boxes in boxlists:
        if boxes.size != first.size:
            raise ValueError(f"{caller}: image sizes {first.size} and {boxes.size} (width, height) differ")
        if boxes.offset != first.offset:
            raise ValueError(f"{caller}: boxes of offset {first.offset} and {boxes.offset} cannot be mixed")


def _cat_values(values: list[Any], name: str) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, BoxList):
        return cat_boxlist(values)
    if isinstance(first, (list, tuple)):
        return type(first)([entry for value in values for entry in value])
    if hasattr(first, "cat"):
        return type(first).cat(values)
    raise ValueError(
        f"cat_boxlist cannot join field {name!r} of type {type(first).__name__}; a field is a tensor, "
        "a BoxList, a list, or of a class with a class method `cat`"
    )

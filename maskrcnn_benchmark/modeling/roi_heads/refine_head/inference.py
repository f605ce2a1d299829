"""Refined logits to fields of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind
from maskrcnn_benchmark.structures.bounding_box import BoxList


def attach_refined(
    outputs: Mapping[str, MapKind[Any]],
    logits: Mapping[str, Tensor],
    extents: Tensor,
    detections: Sequence[BoxList],
    *,
    keep_coarse: bool,
) -> list[BoxList]:
    """Replace the coarse fields of detections by refined ones.

    Args:
        outputs: name -> kind of output.
        logits: name -> (R, num_own_maps, S, S), rows in the order of the detections of all images.
        extents: (R, 4) half-open rectangles in pixels that the maps span.
        detections: one BoxList per image, with the fields of the coarse heads.
        keep_coarse: keep the coarse fields under their `refined_fields` names ("coarse_mask", ...); else drop them.
    Returns: new BoxLists.
    """
    moves = dict(move for output in outputs.values() for move in output.refined_fields)
    results = [_move_fields(boxes, moves, keep_coarse) for boxes in detections]
    for name, output in outputs.items():
        results = output.attach(logits[name], results, extents)
    return results


def _move_fields(boxes: BoxList, names: Mapping[str, str], keep: bool) -> BoxList:
    """A copy with fields renamed by `names`, {old: new}, or without these fields unless `keep`."""
    result = boxes.copy_with_fields([name for name in boxes.fields() if name not in names])
    for old, new in names.items():
        if keep and boxes.has_field(old):
            result.add_field(new, boxes.get_field(old))
    return result

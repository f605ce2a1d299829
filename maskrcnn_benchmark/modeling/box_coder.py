"""Encode boxes as offsets from anchors or proposals, and decode them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from maskrcnn_benchmark.layers.boxes import DELTA_CLAMP, INCLUSIVE, decode_boxes, encode_boxes


class BoxCoder:
    """`layers.boxes.encode_boxes` and `decode_boxes` with fixed weights and box convention.

    Args:
        weights: factors of the shifts dx, dy and the log sizes dw, dh.
        bbox_xform_clip: largest log size that is decoded, without its weight.
        offset: box convention.
    """

    def __init__(self, weights: Sequence[float], bbox_xform_clip: float = DELTA_CLAMP, offset: int = INCLUSIVE) -> None:
        if len(weights) != 4:
            raise ValueError(f"BoxCoder takes four weights, for dx, dy, dw and dh, not {tuple(weights)}")
        self.weights = tuple(weights)
        self.bbox_xform_clip = bbox_xform_clip
        self.offset = offset

    def encode(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Deltas (..., 4) from `proposals` (..., 4) to `reference_boxes` (..., 4), the ground truth."""
        return encode_boxes(reference_boxes, proposals, self.weights, self.offset)

    def decode(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas (..., 4 * J) to `boxes` (..., 4): (..., 4 * J), in the dtype of `boxes`."""
        return decode_boxes(rel_codes, boxes, self.weights, self.offset, self.bbox_xform_clip)

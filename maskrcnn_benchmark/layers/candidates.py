"""Candidates for non-maximum suppression: the best anchors of an RPN, and the classes above a box head's threshold.

Only the deltas of the candidates are read and decoded. Results are not differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.layers._extension import ops
from maskrcnn_benchmark.layers._tracing import fake_kernel
from maskrcnn_benchmark.layers.boxes import DELTA_CLAMP
from maskrcnn_benchmark.layers.reference.candidates import classes_above as classes_above

_READABLE = (torch.float32, torch.float16, torch.bfloat16)


class RPNCandidates(NamedTuple):
    """The best anchors of every level, decoded and clipped: K per image, level by level, best first."""

    logits: Tensor  # (N, K) float32; NaN if a side of the box is below `min_size`
    boxes: Tensor  # (N, K, 4) xyxy, float32
    groups: Tensor  # (N, K) int64: index of the image times the number of levels, plus the level


class ClassCandidates(NamedTuple):
    """Pairs of region and class, decoded and clipped; a region may occur several times."""

    boxes: Tensor  # (K, 4) xyxy, float32
    scores: Tensor  # (K,) float32; NaN if the box is empty
    labels: Tensor  # (K,) int64, 1 or more
    image_ids: Tensor  # (K,) int64


def rpn_candidates(
    anchors: Sequence[Tensor],
    objectness: Sequence[Tensor],
    box_regression: Sequence[Tensor],
    sizes_wh: Tensor,
    top_n: int,
    *,
    weights: Sequence[float],
    offset: int,
    min_size: float,
    clamp: float = DELTA_CLAMP,
) -> RPNCandidates:
    """Select the `top_n` anchors with the largest logits of each level and image, and decode their boxes.

    Args:
        anchors: per level (H_l * W_l * A, 4) xyxy; the anchors of a cell are adjacent.
        objectness: per level (N, A, H_l, W_l) logits; NaN counts as larger than any number.
        box_regression: per level (N, A * 4, H_l, W_l); the deltas of an anchor are adjacent.
        sizes_wh: (N, 2) width and height of each image, in pixels.
        top_n: maximum number per level and image.
        weights, clamp: as in `decode_boxes`.
        offset: box convention.
        min_size: in pixels. The logit of a box with a smaller side, or of an empty box, becomes NaN.
    Among equal logits the compiled CPU kernel prefers the first in the order of the map. Other devices may take any.
    Raises: RuntimeError for maps that do not fit each other.
    """
    return RPNCandidates(
        *ops.rpn_candidates(
            [anchors_l.detach() for anchors_l in anchors],
            [_readable(objectness_l) for objectness_l in objectness],
            [_readable(regression_l) for regression_l in box_regression],
            sizes_wh,
            top_n,
            weights,
            clamp,
            min_size,
            offset,
        )
    )


def class_candidates(
    scores: Tensor,
    box_regression: Tensor,
    references: Tensor,
    image_ids: Tensor,
    sizes_wh: Tensor,
    threshold: float,
    *,
    weights: Sequence[float],
    offset: int,
    class_agnostic: bool = False,
    clamp: float = DELTA_CLAMP,
) -> ClassCandidates:
    """Select every pair of region and class whose score exceeds the threshold, and decode its box.

    Args:
        scores: (R, J) probabilities, float32, background first.
        box_regression: (R, 4 * J), or (R, 8) if `class_agnostic`: the second set serves all classes.
        references: (R, 4) xyxy, the regions.
        image_ids: (R,) int64 into sizes_wh.
        sizes_wh: (N, 2) width and height of each image, in pixels.
        weights, clamp: as in `decode_boxes`.
        offset: box convention.
    Returns: candidates sorted by region, then by class. Synchronises with a GPU, to read their number.
    Raises: RuntimeError for tensors that do not fit each other.
    """
    return ClassCandidates(
        *ops.class_candidates(
            scores.detach(),
            _readable(box_regression),
            references.detach(),
            image_ids,
            sizes_wh,
            threshold,
            weights,
            clamp,
            offset,
            class_agnostic,
        )
    )


def _readable(values: Tensor) -> Tensor:
    """The values outside the graph, in a type that the kernels read in place; other types are copied to float32."""
    return (values if values.dtype in _READABLE else values.float()).detach()


@fake_kernel("rpn_candidates")
def _rpn_candidates_fake(
    anchors: Sequence[Tensor],
    objectness: Sequence[Tensor],
    box_regression: Sequence[Tensor],
    sizes: Tensor,
    most: int,
    weights: Sequence[float],
    clamp: float,
    min_size: float,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor]:
    num_images, count = sizes.shape[0], sum(min(most, anchors_l.shape[0]) for anchors_l in anchors)
    logits = sizes.new_empty((num_images, count), dtype=torch.float32)
    return logits, logits.new_empty((num_images, count, 4)), torch.empty_like(logits, dtype=torch.int64)


@fake_kernel("class_candidates")
def _class_candidates_fake(scores: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)
    labels = torch.empty_like(kept, dtype=torch.int64)
    return kept.new_empty((kept.shape[0], 4)), kept, labels, torch.empty_like(labels)

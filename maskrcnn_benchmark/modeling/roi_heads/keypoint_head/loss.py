"""Targets and loss of keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.keypoint_ops import encode_keypoints
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS

_IGNORE = -100  # cell index of a keypoint without a target


def matched_keypoints(positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
    """(R, K, 3) keypoints in image pixels of the instance that each RoI matched, on the device of the RoIs."""
    return positives.matched([target.get_field(KEYPOINTS).keypoints for target in targets])


def keypoint_loss(logits: Tensor, keypoints: Tensor, frames: Tensor, divisor: float | None = None) -> Tensor:
    """Softmax cross-entropy over the cells of each heat map, mean over the keypoints that have a target.

    A keypoint has a target if it is labelled and lies inside its RoI's frame. Others are ignored.

    Args:
        logits: (R, K, S, S).
        keypoints: (R, K, 3) in image pixels.
        frames: (R, 4) rectangles in pixels that the maps span.
        divisor: of the sum; None for the number of keypoints that have a target.
    Returns: scalar float32; zero and attached to the graph if no keypoint has a target.
    """
    cells, valid = encode_keypoints(keypoints, frames, logits.shape[-1])
    cells = torch.where(valid, cells, _IGNORE)
    total = F.cross_entropy(
        logits.float().flatten(2).flatten(0, 1), cells.flatten(), ignore_index=_IGNORE, reduction="sum"
    )
    return total / (valid.sum().clamp(min=1) if divisor is None else divisor)

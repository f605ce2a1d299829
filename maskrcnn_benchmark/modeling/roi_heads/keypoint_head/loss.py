"""Targets and loss of the keypoint branch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.keypoint_ops import encode_keypoints
from maskrcnn_benchmark.modeling.batching import to_device
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS

if TYPE_CHECKING:
    from yacs.config import CfgNode

_IGNORE = -100  # cell index of a keypoint that weighs nothing


def matched_keypoints(positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
    """(R, K, 3) keypoints in image pixels of the instance that each RoI matched, on the device of the RoIs."""
    per_image = [target.get_field(KEYPOINTS).keypoints for target in targets]
    # instances of all images in one table; row of the first instance of each image
    first_rows = [0, *accumulate(len(keypoints) for keypoints in per_image)][:-1]
    starts = to_device(first_rows, positives.image_ids.device)
    table = torch.cat(per_image).to(positives.boxes.device)
    return table[starts[positives.image_ids] + positives.matched_idxs]


def keypoint_loss(logits: Tensor, keypoints: Tensor, frames: Tensor) -> Tensor:
    """Softmax cross-entropy over the cells of each heat map, mean over the keypoints that have a target.

    A keypoint has a target when it is labelled and lies inside its RoI's frame; the others weigh nothing, and so does
    a RoI that has none.

    Args:
        logits: (R, K, S, S).
        keypoints: (R, K, 3) in image pixels.
        frames: (R, 4) rectangles in pixels that the maps span.
    Returns: scalar float32; a zero that is attached to the graph where no keypoint has a target.
    """
    cells, valid = encode_keypoints(keypoints, frames, logits.shape[-1])
    cells = torch.where(valid, cells, _IGNORE)
    total = F.cross_entropy(
        logits.float().flatten(2).flatten(0, 1), cells.flatten(), ignore_index=_IGNORE, reduction="sum"
    )
    return total / valid.sum().clamp(min=1)


class KeypointRCNNLossComputation:
    """Loss of the coarse keypoint branch: the RoI's box frames the target.

    Args:
        resolution: cells per side that the predictor must yield, `MODEL.ROI_KEYPOINT_HEAD.RESOLUTION`.
        weight: factor of the loss.
    """

    def __init__(self, resolution: int, *, weight: float = 1.0) -> None:
        self.resolution = resolution
        self.weight = weight

    def __call__(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """(R, K, S, S) logits of R positives -> scalar.

        Raises: ValueError when the logits' resolution or number of keypoints is not that of the targets.
        """
        if logits.shape[-1] != self.resolution:
            raise ValueError(
                f"the keypoint predictor yields {logits.shape[-1]} cells per side, "
                f"MODEL.ROI_KEYPOINT_HEAD.RESOLUTION is {self.resolution}; set it to {logits.shape[-1]} or change "
                "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION"
            )
        keypoints = matched_keypoints(positives, targets)
        if keypoints.shape[1] != logits.shape[1]:
            raise ValueError(
                f"the targets have {keypoints.shape[1]} keypoints per instance, the keypoint predictor "
                f"{logits.shape[1]}; set MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES to {keypoints.shape[1]}"
            )
        return self.weight * keypoint_loss(logits, keypoints, positives.boxes)


def make_roi_keypoint_loss_evaluator(cfg: CfgNode) -> KeypointRCNNLossComputation:
    """The loss as configured under `MODEL.ROI_KEYPOINT_HEAD`."""
    node = cfg.MODEL.ROI_KEYPOINT_HEAD
    return KeypointRCNNLossComputation(node.RESOLUTION, weight=node.LOSS_WEIGHT)

"""Visibility of keypoints: how likely each keypoint is to be labelled, as a second output of the keypoint head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.layers.keypoint_ops import encode_keypoints
from maskrcnn_benchmark.modeling.batching import to_device
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind, attach_rows
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind


class KeypointVisibilityPredictor(nn.Module):
    """Evidence of each keypoint in each cell, then its smooth maximum over the cells: (R, C, S, S) -> (R, K) logits.

    A keypoint is visible if any cell shows it. The logit is the logarithm of the mean of exp(evidence).

    Args:
        in_channels: C.
        num_keypoints: K.
    """

    def __init__(self, in_channels: int, *, num_keypoints: int) -> None:
        super().__init__()
        self.evidence = nn.Conv2d(in_channels, num_keypoints, 1)
        nn.init.normal_(self.evidence.weight, std=0.01)
        assert self.evidence.bias is not None
        nn.init.zeros_(self.evidence.bias)

    def forward(self, x: Tensor) -> Tensor:
        evidence: Tensor = self.evidence(x).flatten(2)
        return evidence.logsumexp(dim=2) - math.log(evidence.shape[2])


class VisibilityKind(OutputKind):
    """A logit per keypoint: is it labelled (v = 1 or 2 in COCO's format)?

    Learns from instances with at least one labelled keypoint. A labelled keypoint inside the RoI is positive, one
    without a label is negative; a labelled one outside the RoI does not count.

    Args:
        keypoints: the keypoints that it belongs to.
        loss_weight: factor of the loss.
    """

    name = "keypoint_visibility"
    loss_name = "loss_kp_visibility"

    def __init__(self, keypoints: KeypointKind, loss_weight: float = 1.0) -> None:
        self.keypoints = keypoints
        self.loss_weight = loss_weight
        self.task, self.target_field, self.flip_test = keypoints.task, keypoints.target_field, keypoints.flip_test
        self.classes = keypoints.classes

    @classmethod
    def from_cfg(cls, cfg: CfgNode, keypoints: KeypointKind) -> VisibilityKind:
        loss_weight = cfg.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT_VISIBILITY
        check_range("MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT_VISIBILITY", loss_weight, 0)
        return cls(keypoints, loss_weight)

    def loss(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """Binary cross-entropy, mean over the keypoints that count; see `OutputKind.loss`."""
        matched = matched_keypoints(positives, targets)
        return self.loss_weight * visibility_loss(logits, matched, positives.boxes)

    def attach(self, logits: Tensor, detections: Sequence[BoxList]) -> list[BoxList]:
        """Write the field KEYPOINT_VISIBILITY, (R, K) probabilities.

        `KeypointPostProcessor` copies it to the keypoints, and comes later.
        """
        return attach_rows(detections, fields.KEYPOINT_VISIBILITY, logits.float().sigmoid())

    def mirror(self, logits: Tensor) -> Tensor:
        """Swaps left and right keypoints."""
        return logits.index_select(1, to_device(self.keypoints.flip_inds, logits.device))

    @property
    def mirror_problem(self) -> str | None:
        return self.keypoints.mirror_problem


def visibility_loss(logits: Tensor, keypoints: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross-entropy of "is labelled", mean over the keypoints that count.

    Args:
        logits: (R, K).
        keypoints: (R, K, 3) x, y in image pixels, and v; of the instance that each RoI matched.
        boxes: (R, 4) RoIs in pixels.
    Returns: scalar float32; zero and attached to the graph if no keypoint counts.
    """
    is_labelled = keypoints[..., 2] > 0
    _, is_positive = encode_keypoints(keypoints, boxes, 1)  # labelled and inside
    counts = is_labelled.any(dim=1, keepdim=True) & (is_positive | ~is_labelled)
    losses = F.binary_cross_entropy_with_logits(logits.float(), is_positive.float(), reduction="none")
    return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1)

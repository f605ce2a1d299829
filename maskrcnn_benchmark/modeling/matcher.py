"""Match anchors or proposals with ground-truth boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import pairwise_iou
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

MAX_OVERLAPS = 10_000_000  # overlaps in memory at once: 40 MB as float32, about five times as much while computing them
MAX_OVERLAPS_CPU = 1_000_000  # overlaps computed at once on a CPU: they fit its caches


@dataclass(frozen=True)
class Matches:
    """For each of A boxes of N images, the ground-truth box that it overlaps most.

    Attributes:
        matched_idxs: (N, A) int64, index of that ground-truth box; 0 in an image without ground truth.
        overlaps: (N, A) float32, IoU with it.
        labels: (N, A) int64: 1 foreground, 0 background, -1 neither.
    """

    matched_idxs: Tensor
    overlaps: Tensor
    labels: Tensor


class Matcher:
    """Boxes are foreground if their IoU is at least `high_threshold`, background if it is below `low_threshold`.

    Args:
        high_threshold, low_threshold: IoU in [0, 1].
        allow_low_quality_matches: also make foreground, for each ground-truth box, of the boxes with the largest IoU
            (all of them in a tie), so that every object is trained on. Such a box is still matched with the
            ground-truth box that it overlaps most, which may be another one.
    Raises: ValueError unless 0 <= low_threshold <= high_threshold <= 1.
    Source: Ren et al. 2015, Faster R-CNN, section 3.1.2.
    """

    BELOW_LOW_THRESHOLD = -1
    BETWEEN_THRESHOLDS = -2

    def __init__(self, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool = False) -> None:
        if not 0 <= low_threshold <= high_threshold <= 1:
            raise ValueError(
                f"Matcher: background ends at an IoU of {low_threshold} and foreground begins at {high_threshold}; "
                "expected 0 <= BG_IOU_THRESHOLD <= FG_IOU_THRESHOLD <= 1"
            )
        self.high_threshold = high_threshold
        self.low_threshold = low_threshold
        self.allow_low_quality_matches = allow_low_quality_matches

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str, *, allow_low_quality_matches: bool) -> Matcher:
        """The matcher with the thresholds of MODEL.<section>."""
        node = cfg.MODEL[section]
        high, low = node.FG_IOU_THRESHOLD, node.BG_IOU_THRESHOLD
        if low > high:
            config_problem(
                f"MODEL.{section}.BG_IOU_THRESHOLD is {low}, above FG_IOU_THRESHOLD {high}: overlaps between them "
                "would be both; lower the former."
            )
        return cls(high, min(low, high), allow_low_quality_matches)

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """(..., G, A) overlaps of G ground-truth boxes with A boxes -> (..., A) int64.

        The result is the index of the matched ground-truth box for foreground, BELOW_LOW_THRESHOLD for background, and
        BETWEEN_THRESHOLDS for neither. Without ground truth (G = 0) all boxes are background.
        """
        if match_quality_matrix.shape[-2] == 0:
            shape = match_quality_matrix.shape[:-2] + match_quality_matrix.shape[-1:]
            return torch.full(shape, self.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=match_quality_matrix.device)
        overlaps, matched_idxs = match_quality_matrix.max(dim=-2)
        labels = self._labels_by_overlap(overlaps)
        if self.allow_low_quality_matches:
            best = match_quality_matrix.amax(dim=-1, keepdim=True)
            labels[attains(match_quality_matrix, best)] = 1
        missed = torch.where(labels == 0, self.BELOW_LOW_THRESHOLD, self.BETWEEN_THRESHOLDS)
        return torch.where(labels == 1, matched_idxs, missed)

    def match_boxes(
        self, gt_boxes: Tensor, gt_filled: Tensor, boxes: Tensor, offset: int, max_overlaps: int = MAX_OVERLAPS
    ) -> Matches:
        """Match the boxes of all images, in portions, so that memory is bounded.

        Args:
            gt_boxes: (N, G, 4) xyxy, G >= 1, padded.
            gt_filled: (N, G) bool: False for padding.
            boxes: (A, 4), the same for every image, or (N, A, 4).
            offset: box convention.
            max_overlaps: number of overlaps in memory at once. Low-quality matches need the overlaps twice: if there
                are more than this, they are computed again.
        """
        num_images, num_gt = gt_filled.shape
        num_boxes = boxes.shape[-2]
        at_once = min(max_overlaps, MAX_OVERLAPS_CPU) if boxes.device.type == "cpu" else max_overlaps
        portion = max(at_once // (num_images * num_gt), 1)
        portions = [slice(start, min(start + portion, num_boxes)) for start in range(0, num_boxes, portion)]
        hold = self.allow_low_quality_matches and num_images * num_gt * num_boxes <= max_overlaps
        held: list[Tensor] = []

        # write in place: small results between large temporary ones would fragment the heap
        overlaps = gt_boxes.new_empty((num_images, num_boxes))
        matched_idxs = torch.empty_like(overlaps, dtype=torch.int64)
        best_per_gt = gt_boxes.new_zeros((num_images, num_gt))
        for part in portions:
            quality = _overlaps(gt_boxes, gt_filled, boxes[..., part, :], offset)
            overlaps[:, part], matched_idxs[:, part] = quality.max(dim=1)
            if self.allow_low_quality_matches:
                torch.maximum(best_per_gt, quality.amax(dim=2), out=best_per_gt)
            if hold:
                held.append(quality)

        labels = self._labels_by_overlap(overlaps)
        if self.allow_low_quality_matches:
            for index, part in enumerate(portions):
                quality = held[index] if hold else _overlaps(gt_boxes, gt_filled, boxes[..., part, :], offset)
                labels[:, part].masked_fill_(attains(quality, best_per_gt[..., None]), 1)
        return Matches(matched_idxs, overlaps.clamp_(min=0), labels)

    def _labels_by_overlap(self, overlaps: Tensor) -> Tensor:
        labels = torch.where(overlaps < self.low_threshold, 0, -1)
        return torch.where(overlaps >= self.high_threshold, 1, labels)


def attains(quality: Tensor, best: Tensor) -> Tensor:
    """(..., G, A) overlaps and (..., G, 1) largest of each row -> (..., A) bool: is it the largest of any row?

    A row without any overlap has no largest one.
    """
    return ((quality == best) & (best > 0)).any(dim=-2)


def _overlaps(gt_boxes: Tensor, gt_filled: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """(N, G, 4), (N, G), and (A, 4) or (N, A, 4) -> (N, G, A) IoU; -1 in rows of padding."""
    return pairwise_iou(gt_boxes, boxes, offset).masked_fill_(~gt_filled[..., None], -1)

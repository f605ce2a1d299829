"""Which ground-truth box each anchor or proposal belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import pairwise_iou

MAX_OVERLAPS = 10_000_000  # overlaps held at once: 40 MB as float32, some five times that while they are computed
MAX_OVERLAPS_CPU = 1_000_000  # computed at once on a CPU: what stays in its caches


@dataclass(frozen=True)
class Matches:
    """For each of A boxes of N images: the ground truth that it overlaps most, and whether that is enough."""

    matched_idxs: Tensor  # (N, A) int64: index of the ground-truth box, whatever the overlap; 0 where there is none
    overlaps: Tensor  # (N, A) float32: IoU with it
    labels: Tensor  # (N, A) int64: 1 foreground, 0 background, -1 neither


class Matcher:
    """Foreground from `high_threshold` on, background below `low_threshold`, neither in between.

    Args:
        high_threshold, low_threshold: IoU in [0, 1].
        allow_low_quality_matches: every ground-truth box makes foreground of the boxes that overlap it most, all of
            them where several overlap it equally, so that none goes untrained. Such a box keeps its own best
            ground truth, which may be another one.
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

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """(..., G, A) overlaps of G ground-truth boxes with A others -> (..., A) int64.

        An entry is the index of the ground truth that the box is foreground of, BELOW_LOW_THRESHOLD for background or
        BETWEEN_THRESHOLDS. Without ground truth (G = 0) everything is background.
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
        """Match the boxes of all images without ever holding all overlaps.

        Args:
            gt_boxes: (N, G, 4) xyxy, G >= 1, padded.
            gt_filled: (N, G) bool: which of them are there.
            boxes: (A, 4), the same for every image, or (N, A, 4).
            offset: box convention.
            max_overlaps: how many overlaps to hold; boxes are taken in portions that keep within it. Low-quality
                matches look at the overlaps again: where there are more than this, they are computed a second time.
        """
        num_images, num_gt = gt_filled.shape
        num_boxes = boxes.shape[-2]
        at_once = min(max_overlaps, MAX_OVERLAPS_CPU) if boxes.device.type == "cpu" else max_overlaps
        portion = max(at_once // (num_images * num_gt), 1)
        portions = [slice(start, min(start + portion, num_boxes)) for start in range(0, num_boxes, portion)]
        hold = self.allow_low_quality_matches and num_images * num_gt * num_boxes <= max_overlaps
        held: list[Tensor] = []

        # written in place: many small results between the large passing ones would keep the heap from being reused
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
    """(..., G, A) overlaps, (..., G, 1) the largest of each row -> (..., A) bool: is the box a best one of some row?

    A ground-truth box that nothing overlaps has no best box.
    """
    return ((quality == best) & (best > 0)).any(dim=-2)


def _overlaps(gt_boxes: Tensor, gt_filled: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """(N, G, 4), (N, G), (A, 4) or (N, A, 4) -> (N, G, A) IoU, -1 in rows that are padding."""
    return pairwise_iou(gt_boxes, boxes, offset).masked_fill_(~gt_filled[..., None], -1)

"""Which regions the heads train on, and what each of them should find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler
from maskrcnn_benchmark.modeling.batching import pad_boxes, pad_labels
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.poolers import rois_of
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class SampledProposals:
    """R regions of all images of a batch with their targets; the foreground comes first."""

    rois: Tensor  # (R, 5) float32: (index of the image, x1, y1, x2, y2), in pixels
    image_ids: Tensor  # (R,) int64: index of the image in the batch
    boxes: Tensor  # (R, 4) float32 xyxy in pixels
    labels: Tensor  # (R,) int64: 0 is background
    matched_idxs: Tensor  # (R,) int64: which ground-truth box of its image; of background too, 0 where there is none
    regression_targets: Tensor  # (R, 4) float32: encoded; zeros for background
    sizes: list[tuple[float, float]]  # N times (width, height) of an image
    num_positives: int  # rows [0, num_positives) are foreground

    def __len__(self) -> int:
        return self.rois.shape[0]

    def positives(self) -> SampledProposals:
        """The same, restricted to foreground; a view of the first rows, for which nothing waits."""
        return SampledProposals(
            rois=self.rois[: self.num_positives],
            image_ids=self.image_ids[: self.num_positives],
            boxes=self.boxes[: self.num_positives],
            labels=self.labels[: self.num_positives],
            matched_idxs=self.matched_idxs[: self.num_positives],
            regression_targets=self.regression_targets[: self.num_positives],
            sizes=self.sizes,
            num_positives=self.num_positives,
        )


class ProposalSampler:
    """Match proposals with the ground truth and draw some of each image.

    Args:
        matcher: which proposal is foreground, of which ground truth.
        sampler: how many are drawn.
        box_coder: how regression targets are encoded.
    Source: Girshick 2015, Fast R-CNN, section 2.3.
    """

    def __init__(self, matcher: Matcher, sampler: BalancedPositiveNegativeSampler, box_coder: BoxCoder) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ProposalSampler:
        node = cfg.MODEL.ROI_HEADS
        return cls(
            Matcher(node.FG_IOU_THRESHOLD, node.BG_IOU_THRESHOLD, allow_low_quality_matches=False),
            BalancedPositiveNegativeSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION),
            BoxCoder(weights=node.BBOX_REG_WEIGHTS, offset=cfg.MODEL.BOX_OFFSET),
        )

    @torch.no_grad()
    def __call__(self, proposals: Sequence[BoxList], targets: Sequence[BoxList]) -> SampledProposals:
        """
        Args:
            proposals: N BoxLists; one may be empty.
            targets: N BoxLists of ground truth with `labels`; one may be empty.
        Returns: up to a sampler's batch of each image. On a GPU the host waits once, for how many there are.
        """
        boxes, filled = pad_boxes(proposals)
        gt_boxes, gt_filled = pad_boxes(targets)
        gt_labels = pad_labels([target.get_field(LABELS) for target in targets], gt_boxes.shape[1]).long()
        matches = self.matcher.match_boxes(gt_boxes, gt_filled, boxes, self.box_coder.offset)
        labels = torch.where(matches.labels == 1, gt_labels.gather(1, matches.matched_idxs), matches.labels)
        sample = self.sampler(torch.where(filled, labels, -1))

        kinds = 2 * sample.is_positive.flatten().to(torch.int8) + sample.is_negative.flatten().to(torch.int8)
        rows = kinds.argsort(descending=True, stable=True)  # positives, negatives, places not filled
        num_positives, num_negatives = torch.stack([sample.is_positive.sum(), sample.is_negative.sum()]).tolist()
        rows = rows[: num_positives + num_negatives]
        image_ids = rows // sample.idxs.shape[1]
        idxs = sample.idxs.flatten()[rows]
        boxes, labels = boxes[image_ids, idxs], labels[image_ids, idxs]
        matched_idxs = matches.matched_idxs[image_ids, idxs]
        regression_targets = self.box_coder.encode(gt_boxes[image_ids, matched_idxs], boxes)
        return SampledProposals(
            rois=rois_of(image_ids, boxes),
            image_ids=image_ids,
            boxes=boxes,
            labels=labels,
            matched_idxs=matched_idxs,
            regression_targets=torch.where(labels[:, None] > 0, regression_targets, 0),
            sizes=[proposals_per_image.size for proposals_per_image in proposals],
            num_positives=num_positives,
        )

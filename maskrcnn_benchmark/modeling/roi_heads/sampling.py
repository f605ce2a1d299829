"""The regions that the heads train on, with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler, Sample
from maskrcnn_benchmark.modeling.batching import pad_boxes, pad_labels, to_device
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.poolers import rois_of
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS
from maskrcnn_benchmark.utils.problems import check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


class HostMatches(NamedTuple):
    """Matches of the P foreground regions on the CPU, where mask targets are drawn."""

    image_ids: Tensor  # (P,) int64
    matched_idxs: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) float32


@dataclass(frozen=True)
class SampledProposals:
    """R regions of all images of a batch with their targets; the foreground comes first."""

    rois: Tensor  # (R, 5) float32: (index of the image, x1, y1, x2, y2), in pixels
    image_ids: Tensor  # (R,) int64: index of the image in the batch
    boxes: Tensor  # (R, 4) float32 xyxy in pixels
    labels: Tensor  # (R,) int64: 0 is background
    matched_idxs: Tensor  # (R,) int64: ground-truth box of its image; also for background, 0 if the image has none
    regression_targets: Tensor  # (R, 4) float32: encoded; zeros for background
    sizes: list[tuple[float, float]]  # N times (width, height) of an image
    num_positives: int  # rows [0, num_positives) are foreground
    host_matches: HostMatches | None = None  # if the sampler has copied them from a GPU

    def __len__(self) -> int:
        return self.rois.shape[0]

    def positives(self) -> SampledProposals:
        """The foreground only: a view of the first rows, without synchronisation."""
        return SampledProposals(
            rois=self.rois[: self.num_positives],
            image_ids=self.image_ids[: self.num_positives],
            boxes=self.boxes[: self.num_positives],
            labels=self.labels[: self.num_positives],
            matched_idxs=self.matched_idxs[: self.num_positives],
            regression_targets=self.regression_targets[: self.num_positives],
            sizes=self.sizes,
            num_positives=self.num_positives,
            host_matches=self.host_matches,
        )

    def matched(self, per_image: Sequence[Tensor]) -> Tensor:
        """The row of each region's instance.

        Args:
            per_image: N tensors (G_n, ...), a row for each ground-truth instance of an image.
        Returns: (R, ...), on the device of the regions.
        """
        # instances of all images in one table; row of the first instance of each image
        first_rows = [0, *accumulate(len(rows) for rows in per_image)][:-1]
        starts = to_device(first_rows, self.image_ids.device)
        table = torch.cat(list(per_image)).to(self.boxes.device)
        return table[starts[self.image_ids] + self.matched_idxs]

    def on_host(self) -> HostMatches:
        """The foreground's matches on the CPU; no synchronisation if the sampler has copied them."""
        if self.host_matches is not None:
            return self.host_matches
        count = self.num_positives
        return HostMatches(self.image_ids[:count].cpu(), self.matched_idxs[:count].cpu(), self.boxes[:count].cpu())


class ProposalSampler:
    """Match proposals with the ground truth and sample some of each image.

    Args:
        matcher: assigns proposals to ground truth or background.
        sampler: draws foreground and background.
        box_coder: encodes regression targets.
    Source: Girshick 2015, Fast R-CNN, section 2.3.
    """

    def __init__(self, matcher: Matcher, sampler: BalancedPositiveNegativeSampler, box_coder: BoxCoder) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ProposalSampler:
        node = cfg.MODEL.ROI_HEADS
        check_range("MODEL.ROI_HEADS.POSITIVE_FRACTION", node.POSITIVE_FRACTION, 0, 1)
        return cls(
            Matcher.from_cfg(cfg, "ROI_HEADS", allow_low_quality_matches=False),
            BalancedPositiveNegativeSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION),
            BoxCoder(weights=node.BBOX_REG_WEIGHTS, offset=cfg.MODEL.BOX_OFFSET),
        )

    @torch.no_grad()
    def __call__(self, proposals: Sequence[BoxList], targets: Sequence[BoxList]) -> SampledProposals:
        """
        Args:
            proposals: N BoxLists; one may be empty.
            targets: N BoxLists of ground truth with `labels`; one may be empty.
        Returns: at most the sampler's batch size per image. On a GPU this synchronises once, to copy the counts and the
            foreground's matches to the CPU; copying the matches later would synchronise with the heads.
        """
        boxes, filled = pad_boxes(proposals)
        gt_boxes, gt_filled = pad_boxes(targets)
        gt_labels = pad_labels([target.get_field(LABELS) for target in targets], gt_boxes.shape[1]).long()
        matches = self.matcher.match_boxes(gt_boxes, gt_filled, boxes, self.box_coder.offset)
        labels = torch.where(matches.labels == 1, gt_labels.gather(1, matches.matched_idxs), matches.labels)
        sample = self.sampler(torch.where(filled, labels, -1))

        kinds = 2 * sample.is_positive.flatten().to(torch.int8) + sample.is_negative.flatten().to(torch.int8)
        rows = kinds.argsort(descending=True, stable=True)  # positives, negatives, unused slots
        image_ids, idxs = rows // sample.idxs.shape[1], sample.idxs.flatten()[rows]
        boxes, labels = boxes[image_ids, idxs], labels[image_ids, idxs]
        matched_idxs = matches.matched_idxs[image_ids, idxs]
        num_positives, num_negatives, host_matches = self._fetch(sample, image_ids, matched_idxs, boxes)
        count = num_positives + num_negatives
        image_ids, boxes, labels, matched_idxs = (column[:count] for column in (image_ids, boxes, labels, matched_idxs))
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
            host_matches=host_matches,
        )

    def _fetch(
        self, sample: Sample, image_ids: Tensor, matched_idxs: Tensor, boxes: Tensor
    ) -> tuple[int, int, HostMatches | None]:
        """Numbers of positives and negatives and, from a GPU, the matches of the positives, in one copy."""
        counts = torch.stack([sample.is_positive.sum(), sample.is_negative.sum()])
        if boxes.device.type == "cpu":
            num_positives, num_negatives = counts.tolist()
            return num_positives, num_negatives, None
        # the first `most` rows hold all positives; indices below 2**24 are exact in float32
        most = sample.idxs.shape[0] * self.sampler.max_positives
        columns = [image_ids[:most, None].to(boxes.dtype), matched_idxs[:most, None].to(boxes.dtype), boxes[:most]]
        fetched = torch.cat([counts.to(boxes.dtype), torch.cat(columns, dim=1).flatten()]).cpu()
        num_positives, num_negatives = map(int, fetched[:2].tolist())
        rows = fetched[2:].view(-1, 6)[:num_positives]
        return num_positives, num_negatives, HostMatches(rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:])

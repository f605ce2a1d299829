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
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH, LABELS
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


ALL_HEADS, BOX_HEAD = "all", "box"  # who trains on the ground truth among the proposals


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
    num_ground_truth: int = (
        0  # the last rows of the foreground are boxes of the ground truth that only the box head sees
    )

    def __len__(self) -> int:
        return self.rois.shape[0]

    def positives(self) -> SampledProposals:
        """The foreground only: a view of the first rows, without synchronisation."""
        return self._first(self.num_positives, self.num_ground_truth)

    def positives_of_heads(self) -> SampledProposals:
        """The foreground that the heads after the box head train on: a view, as `positives`."""
        return self._first(self.num_positives - self.num_ground_truth, 0)

    def _first(self, count: int, num_ground_truth: int) -> SampledProposals:
        host = self.host_matches
        return SampledProposals(
            rois=self.rois[:count],
            image_ids=self.image_ids[:count],
            boxes=self.boxes[:count],
            labels=self.labels[:count],
            matched_idxs=self.matched_idxs[:count],
            regression_targets=self.regression_targets[:count],
            sizes=self.sizes,
            num_positives=count,
            host_matches=None if host is None else HostMatches(*(column[:count] for column in host)),
            num_ground_truth=num_ground_truth,
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
        ground_truth_for_heads: the heads after the box head train on boxes of the ground truth among the proposals.
    Source: Girshick 2015, Fast R-CNN, section 2.3.
    """

    def __init__(
        self,
        matcher: Matcher,
        sampler: BalancedPositiveNegativeSampler,
        box_coder: BoxCoder,
        *,
        ground_truth_for_heads: bool = True,
    ) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder
        self.ground_truth_for_heads = ground_truth_for_heads

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ProposalSampler:
        node = cfg.MODEL.ROI_HEADS
        check_range("MODEL.ROI_HEADS.POSITIVE_FRACTION", node.POSITIVE_FRACTION, 0, 1)
        check_choice("MODEL.ROI_HEADS.GT_PROPOSALS_FOR", node.GT_PROPOSALS_FOR, (ALL_HEADS, BOX_HEAD))
        return cls(
            Matcher.from_cfg(cfg, "ROI_HEADS", allow_low_quality_matches=False),
            BalancedPositiveNegativeSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION),
            BoxCoder(weights=node.BBOX_REG_WEIGHTS, offset=cfg.MODEL.BOX_OFFSET),
            ground_truth_for_heads=node.GT_PROPOSALS_FOR == ALL_HEADS,
        )

    @torch.no_grad()
    def __call__(self, proposals: Sequence[BoxList], targets: Sequence[BoxList]) -> SampledProposals:
        """
        Args:
            proposals: N BoxLists; one may be empty. Those with the field `is_ground_truth` say which are of the ground
                truth.
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
        withheld = self._withheld(proposals, sample)
        if withheld is not None:
            kinds = kinds + (sample.is_positive & ~withheld).flatten()
        rows = kinds.argsort(descending=True, stable=True)  # positives, the withheld last; negatives; unused slots
        image_ids, idxs = rows // sample.idxs.shape[1], sample.idxs.flatten()[rows]
        boxes, labels = boxes[image_ids, idxs], labels[image_ids, idxs]
        matched_idxs = matches.matched_idxs[image_ids, idxs]
        counted = [sample.is_positive, sample.is_negative] + ([] if withheld is None else [withheld])
        counts, host_matches = self._fetch(counted, image_ids, matched_idxs, boxes)
        num_positives, num_negatives, *num_withheld = counts
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
            num_ground_truth=sum(num_withheld),
        )

    def _withheld(self, proposals: Sequence[BoxList], sample: Sample) -> Tensor | None:
        """(N, B) bool: positives of the sample that the heads after the box head do not see; None if there are none."""
        if self.ground_truth_for_heads or not proposals[0].has_field(IS_GROUND_TRUTH):
            return None
        flags = [proposals_per_image.get_field(IS_GROUND_TRUTH) for proposals_per_image in proposals]
        length = max(1, *(len(flags_per_image) for flags_per_image in flags))
        return pad_labels(flags, length).gather(1, sample.idxs) & sample.is_positive

    def _fetch(
        self, counted: Sequence[Tensor], image_ids: Tensor, matched_idxs: Tensor, boxes: Tensor
    ) -> tuple[list[int], HostMatches | None]:
        """How many are true in each of `counted`, positives first, and from a GPU their matches, in one copy.

        Args:
            counted: (N, B) bool each.
            image_ids, matched_idxs, boxes: of the rows of the sample, positives first.
        """
        counts = torch.stack([flags.sum() for flags in counted])
        if boxes.device.type == "cpu":
            return counts.tolist(), None
        # the first `most` rows hold all positives; indices below 2**24 are exact in float32
        most = len(counted[0]) * self.sampler.max_positives
        columns = [image_ids[:most, None].to(boxes.dtype), matched_idxs[:most, None].to(boxes.dtype), boxes[:most]]
        fetched = torch.cat([counts.to(boxes.dtype), torch.cat(columns, dim=1).flatten()]).cpu()
        numbers = [int(count) for count in fetched[: len(counted)].tolist()]
        rows = fetched[len(counted) :].view(-1, 6)[: numbers[0]]
        return numbers, HostMatches(rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:])

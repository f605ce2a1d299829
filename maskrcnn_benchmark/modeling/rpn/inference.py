"""Select the proposals of each image from the maps of the RPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.candidates import rpn_candidates
from maskrcnn_benchmark.modeling.batching import cat_boxes, image_sizes_wh
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.selection import first_of_groups, split_rows, suppress
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH, OBJECTNESS
from maskrcnn_benchmark.utils.problems import check_choice

if TYPE_CHECKING:
    from yacs.config import CfgNode


RANKINGS = ("logits", "probabilities")


class RPNPostProcessor:
    """Keep the best boxes of each level and image after NMS, then the best of all levels.

    Args:
        pre_nms_top_n: number of boxes per level and image before NMS.
        post_nms_top_n: number of boxes per level and image after NMS.
        nms_thresh: IoU above which the box with the lower score is dropped; <= 0 keeps every box.
        min_size: boxes with a side shorter than this, in pixels, are dropped.
        box_coder: decodes deltas.
        fpn_post_nms_top_n: number of boxes over all levels; not applied to a single level.
        fpn_post_nms_per_batch: that number is for the whole batch, so that one image may have more boxes than another;
            else it is for each image.
        rank_by: "logits" or "probabilities": what NMS and the limits sort by. Probabilities above 1 - 3e-8 are equal in
            float32; of equal ones the finer level comes first.
    Source: Ren et al. 2015, Faster R-CNN, section 3.1; the limits over all levels follow upstream.
    """

    def __init__(
        self,
        pre_nms_top_n: int,
        post_nms_top_n: int,
        nms_thresh: float,
        min_size: float,
        *,
        box_coder: BoxCoder,
        fpn_post_nms_top_n: int | None = None,
        fpn_post_nms_per_batch: bool = False,
        rank_by: str = "logits",
    ) -> None:
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_thresh = nms_thresh
        self.min_size = min_size
        self.box_coder = box_coder
        self.fpn_post_nms_top_n = post_nms_top_n if fpn_post_nms_top_n is None else fpn_post_nms_top_n
        self.fpn_post_nms_per_batch = fpn_post_nms_per_batch
        self.rank_by = rank_by

    @classmethod
    def from_cfg(cls, cfg: CfgNode, box_coder: BoxCoder, is_train: bool) -> RPNPostProcessor:
        node = cfg.MODEL.RPN
        check_choice("MODEL.RPN.RANK_BY", node.RANK_BY, RANKINGS)
        return cls(
            node.PRE_NMS_TOP_N_TRAIN if is_train else node.PRE_NMS_TOP_N_TEST,
            node.POST_NMS_TOP_N_TRAIN if is_train else node.POST_NMS_TOP_N_TEST,
            node.NMS_THRESH,
            node.MIN_SIZE,
            box_coder=box_coder,
            fpn_post_nms_top_n=node.FPN_POST_NMS_TOP_N_TRAIN if is_train else node.FPN_POST_NMS_TOP_N_TEST,
            fpn_post_nms_per_batch=is_train and node.FPN_POST_NMS_PER_BATCH,
            rank_by=node.RANK_BY,
        )

    @torch.no_grad()
    def __call__(
        self,
        anchors: Sequence[Tensor],
        objectness: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxList] | None = None,
    ) -> list[BoxList]:
        """
        Args:
            anchors: per level (H_l * W_l * A, 4) xyxy.
            objectness: per level (N, A, H_l, W_l) logits.
            box_regression: per level (N, A * 4, H_l, W_l), the deltas of an anchor together.
            sizes: (width, height) of each of the N images.
            targets: ground truth. Its boxes are appended to the proposals with an objectness of 1, so that the heads
                see objects from the first iteration.
        Returns: N BoxLists with `objectness`, a probability; best first, then the ground truth. If there are targets,
            also with `is_ground_truth`.
        """
        num_images, num_levels = len(sizes), len(anchors)
        candidates = rpn_candidates(
            anchors,
            objectness,
            box_regression,
            image_sizes_wh(sizes, anchors[0]),
            self.pre_nms_top_n,
            weights=self.box_coder.weights,
            clamp=self.box_coder.bbox_xform_clip,
            offset=self.box_coder.offset,
            min_size=self.min_size,
        )
        logits, boxes, groups = candidates.logits.flatten(), candidates.boxes.flatten(0, 1), candidates.groups.flatten()
        ranks = logits if self.rank_by == "logits" else logits.sigmoid()
        best, keep = suppress(boxes, ranks, groups, self.nms_thresh, self.box_coder.offset)
        boxes, scores, groups = boxes[best], logits[best].sigmoid(), groups[best]
        image_ids = groups // num_levels
        if self.post_nms_top_n < self.pre_nms_top_n:
            keep = first_of_groups(groups, num_images * num_levels, self.post_nms_top_n, keep)
        if num_levels > 1 and self.fpn_post_nms_per_batch:
            keep &= keep.cumsum(0) <= self.fpn_post_nms_top_n
        elif num_levels > 1:
            keep = first_of_groups(image_ids, num_images, self.fpn_post_nms_top_n, keep)
        if targets is not None:
            gt_boxes, gt_image_ids = cat_boxes(targets)
            boxes, image_ids = torch.cat([boxes, gt_boxes]), torch.cat([image_ids, gt_image_ids])
            scores = torch.cat([scores, scores.new_ones(len(gt_boxes))])
            keep = torch.cat([keep, keep.new_ones(len(gt_boxes))])
            is_ground_truth = torch.arange(len(boxes), device=boxes.device) >= len(boxes) - len(gt_boxes)
        proposals = []
        for rows, size in zip(split_rows(keep, image_ids, num_images), sizes, strict=True):
            proposals_per_image = BoxList(boxes[rows], size, offset=self.box_coder.offset)
            proposals_per_image.add_field(OBJECTNESS, scores[rows])
            if targets is not None:
                proposals_per_image.add_field(IS_GROUND_TRUTH, is_ground_truth[rows])
            proposals.append(proposals_per_image)
        return proposals

"""Class logits and deltas to the detections of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_sizes
from maskrcnn_benchmark.layers.candidates import ClassCandidates, class_candidates, classes_above
from maskrcnn_benchmark.modeling.batching import cat_boxes, image_sizes_wh
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.selection import best_detections
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import SCORES
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(eq=False)
class PostProcessor:
    """Softmax, decoding, suppression per class, and the best of each image.

    Args:
        score_thresh: a class whose probability is above this makes a detection.
        nms: IoU above which the lower of two detections of one class is dropped; <= 0 drops none.
        detections_per_img: largest number of detections per image, over all classes; of equal scores at the limit the
            earlier proposals are kept. <= 0 for no limit.
        box_coder: applies deltas to proposals.
        class_agnostic: all classes share one set of deltas, the second of two.
        min_size: boxes with a side shorter than this, in pixels, are dropped before NMS.
        by_class: order detections class by class, as upstream, and keep more than `detections_per_img` of equal scores.
    """

    score_thresh: float = 0.05
    nms: float = 0.5
    detections_per_img: int = 100
    _: KW_ONLY
    box_coder: BoxCoder
    class_agnostic: bool = False
    min_size: float = 0.0
    by_class: bool = False

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> PostProcessor:
        node = cfg.MODEL.ROI_HEADS
        check_range("MODEL.ROI_HEADS.NMS", node.NMS, 0, 1)
        check_range("MODEL.ROI_HEADS.DETECTIONS_PER_IMG", node.DETECTIONS_PER_IMG, -1)
        check_range("MODEL.ROI_HEADS.MIN_SIZE", node.MIN_SIZE, 0)
        check_choice("MODEL.ROI_HEADS.ORDER_BY", node.ORDER_BY, ("score", "class"))
        return cls(
            node.SCORE_THRESH,
            node.NMS,
            node.DETECTIONS_PER_IMG,
            box_coder=BoxCoder(weights=node.BBOX_REG_WEIGHTS, offset=cfg.MODEL.BOX_OFFSET),
            class_agnostic=cfg.MODEL.CLS_AGNOSTIC_BBOX_REG,
            min_size=node.MIN_SIZE,
            by_class=node.ORDER_BY == "class",
        )

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, box_regression: Tensor, proposals: Sequence[BoxList]) -> list[BoxList]:
        """
        Args:
            class_logits: (R, J), rows in the order of the proposals of all images.
            box_regression: (R, 4 * J), or (R, 8) if `class_agnostic`.
            proposals: N BoxLists.
        Returns: N BoxLists with `scores` and `labels`, best first unless `by_class`.
        """
        candidates = self.find_candidates(class_logits, box_regression, proposals)
        return self.select(candidates, [proposals_per_image.size for proposals_per_image in proposals])

    @torch.no_grad()
    def find_candidates(
        self, class_logits: Tensor, box_regression: Tensor, proposals: Sequence[BoxList]
    ) -> ClassCandidates:
        """Every pair of proposal and class that scores above the threshold, with its decoded box."""
        scores = class_logits.float().softmax(dim=1)
        references, image_ids = cat_boxes(proposals)
        sizes = [proposals_per_image.size for proposals_per_image in proposals]
        return class_candidates(
            scores,
            box_regression,
            references,
            image_ids,
            image_sizes_wh(sizes, references),
            self.score_thresh,
            weights=self.box_coder.weights,
            clamp=self.box_coder.bbox_xform_clip,
            offset=self.box_coder.offset,
            class_agnostic=self.class_agnostic,
        )

    @torch.no_grad()
    def filter_results(self, boxlists: Sequence[BoxList], num_classes: int) -> list[BoxList]:
        """Threshold, suppress and limit boxes that are already decoded, for example from several views of an image.

        Args:
            boxlists: N BoxLists, each of R * J boxes with `scores` (R * J,): J entries per region, one per class, with
                the background first.
            num_classes: J.
        Returns: N BoxLists with `scores` and `labels`, best first unless `by_class`.
        """
        boxes, image_ids = cat_boxes(boxlists)
        scores = torch.cat([boxes_per_image.get_field(SCORES) for boxes_per_image in boxlists]).float()
        rows, labels = classes_above(scores.reshape(-1, num_classes), self.score_thresh)
        entries = rows * num_classes + labels
        sizes = [boxes_per_image.size for boxes_per_image in boxlists]
        widths, heights = box_sizes(boxes[entries], self.box_coder.offset)
        kept_scores = torch.where((widths > 0) & (heights > 0), scores[entries], torch.nan)
        return self.select(ClassCandidates(boxes[entries], kept_scores, labels, image_ids[entries]), sizes)

    @torch.no_grad()
    def select(self, candidates: ClassCandidates, sizes: Sequence[tuple[float, float]]) -> list[BoxList]:
        """Suppress candidates within their image and class, and keep the best of each image; drop NaN scores.

        Args:
            candidates: from `find_candidates`, or concatenated from several views of the images.
            sizes: (width, height) of each of the N images, in pixels.
        Returns: N BoxLists with `scores` and `labels`, best first unless `by_class`.
        """
        if self.min_size > 0:
            widths, heights = box_sizes(candidates.boxes, self.box_coder.offset)
            large = (widths >= self.min_size) & (heights >= self.min_size)
            candidates = candidates._replace(scores=torch.where(large, candidates.scores, torch.nan))
        return best_detections(
            candidates,
            sizes,
            nms_thresh=self.nms,
            detections_per_img=self.detections_per_img,
            offset=self.box_coder.offset,
            by_class=self.by_class,
        )

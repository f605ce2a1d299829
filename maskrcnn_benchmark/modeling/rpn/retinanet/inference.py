"""Class logits and deltas of all anchors to the detections of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import box_sizes, clip_boxes
from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.modeling.batching import image_sizes_wh
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.selection import best_detections
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(eq=False)
class RetinaNetPostProcessor:
    """Take the best pairs of anchor and class of each level, decode them, and suppress per class over all levels.

    Args:
        score_thresh: a class whose probability is above this makes a candidate.
        pre_nms_top_n: largest number of candidates per level and image.
        nms_thresh: IoU above which the lower of two detections of one class is dropped; <= 0 drops none.
        detections_per_img: largest number of detections per image, over all classes; <= 0 for no limit.
        box_coder: applies deltas to anchors.
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, section 4.1.
    """

    score_thresh: float = 0.05
    pre_nms_top_n: int = 1000
    nms_thresh: float = 0.4
    detections_per_img: int = 100
    _: KW_ONLY
    box_coder: BoxCoder

    @classmethod
    def from_cfg(cls, cfg: CfgNode, box_coder: BoxCoder) -> RetinaNetPostProcessor:
        node = cfg.MODEL.RETINANET
        check_range("MODEL.RETINANET.PRE_NMS_TOP_N", node.PRE_NMS_TOP_N, 1)
        check_range("MODEL.RETINANET.NMS_TH", node.NMS_TH, 0, 1)
        check_range("TEST.DETECTIONS_PER_IMG", cfg.TEST.DETECTIONS_PER_IMG, -1)
        return cls(node.INFERENCE_TH, node.PRE_NMS_TOP_N, node.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG, box_coder=box_coder)

    @torch.no_grad()
    def __call__(
        self,
        anchors: Sequence[Tensor],
        class_logits: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[BoxList]:
        """
        Args:
            anchors: per level (H_l * W_l * A, 4) xyxy.
            class_logits: per level (N, A * J, H_l, W_l), the J classes of an anchor together; no background.
            box_regression: per level (N, A * 4, H_l, W_l), the deltas of an anchor together.
            sizes: (width, height) of each of the N images.
        Returns: N BoxLists with `scores` and `labels`, best first.
        """
        return self.select(self.find_candidates(anchors, class_logits, box_regression, sizes), sizes)

    @torch.no_grad()
    def find_candidates(
        self,
        anchors: Sequence[Tensor],
        class_logits: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> ClassCandidates:
        """The best pairs of anchor and class, decoded and clipped; for the arguments see `__call__`.

        Returns: candidates of all images. Their number does not depend on the scores: NaN replaces those that are not
            above the threshold, and those of empty boxes.
        """
        levels = [self._best_of_level(*level) for level in zip(anchors, class_logits, box_regression, strict=True)]
        scores, labels, deltas, references = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        offset = self.box_coder.offset
        decoded = self.box_coder.decode(deltas, references)
        boxes = clip_boxes(decoded, image_sizes_wh(sizes, references)[:, None], offset)
        widths, heights = box_sizes(boxes, offset)
        is_candidate = (scores > self.score_thresh) & (widths > 0) & (heights > 0)
        kept_scores = torch.where(is_candidate, scores, torch.nan)
        image_ids = torch.arange(len(sizes), device=boxes.device)[:, None].expand_as(labels)
        return ClassCandidates(boxes.flatten(0, 1), kept_scores.flatten(), labels.flatten(), image_ids.flatten())

    def select(self, candidates: ClassCandidates, sizes: Sequence[tuple[float, float]]) -> list[BoxList]:
        """Suppress candidates within their image and class, and keep the best of each image."""
        return best_detections(
            candidates,
            sizes,
            nms_thresh=self.nms_thresh,
            detections_per_img=self.detections_per_img,
            offset=self.box_coder.offset,
        )

    def _best_of_level(
        self, anchors: Tensor, class_logits: Tensor, box_regression: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The K pairs of anchor and class with the largest logits, of each image.

        K is the same whatever the scores are, so that a GPU need not tell the host how many exceed the threshold.

        Returns: scores (N, K), labels (N, K) from 1, deltas (N, K, 4) and anchors (N, K, 4).
        """
        num_images, _, height, width = class_logits.shape
        per_anchor = box_regression.unflatten(1, (-1, 4))  # (N, A, 4, H, W)
        num_anchors = per_anchor.shape[1]
        flat = class_logits.flatten(1)  # in the order of the map: selecting needs no reordered copy
        logits, idxs = flat.topk(min(self.pre_nms_top_n, flat.shape[1]), dim=1)
        channels, cells = idxs // (height * width), idxs % (height * width)
        num_classes = class_logits.shape[1] // num_anchors
        anchor_idxs, classes = channels // num_classes, channels % num_classes
        image_ids = torch.arange(num_images, device=idxs.device)[:, None]
        deltas = per_anchor[image_ids, anchor_idxs, :, cells // width, cells % width]
        return (
            logits.float().sigmoid(),
            classes + 1,
            deltas.float(),
            anchors[cells * num_anchors + anchor_idxs].float(),
        )

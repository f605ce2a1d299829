"""From mask logits to fields of detections, and from those to masks of the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.mask_ops import expected_iou, paste_masks
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import select_class
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, MASK, MASK_BOXES, MASK_SCORES, SCORES

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Masker:
    """Paste the masks of detections into images of their size.

    A BoxList that carries `mask_boxes` has its masks pasted through those boxes, else through its own.

    Args:
        threshold: probability from which a pixel belongs to the object; negative returns probabilities instead, as
            uint8 in 0..255.
        padding: kept from upstream's signature. Beyond its cells a mask continues as zero, which is what one cell of
            padding, or more, does there.
    Raises: ValueError for a padding below 1.
    """

    def __init__(self, threshold: float = 0.5, padding: int = 1) -> None:
        if padding < 1:
            raise ValueError(f"Masker padding is {padding}; masks always continue as zero, so it must be 1 or more")
        self.threshold = threshold
        self.padding = padding

    def __call__(self, masks: Tensor | Sequence[Tensor], boxes: BoxList | Sequence[BoxList]) -> list[Tensor]:
        """
        Args:
            masks: (R, 1, M, M) probabilities of each image, or those of the one image whose boxes are given.
            boxes: one BoxList per image, or that of the one image.
        Returns: (R, 1, H, W) for each image, bool, or uint8 under a negative threshold.
        Raises: ValueError when the masks and boxes differ in number.
        """
        if isinstance(boxes, BoxList):
            boxes = [boxes]
            if isinstance(masks, Tensor) and masks.dim() == 4:
                masks = [masks]
        if len(masks) != len(boxes):
            raise ValueError(f"Masker was given masks of {len(masks)} images and boxes of {len(boxes)}")
        pairs = zip(masks, boxes, strict=True)
        return [
            self.forward_single_image(masks_per_image, boxes_per_image) for masks_per_image, boxes_per_image in pairs
        ]

    def forward_single_image(self, masks: Tensor, boxes: BoxList) -> Tensor:
        """(R, 1, M, M) of one image -> (R, 1, H, W)."""
        if len(masks) != len(boxes):
            raise ValueError(f"Masker was given {len(masks)} masks for {len(boxes)} boxes")
        spanned = boxes.get_field(MASK_BOXES) if boxes.has_field(MASK_BOXES) else boxes
        width, height = (int(side) for side in boxes.size)
        return paste_masks(masks[:, 0], spanned.extents(), (height, width), self.threshold)[:, None]


class MaskPostProcessor(nn.Module):
    """Give each detection the mask of its predicted class.

    Args:
        masker: pastes the masks to the image's size inside the model; None leaves them in their frames.
        rescore: score the masks, for a ranking of their own.
    """

    def __init__(self, masker: Masker | None = None, rescore: bool = False) -> None:
        super().__init__()
        self.masker = masker
        self.rescore = rescore

    def forward(self, logits: Tensor, detections: Sequence[BoxList]) -> list[BoxList]:
        """
        Args:
            logits: (R, J, M, M), rows in the order of the detections of all images.
            detections: one BoxList per image, with the field `labels`, and `scores` to rescore.
        Returns: new BoxLists with the field `mask` besides theirs: (R, 1, M, M) probabilities, float32, or what the
            masker makes of them; rescored, with `mask_scores` too.
        """
        labels = torch.cat([detections_per_image.get_field(LABELS) for detections_per_image in detections])
        probabilities = select_class(logits, labels).float().sigmoid()
        return attach_masks(probabilities, detections, self.masker, self.rescore)


def attach_masks(
    probabilities: Tensor, detections: Sequence[BoxList], masker: Masker | None = None, rescore: bool = False
) -> list[BoxList]:
    """Hand (R, 1, M, M) probabilities out to the detections of all images, pasted where a masker is given.

    With `rescore` their scores too: the box score times the mask's expected IoU with the object.
    """
    masks = probabilities.split([len(detections_per_image) for detections_per_image in detections])
    pasted = masks if masker is None else masker(masks, detections)
    results = []
    for masks_per_image, drawn, detections_per_image in zip(masks, pasted, detections, strict=True):
        result = detections_per_image.copy_with_fields(detections_per_image.fields())
        result.add_field(MASK, drawn)
        if rescore:
            result.add_field(MASK_SCORES, result.get_field(SCORES) * expected_iou(masks_per_image[:, 0]))
        results.append(result)
    return results


def make_masker(cfg: CfgNode) -> Masker | None:
    """The masker that pastes inside the model, where `MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS` asks for it."""
    node = cfg.MODEL.ROI_MASK_HEAD
    return Masker(threshold=node.POSTPROCESS_MASKS_THRESHOLD) if node.POSTPROCESS_MASKS else None


def make_roi_mask_post_processor(cfg: CfgNode) -> MaskPostProcessor:
    """The post-processor as configured under `MODEL.ROI_MASK_HEAD`."""
    return MaskPostProcessor(make_masker(cfg), rescore=cfg.MODEL.ROI_MASK_HEAD.RESCORE)

"""Masks on detections: as probabilities in their frames, or pasted to the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import HALF_OPEN
from maskrcnn_benchmark.layers.mask_ops import expected_iou, paste_masks
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import select_class
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES, MaskFields, mask_fields
from maskrcnn_benchmark.structures.mask_spans import mask_extents
from maskrcnn_benchmark.utils.problems import check_choice

if TYPE_CHECKING:
    from yacs.config import CfgNode


PASTES = ("box", "pixels")
PLAIN = (mask_fields(),)


class Masker:
    """Paste the masks of detections into images of their size.

    A BoxList that carries `mask_boxes` has its masks pasted through those boxes, else through its own; with the field
    `mask_in_pixels` as upstream and torchvision paste them.

    Args:
        threshold: probability from which a pixel belongs to the object; negative returns probabilities instead, as
            uint8 in 0..255.
        padding: accepted for upstream's signature, and not used: a mask is always zero outside its cells, which is what
            upstream's padding achieves.
    Raises: ValueError for a padding below 1.
    """

    def __init__(self, threshold: float = 0.5, padding: int = 1) -> None:
        if padding < 1:
            raise ValueError(f"Masker padding is {padding}; expected 1 or more")
        self.threshold = threshold
        self.padding = padding

    def __call__(self, masks: Tensor | Sequence[Tensor], boxes: BoxList | Sequence[BoxList]) -> list[Tensor]:
        """
        Args:
            masks: (R, 1, M, M) probabilities for each image, or one tensor if `boxes` is one BoxList.
            boxes: one BoxList per image, or a single BoxList.
        Returns: (R, 1, H, W) for each image, bool, or uint8 under a negative threshold.
        Raises: ValueError if the numbers of masks and boxes differ.
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
        width, height = (int(side) for side in boxes.size)
        return paste_masks(masks[:, 0], mask_extents(boxes, masks.shape[-1]), (height, width), self.threshold)[:, None]


class MaskPostProcessor(nn.Module):
    """Give each detection the mask of its predicted class.

    Args:
        masker: pastes the masks to the image's size inside the model; None leaves them in their frames.
        rescore: write `mask_scores`, the box score times the mask's expected IoU with the object.
        paste: "box" to paste masks exactly in their boxes, "pixels" to mark them with the field `mask_in_pixels`, with
            which they are pasted as upstream and torchvision do. Masks in given frames are pasted exactly there.
    """

    def __init__(self, masker: Masker | None = None, rescore: bool = False, paste: str = "box") -> None:
        super().__init__()
        self.masker = masker
        self.rescore = rescore
        self.paste = paste

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str = "ROI_MASK_HEAD") -> MaskPostProcessor:
        """With POSTPROCESS_MASKS, its threshold, PASTE and RESCORE of MODEL.<section>."""
        node = cfg.MODEL[section]
        check_choice(f"MODEL.{section}.PASTE", node.PASTE, PASTES)
        masker = Masker(threshold=node.POSTPROCESS_MASKS_THRESHOLD) if node.POSTPROCESS_MASKS else None
        return cls(masker, rescore=node.RESCORE, paste=node.PASTE)

    def forward(
        self,
        logits: Tensor,
        detections: Sequence[BoxList],
        frames: Tensor | None = None,
        written: Sequence[MaskFields] = PLAIN,
    ) -> list[BoxList]:
        """
        Args:
            logits: (R, J, M, M) of all classes, or (R, 1, M, M) of each detection's own class; rows in the order of
                the detections of all images.
            detections: one BoxList per image, with the fields `labels` and, to rescore, `scores`.
            frames: (R, 4) half-open rectangles in pixels that the masks span; None for the detections' own boxes.
            written: names of the fields to write; the same values are written under each of them.
        Returns: new BoxLists with the field `mask` besides theirs: (R, 1, M, M) probabilities, float32, or pasted
            masks. With frames and without a masker, `mask_boxes` are the boxes that the masks span.
        """
        if logits.shape[1] > 1:
            logits = select_class(logits, torch.cat([boxes.get_field(LABELS) for boxes in detections]))
        probabilities = logits.float().sigmoid()
        lengths = [len(boxes) for boxes in detections]
        masks = probabilities.split(lengths)
        if self.masker is None:
            drawn, results = list(masks), self._with_spans(detections, frames, written)
        else:  # it reads the fields of the plain mask
            drawn = self.masker(masks, self._with_spans(detections, frames, PLAIN))
            results = [boxes.copy_with_fields(boxes.fields()) for boxes in detections]
        for result, masks_per_image, drawn_per_image in zip(results, masks, drawn, strict=True):
            scores = result.get_field(SCORES) * expected_iou(masks_per_image[:, 0]) if self.rescore else None
            for names in written:
                result.add_field(names.mask, drawn_per_image)
                if scores is not None:
                    result.add_field(names.scores, scores)
        return results

    def _with_spans(
        self, detections: Sequence[BoxList], frames: Tensor | None, written: Sequence[MaskFields]
    ) -> list[BoxList]:
        """Copies of the detections with the fields that say where masks are pasted, if these are needed."""
        replaced = {names.in_pixels for names in written}
        kept = [[name for name in boxes.fields() if name not in replaced] for boxes in detections]
        results = [boxes.copy_with_fields(names) for boxes, names in zip(detections, kept, strict=True)]
        if frames is not None:
            for result, rows in zip(results, frames.split([len(boxes) for boxes in detections]), strict=True):
                spanned = BoxList(rows, result.size, mode="xyxy", offset=HALF_OPEN)
                for names in written:
                    result.add_field(names.boxes, spanned)
        elif self.paste == "pixels":
            for result in results:
                in_pixels = torch.ones(len(result), dtype=torch.bool, device=result.bbox.device)
                for names in written:
                    result.add_field(names.in_pixels, in_pixels)
        return results

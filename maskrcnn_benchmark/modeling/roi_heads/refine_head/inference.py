"""From refined logits to fields of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import HALF_OPEN
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor, oks_sigmas
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker, attach_masks, make_masker
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_predictors import KEYPOINT, MASK
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode

# output -> what it replaces, and where that goes
_REPLACED = {
    MASK: [(fields.MASK, fields.COARSE_MASK), (fields.MASK_SCORES, fields.COARSE_MASK_SCORES)],
    KEYPOINT: [(fields.KEYPOINTS, fields.COARSE_KEYPOINTS), (fields.KEYPOINT_SCORES, fields.COARSE_KEYPOINT_SCORES)],
}


class RefinePostProcessor(nn.Module):
    """Put refined masks and keypoints in the place of the coarse ones.

    Args:
        decode: how `decode_heatmaps` finds a keypoint.
        keep_coarse: keep what was replaced, as `coarse_mask` and `coarse_keypoints`, with what scores they have.
        masker: pastes the masks to the image's size inside the model; None leaves them in their frames.
        rescore: score the refined masks, for a ranking of their own.
        sigmas: a number per keypoint, to score the refined skeletons likewise; None does not.
    """

    def __init__(
        self,
        *,
        decode: str = "dark",
        keep_coarse: bool = True,
        masker: Masker | None = None,
        rescore: bool = False,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.keypoints = KeypointPostProcessor(decode, sigmas)
        self.keep_coarse = keep_coarse
        self.masker = masker
        self.rescore = rescore

    def forward(self, logits: Mapping[str, Tensor], extents: Tensor, detections: Sequence[BoxList]) -> list[BoxList]:
        """
        Args:
            logits: output -> (R, 1, S, S) of the predicted class, or (R, K, S, S); rows in the order of the detections.
            extents: (R, 4) half-open rectangles in pixels that the maps span.
            detections: one BoxList per image, with the coarse branches' fields.
        Returns: new BoxLists. With masks refined, `mask` is (R, 1, S, S) probabilities and `mask_boxes` the half-open
            boxes that they span (pasted masks have none); with keypoints refined, `keypoints` is as the keypoint
            branch gives it. Scores are those of the branches: `mask_scores` and `keypoint_scores`.
        """
        moves = [move for name in logits for move in _REPLACED[name]]
        results = [_move_fields(detections_per_image, moves, self.keep_coarse) for detections_per_image in detections]
        if KEYPOINT in logits:
            results = self.keypoints(logits[KEYPOINT], results, extents)
        if MASK in logits:
            results = self._attach_masks(logits[MASK].float().sigmoid(), extents, results)
        return results

    def _attach_masks(self, probabilities: Tensor, extents: Tensor, detections: list[BoxList]) -> list[BoxList]:
        lengths = [len(detections_per_image) for detections_per_image in detections]
        for detections_per_image, spanned in zip(detections, extents.split(lengths), strict=True):
            boxes = BoxList(spanned, detections_per_image.size, mode="xyxy", offset=HALF_OPEN)
            detections_per_image.add_field(fields.MASK_BOXES, boxes)
        results = attach_masks(probabilities, detections, self.masker, self.rescore)
        if self.masker is None:
            return results
        return [_move_fields(result, [(fields.MASK_BOXES, "")], keep=False) for result in results]


def _move_fields(boxes: BoxList, names: Sequence[tuple[str, str]], keep: bool) -> BoxList:
    """A copy in which each field (old, new) has its new name, or is gone where it is not to be kept."""
    olds = [old for old, _ in names]
    result = boxes.copy_with_fields([name for name in boxes.fields() if name not in olds])
    for old, new in names:
        if keep and boxes.has_field(old):
            result.add_field(new, boxes.get_field(old))
    return result


def make_roi_refine_post_processor(cfg: CfgNode) -> RefinePostProcessor:
    """The post-processor as configured under `MODEL.ROI_REFINE_HEAD`."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    return RefinePostProcessor(
        decode=node.DECODE,
        keep_coarse=node.KEEP_COARSE,
        masker=make_masker(cfg),
        rescore=node.RESCORE,
        sigmas=oks_sigmas(cfg) if node.RESCORE else None,
    )

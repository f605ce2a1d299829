"""One image's detections in COCO's terms: small, plain, and safe to send from process to process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.mask_ops import mask_run_lengths
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

RLE = dict[str, Any]  # {"size": [height, width], "counts": str}, COCO's compressed run lengths

# result name -> (field of the detections, field of the boxes that it spans where these are not the detections' own)
MASK_FIELDS = {"segm": (fields.MASK, fields.MASK_BOXES), "segm_coarse": (fields.COARSE_MASK, None)}
KEYPOINT_FIELDS = {"keypoints": fields.KEYPOINTS, "keypoints_coarse": fields.COARSE_KEYPOINTS}
# result name -> field of the scores that it is ranked by, where there is one; else by the detections' own scores
SCORE_FIELDS = {
    "segm": fields.MASK_SCORES,
    "segm_coarse": fields.COARSE_MASK_SCORES,
    "keypoints": fields.KEYPOINT_SCORES,
    "keypoints_coarse": fields.COARSE_KEYPOINT_SCORES,
}

# Masks of the image's size take one byte a pixel: so many pixels at once bound what encoding takes to 64 MiB.
_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image, in pixels of the image as it is on disk; R detections.

    boxes: (R, 4) float32 x, y, width, height, as COCO writes boxes. scores: (R,) float32. labels: (R,) int64
    contiguous ids. masks: run lengths, R per result name ("segm", and "segm_coarse" where a refine head replaced the
    coarse masks). keypoints: (R, K, 3) float32 x, y, visibility per result name ("keypoints", "keypoints_coarse").
    own_scores: (R,) float32 per result name, of masks and keypoints that have a ranking of their own.
    """

    size_wh: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: dict[str, list[RLE]] = field(default_factory=dict)
    keypoints: dict[str, np.ndarray] = field(default_factory=dict)
    own_scores: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_detections(cls, detections: BoxList, size_wh: tuple[int, int]) -> ImageResult:
        """Detections in resized-image coordinates -> the same in an image of `size_wh`.

        Masks are drawn on the detections' device. Proposals (no "scores", no "labels") are taken with their
        objectness as the score and the label 1.
        """
        masks = {
            name: encode_detected_masks(detections, mask_field, boxes_field, size_wh)
            for name, (mask_field, boxes_field) in MASK_FIELDS.items()
            if detections.has_field(mask_field)
        }
        detections = detections.resize(size_wh)
        count = len(detections)
        box_scores = fields.SCORES if detections.has_field(fields.SCORES) else fields.OBJECTNESS
        labels = (
            detections.get_field(fields.LABELS)
            if detections.has_field(fields.LABELS)
            else torch.ones(count, dtype=torch.int64)
        )
        return cls(
            size_wh=(int(size_wh[0]), int(size_wh[1])),
            boxes=_to_numpy(detections.convert("xywh").bbox.reshape(count, 4).float()),
            scores=_to_numpy(detections.get_field(box_scores).reshape(count).float()),
            labels=_to_numpy(labels.reshape(count)),
            masks=masks,
            keypoints={
                name: _to_numpy(detections.get_field(keypoint_field).keypoints.float())
                for name, keypoint_field in KEYPOINT_FIELDS.items()
                if detections.has_field(keypoint_field)
            },
            own_scores={
                name: _to_numpy(detections.get_field(score_field).float())
                for name, score_field in SCORE_FIELDS.items()
                if detections.has_field(score_field)
            },
        )

    def __len__(self) -> int:
        return len(self.scores)

    def scores_of(self, name: str) -> np.ndarray:
        """(R,), what the detections are ranked by as "bbox", "segm", "keypoints", "segm_coarse", ..."""
        return self.own_scores.get(name, self.scores)

    def best_rows(self, score_threshold: float, max_count: int) -> list[int]:
        """Rows of the detections that score at least `score_threshold`, best first, at most `max_count`."""
        best_first = np.argsort(-self.scores, kind="stable")[:max_count]
        return [int(row) for row in best_first if self.scores[row] >= score_threshold]

    def to_boxlist(
        self, rows: Sequence[int] | None = None, keypoints_class: type[Keypoints] | None = None, suffix: str = ""
    ) -> BoxList:
        """Detections as a BoxList in the image's own pixels.

        Args:
            rows: the detections to take, in this order; None takes all.
            keypoints_class: class of the keypoints, which knows the limbs; `Keypoints`, which has none, is used if this
                is None or has another number of points.
            suffix: "_coarse" takes masks and keypoints from before refinement, where they were refined.
        """
        rows = list(range(len(self)) if rows is None else rows)
        # COCO's x, y, width, height: the far side does not depend on the convention that the model uses.
        boxes = BoxList(torch.from_numpy(self.boxes[rows]).reshape(-1, 4), self.size_wh, mode="xywh", offset=0)
        boxes = boxes.convert("xyxy")
        boxes.add_field(fields.SCORES, torch.from_numpy(self.scores[rows]))
        boxes.add_field(fields.LABELS, torch.from_numpy(self.labels[rows]))
        masks = self.masks.get(f"segm{suffix}", self.masks.get("segm"))
        if masks is not None:
            boxes.add_field(fields.MASKS, SegmentationMask([masks[row] for row in rows], self.size_wh))
        keypoints = self.keypoints.get(f"keypoints{suffix}", self.keypoints.get("keypoints"))
        if keypoints is not None:
            points = torch.from_numpy(keypoints[rows])
            points[..., 2] = 2  # visible: a model predicts where a point is, not whether it is hidden
            if keypoints_class is None or len(keypoints_class.NAMES) != points.shape[1]:
                keypoints_class = Keypoints
            boxes.add_field(fields.KEYPOINTS, keypoints_class(points, self.size_wh))
        return boxes

    def coco_results(self, name: str, image_id: int, category_ids: Mapping[int, int]) -> Iterator[dict[str, Any]]:
        """Entries of COCO's result format; `category_ids` maps contiguous labels to the annotation file's ids."""
        payload_of = self._payload(name)
        for index, (label, score) in enumerate(zip(self.labels.tolist(), self.scores_of(name).tolist(), strict=True)):
            yield {"image_id": image_id, "category_id": category_ids[label], **payload_of(index), "score": score}

    def _payload(self, name: str) -> Callable[[int], dict[str, Any]]:
        if name == "bbox":
            boxes = self.boxes.tolist()
            return lambda index: {"bbox": boxes[index]}
        if name in MASK_FIELDS:
            masks = self.masks.get(name, [])
            return lambda index: {"segmentation": masks[index]}
        keypoints = self.keypoints.get(name, np.zeros((0, 0, 3)))
        return lambda index: {"keypoints": keypoints[index].reshape(-1).tolist()}

    def plain(self) -> dict[str, Any]:
        """The same as tensors, strings and numbers, which `torch.load(..., weights_only=True)` reads."""
        return {
            "size_wh": self.size_wh,
            "boxes_xywh": torch.from_numpy(self.boxes),
            "scores": torch.from_numpy(self.scores),
            "labels": torch.from_numpy(self.labels),
            "masks": self.masks,
            "keypoints": {name: torch.from_numpy(values) for name, values in self.keypoints.items()},
            "own_scores": {name: torch.from_numpy(values) for name, values in self.own_scores.items()},
        }


def encode_detected_masks(
    detections: BoxList, mask_field: str, boxes_field: str | None, size_wh: tuple[int, int]
) -> list[RLE]:
    """The masks of one image's detections as run lengths, drawn into an image of `size_wh`.

    Probabilities (R, 1, M, M) are drawn into what they span: the extents of the detections, or of the boxes in
    `boxes_field`. Extents are scaled as a whole: scaling inclusive corners would move a mask's far side by up to a
    pixel. Masks that the model has already drawn (bool or uint8, (R, 1, H, W),
    MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS) are resized.
    """
    masks = detections.get_field(mask_field)
    if masks.shape[0] == 0:
        return []
    masks = masks[:, 0]
    width, height = int(size_wh[0]), int(size_wh[1])
    if masks.dtype in (torch.bool, torch.uint8):
        rles: list[RLE] = []
        for chunk in masks.split(max(1, _PIXELS_AT_ONCE // (height * width))):
            rles += encode_masks(resize_drawn_masks(chunk, (height, width)))
        return rles
    spanned = detections
    if boxes_field is not None and detections.has_field(boxes_field):
        spanned = detections.get_field(boxes_field)
    ratios = (width / detections.size[0], height / detections.size[1])
    extents = spanned.extents()
    extents = extents * torch.tensor(ratios * 2, dtype=extents.dtype).to(extents.device, non_blocking=True)
    runs = mask_run_lengths(masks, extents, (height, width))
    size = [height, width]
    return _plain(mask_utils.frPyObjects([{"size": size, "counts": counts} for counts in runs], height, width))


def encode_masks(masks: Tensor) -> list[RLE]:
    """(R, H, W) bool -> R run lengths. COCO's runs go down the columns; masks are transposed on their own device."""
    columns = masks.transpose(1, 2).contiguous().to(torch.uint8).cpu().numpy()  # (R, W, H)
    return _plain(mask_utils.encode(columns.transpose(2, 1, 0)))  # a Fortran-ordered (H, W, R) view, no copy


def _plain(rles: list[RLE]) -> list[RLE]:
    """pycocotools' run lengths, as JSON can hold them."""
    for rle in rles:
        rle["size"] = [int(side) for side in rle["size"]]
        rle["counts"] = rle["counts"].decode("ascii")
    return rles


def resize_drawn_masks(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Masks (R, H, W), drawn where they are not 0 -> (R, *size_hw) bool."""
    if tuple(masks.shape[-2:]) == size_hw:
        return masks > 0
    resized = F.interpolate((masks > 0)[:, None].float(), size=size_hw, mode="bilinear", align_corners=False)
    return resized[:, 0] > 0.5


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()

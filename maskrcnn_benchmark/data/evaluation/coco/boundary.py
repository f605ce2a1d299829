"""Boundary AP: COCO's mask AP with an overlap that measures contours, for objects of any size.

The mask IoU of a large object hardly changes if its outline is wrong by some pixels, because most pixels are far from
the outline. Boundary IoU compares the bands along the two outlines instead. It ignores the inside, so the overlap of a
detection is the smaller of mask IoU and boundary IoU.

Source: Cheng et al. 2021, Boundary IoU: Improving object-centric image segmentation evaluation, sections 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from .mask_eval import MASK_ABSENT, MaskEval

RLE = Mapping[str, Any]

DILATION_RATIO = 0.02  # width of the band / diagonal of the image; the value of the paper for COCO


class BoundaryEval(MaskEval):
    """COCOeval of masks by the smaller of mask IoU and boundary IoU.

    With a crowd region, both overlaps are relative to the detection's pixels only, as in COCO's rule.

    Args:
        ground_truth, detections: COCO objects with masks.
        dilation_ratio: width of the band / diagonal of the image.
    """

    def __init__(self, ground_truth: COCO, detections: COCO, dilation_ratio: float = DILATION_RATIO) -> None:
        super().__init__(ground_truth, detections)
        self.dilation_ratio = dilation_ratio

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803  (pycocotools' names)
        """(D, G) overlaps of the best detections of a category in an image, best first."""
        mask_ious = super().computeIoU(imgId, catId)
        if len(mask_ious) == 0:
            return mask_ious
        objects, detections = self.entries_of(self._gts, imgId, catId), self.entries_of(self._dts, imgId, catId)
        best_first = np.argsort([-found["score"] for found in detections], kind="mergesort")[: self.params.maxDets[-1]]
        boundary_ious = mask_utils.iou(
            [boundary_of(detections[index]["segmentation"], self.dilation_ratio) for index in best_first],
            [boundary_of(annotation["segmentation"], self.dilation_ratio) for annotation in objects],
            [int(annotation["iscrowd"]) for annotation in objects],
        )
        absent = [bool(annotation.get(MASK_ABSENT)) for annotation in objects]  # their box has not their boundary
        return np.where(absent, mask_ious, np.minimum(mask_ious, boundary_ious))


def boundary_of(rle: RLE, dilation_ratio: float = DILATION_RATIO) -> dict[str, Any]:
    """The pixels of a mask within a distance of its contour.

    If the mask touches the image's edge, the contour follows the edge. The distance is a number of erosions by 3x3
    pixels; the band is what they remove.

    Args:
        rle: compressed run lengths.
        dilation_ratio: distance / diagonal of the image; the distance is rounded to whole pixels, and at least one.
    Returns: compressed run lengths of the same size.
    """
    height, width = rle["size"]
    distance = max(1, round(dilation_ratio * math.hypot(height, width)))
    left, top, box_width, box_height = (int(value) for value in mask_utils.toBbox(rle))
    band = np.zeros((height, width), dtype=np.uint8, order="F")
    if box_width and box_height:
        window = np.s_[top : top + box_height, left : left + box_width]  # all mask pixels are in the window
        mask = np.ascontiguousarray(mask_utils.decode(rle)[window])
        kernel = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
        band[window] = mask - cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    encoded: dict[str, Any] = mask_utils.encode(band)
    return encoded

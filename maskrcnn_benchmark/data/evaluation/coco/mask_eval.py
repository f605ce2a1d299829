"""COCO's evaluation of masks, on objects of which some lack the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MASK_ABSENT = "mask_absent"  # key of annotations: True if the object has no mask, and `segmentation` is its box


class MaskEval(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    """COCOeval of masks. Objects without a mask are neither missed, nor are detections of them wrong.

    pycocotools ignores only annotations with `iscrowd`; it overwrites their key `ignore`. With a crowd, the overlap is
    the part of the detection that is inside, and any number of detections match it. An object without a mask is
    therefore a crowd region that fills its box, which is all that is known of it. A detection that is mostly inside the
    box matches it at all thresholds, because the quality of its mask cannot be judged. As with other crowds, a
    detection matches objects with a mask first.

    Args:
        ground_truth, detections: COCO objects with masks.
    """

    def __init__(self, ground_truth: COCO, detections: COCO) -> None:
        super().__init__(ground_truth, detections, "segm")

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803  (pycocotools' names)
        """(D, G) overlaps of the best detections of a category in an image, best first."""
        overlaps = super().computeIoU(imgId, catId)
        if len(overlaps) == 0:
            return overlaps
        return admit_absent(overlaps, self.entries_of(self._gts, imgId, catId))

    def entries_of(
        self, table: Mapping[tuple[int, int], Sequence[Any]], image_id: int, category_id: int
    ) -> Sequence[Any]:
        """Annotations or detections of a category, or of all categories if these are not distinguished."""
        if self.params.useCats:
            return table[image_id, category_id]
        return [entry for category in self.params.catIds for entry in table[image_id, category]]


def admit_absent(overlaps: NDArray[np.float64], objects: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Set the overlap with objects without a mask to 1 for detections that are mostly inside their box, else to 0.

    Args:
        overlaps: (D, G), with such objects the part of the detection that is inside the box.
        objects: G annotations.
    """
    absent = np.array([bool(annotation.get(MASK_ABSENT)) for annotation in objects], dtype=bool)
    return np.where(absent, np.asarray(overlaps) >= 0.5, overlaps) if absent.any() else overlaps

"""The annotations that detections are scored against, completed as pycocotools needs them."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Collection
from typing import Any

from pycocotools.coco import COCO

from .mask_eval import MASK_ABSENT

logger = logging.getLogger(__name__)

# Area of an annotation that has none, over that of its box. People fill about half of their boxes, and COCO's OKS is
# relative to the area of the mask; the number is that of CrowdPose's evaluation, whose annotations have no areas.
_AREA_OVER_BOX = {"keypoints": 0.53}


def build_ground_truth(coco: COCO, image_ids: Collection[int], iou_type: str, num_keypoints: int = 0) -> COCO:
    """A COCO object of only these images, for `COCOeval` of `iou_type`. `coco` is not changed.

    Missing `iscrowd`, `area` and `num_keypoints` are filled in. Annotations whose box is not finite or has no area
    would make pycocotools fail. They are left out, and one warning counts them. For "segm", annotations without a
    usable mask become crowd regions that fill their box, see `MaskEval`.

    Args:
        iou_type: "keypoints" and "segm" complete keypoints and masks; any other only boxes.
        num_keypoints: of each instance; for "keypoints".
    Raises: ValueError if an annotation has another number of keypoints than `num_keypoints`.
    """
    wanted = set(image_ids)
    annotations, dropped = [], []
    unused_id = 1 + max((annotation["id"] for annotation in coco.dataset.get("annotations", ())), default=0)
    for annotation in coco.dataset.get("annotations", ()):
        if annotation["image_id"] not in wanted:
            continue
        usable = _usable_annotation(annotation, iou_type, num_keypoints)
        if usable is None:
            dropped.append(annotation.get("id"))
        else:
            if usable["id"] == 0:  # pycocotools uses 0 for "not matched"
                usable["id"] = unused_id
            annotations.append(usable)
    if dropped:
        logger.warning(
            "%d annotations have no usable box and are not counted in the evaluation; ids: %s",
            len(dropped), ", ".join(map(str, dropped[:10])),
        )  # fmt: skip
    absent = sum(bool(annotation.get(MASK_ABSENT)) for annotation in annotations)
    if absent:
        logger.info(
            "%d of %d annotations have no such mask; neither they nor detections of them count",
            absent,
            len(annotations),
        )
    return new_coco(
        {
            "info": {},
            "images": [image for image in coco.dataset["images"] if image["id"] in wanted],
            "categories": coco.dataset.get("categories", []),
            "annotations": annotations,
        }
    )


def new_coco(dataset: dict[str, Any]) -> COCO:
    """A COCO object of a data set in memory, without pycocotools' output on the screen."""
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _usable_annotation(annotation: dict[str, Any], iou_type: str, num_keypoints: int) -> dict[str, Any] | None:
    box: list[float] = annotation.get("bbox") or []
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or box[2] <= 0 or box[3] <= 0:
        return None
    annotation = dict(annotation)
    annotation.setdefault("iscrowd", 0)
    annotation.setdefault("area", _AREA_OVER_BOX.get(iou_type, 1.0) * box[2] * box[3])
    complete = _COMPLETE.get(iou_type)
    return annotation if complete is None or complete(annotation, num_keypoints) else None


def _complete_mask(annotation: dict[str, Any], num_keypoints: int) -> bool:
    annotation["segmentation"] = _usable_segmentation(annotation.get("segmentation"))
    if not annotation["segmentation"]:
        left, top, width, height = annotation["bbox"]
        right, bottom = left + width, top + height
        filled_box = [left, top, right, top, right, bottom, left, bottom]
        annotation.update({"segmentation": [filled_box], "iscrowd": 1, MASK_ABSENT: True})
    return True


def _complete_keypoints(annotation: dict[str, Any], num_keypoints: int) -> bool:
    keypoints = annotation.get("keypoints") or [0] * (3 * num_keypoints)
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"annotation {annotation.get('id')} has {len(keypoints) // 3} keypoints, but the evaluation has "
            f"{num_keypoints} sigmas. Give one sigma per keypoint in TEST.KEYPOINT_OKS_SIGMAS."
        )
    annotation["keypoints"] = keypoints
    annotation.setdefault("num_keypoints", sum(visibility > 0 for visibility in keypoints[2::3]))
    return True


# iou type -> fills in an annotation, and returns whether it can be used
_COMPLETE: dict[str, Callable[[dict[str, Any], int], bool]] = {
    "segm": _complete_mask,
    "keypoints": _complete_keypoints,
}


def _usable_segmentation(segmentation: Any) -> Any:
    """Run lengths, or the polygons with at least three points: pycocotools takes four numbers for a box."""
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    return segmentation

"""The annotations that an evaluation counts against, made fit for pycocotools."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Collection
from typing import Any

from pycocotools.coco import COCO

logger = logging.getLogger(__name__)


def build_ground_truth(coco: COCO, image_ids: Collection[int], iou_type: str, num_keypoints: int = 17) -> COCO:
    """A COCO object of these images alone, fit for `COCOeval` of `iou_type` ("bbox", "segm" or "keypoints").

    `iscrowd`, `area` and `num_keypoints` are filled in where the file leaves them out. Annotations with a box that
    is not finite or has no area, and for "segm" those without a mask, would make pycocotools fail: they are left
    out, and counted in one warning. `coco` is not changed.
    Raises: ValueError when an annotation has another number of keypoints than `num_keypoints`.
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
            if usable["id"] == 0:  # which pycocotools takes for "matched by nothing"
                usable["id"] = unused_id
            annotations.append(usable)
    if dropped:
        logger.warning(
            "%d annotations have no usable %s and are not counted in its evaluation; ids: %s",
            len(dropped), "mask" if iou_type == "segm" else "box", ", ".join(map(str, dropped[:10])),
        )  # fmt: skip
    return new_coco(
        {
            "info": {},
            "images": [image for image in coco.dataset["images"] if image["id"] in wanted],
            "categories": coco.dataset.get("categories", []),
            "annotations": annotations,
        }
    )


def new_coco(dataset: dict[str, Any]) -> COCO:
    """A COCO object of a dataset that is already in memory; pycocotools' printing is kept off the screen."""
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
    annotation.setdefault("area", box[2] * box[3])
    if iou_type == "segm":
        annotation["segmentation"] = _usable_segmentation(annotation.get("segmentation"))
        return annotation if annotation["segmentation"] else None
    if iou_type == "keypoints":
        keypoints = annotation.get("keypoints") or [0] * (3 * num_keypoints)
        if len(keypoints) != 3 * num_keypoints:
            raise ValueError(
                f"annotation {annotation.get('id')} has {len(keypoints) // 3} keypoints, but the evaluation has "
                f"{num_keypoints} sigmas. Give one sigma per keypoint in TEST.KEYPOINT_OKS_SIGMAS."
            )
        annotation["keypoints"] = keypoints
        annotation.setdefault("num_keypoints", sum(visibility > 0 for visibility in keypoints[2::3]))
    return annotation


def _usable_segmentation(segmentation: Any) -> Any:
    """Run lengths, or the polygons of three points or more: pycocotools takes four numbers for a box."""
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    return segmentation

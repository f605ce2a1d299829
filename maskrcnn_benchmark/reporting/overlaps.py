"""How well detections and annotations overlap: IoU of boxes and masks, OKS of keypoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.evaluation.coco.mask_eval import admit_absent
from maskrcnn_benchmark.data.evaluation.coco.tasks import MaskTask, NamedMaskTask, find_task, task_of

Annotation = Mapping[str, Any]  # of COCO's annotation file
Sigmas = NDArray[np.float64]  # (K,) sigma of each keypoint, for OKS


@dataclass(frozen=True)
class Measure:
    """How the results of a task are compared with annotations.

    Attributes:
        results: the compared results, in the plural, such as "masks".
        name: "IoU" or "OKS".
        overlaps: (D results, G annotations, ground truth, sigmas) -> (D, G) overlaps; D and G are not 0. With a crowd,
            IoU is the fraction of the detection inside the crowd, as COCO defines it.
        is_ignored: True for an annotation whose matches do not count.
    """

    results: str
    name: str
    overlaps: Callable[[Sequence[Any], Sequence[Annotation], COCO, Sigmas], NDArray[np.float64]]
    is_ignored: Callable[[Annotation], bool]

    def table(
        self, values: Sequence[Any], annotations: Sequence[Annotation], ground_truth: COCO, sigmas: Sigmas
    ) -> NDArray[np.float64]:
        """(D, G) overlaps of D results, as result files contain them, with G annotations.

        Args:
            ground_truth: has the image sizes that polygons need.
        """
        if not len(values) or not len(annotations):
            return np.zeros((len(values), len(annotations)))
        return self.overlaps(values, annotations, ground_truth, sigmas)


def _box_ious(
    boxes: Sequence[Any], annotations: Sequence[Annotation], ground_truth: COCO, sigmas: Sigmas
) -> NDArray[np.float64]:
    truth = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    ious = mask_utils.iou(np.asarray(boxes, dtype=np.float64), truth, _crowd_flags(annotations))
    return np.asarray(ious, dtype=np.float64)


def _mask_ious(
    masks: Sequence[Any], annotations: Sequence[Annotation], ground_truth: COCO, sigmas: Sigmas
) -> NDArray[np.float64]:
    truth = [ground_truth.annToRLE(annotation) for annotation in annotations]
    ious = np.asarray(mask_utils.iou(list(masks), truth, _crowd_flags(annotations)), dtype=np.float64)
    return admit_absent(ious, annotations)


def _crowd_flags(annotations: Sequence[Annotation]) -> list[int]:
    return [int(annotation["iscrowd"]) for annotation in annotations]


def _keypoint_overlaps(
    keypoints: Sequence[Any], annotations: Sequence[Annotation], ground_truth: COCO, sigmas: Sigmas
) -> NDArray[np.float64]:
    points = np.asarray(keypoints, dtype=np.float64).reshape(len(keypoints), -1, 3)
    return keypoint_similarities(points[..., :2], annotations, sigmas)


def keypoint_similarities(
    points: NDArray[np.float64], annotations: Sequence[Annotation], sigmas: Sigmas
) -> NDArray[np.float64]:
    """COCO's OKS (D, G) of detected points (D, K, 2) with annotations.

    The mean over the labelled points of exp(-distance^2 / (8 * sigma^2 * area)). If no point is labelled, the distances
    are from the detected points to the annotation's box, enlarged to three times its size.
    """
    truth = np.asarray([annotation["keypoints"] for annotation in annotations], dtype=np.float64)
    truth = truth.reshape(len(annotations), -1, 3)
    labelled: NDArray[np.bool_] = np.asarray(truth[..., 2] > 0)  # (G, K)
    has_labelled = np.asarray(labelled.any(axis=1))
    distance = ((points[:, None] - truth[None, ..., :2]) ** 2).sum(axis=-1)  # (D, G, K)
    x, y, width, height = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64).T
    low = np.stack([x - width, y - height], axis=-1)[None, :, None]
    high = np.stack([x + 2 * width, y + 2 * height], axis=-1)[None, :, None]
    outside = np.maximum(low - points[:, None], 0) + np.maximum(points[:, None] - high, 0)
    distance = np.where(has_labelled[None, :, None], distance, (outside**2).sum(axis=-1))
    area = np.asarray([annotation["area"] for annotation in annotations], dtype=np.float64) + np.spacing(1)
    closeness = np.exp(-distance / (2 * sigmas) ** 2 / area[None, :, None] / 2)
    counted = np.where(has_labelled[:, None], labelled, True)
    return np.asarray((closeness * counted).sum(axis=-1) / counted.sum(axis=-1), dtype=np.float64)


def _is_crowd(annotation: Annotation) -> bool:
    return bool(annotation["iscrowd"])


def _has_no_keypoints(annotation: Annotation) -> bool:
    return _is_crowd(annotation) or annotation["num_keypoints"] == 0


# `Task.iou_type` -> its measure. Reports compare the results of these tasks.
MEASURES = {
    "bbox": Measure("boxes", "IoU", _box_ious, _is_crowd),
    "segm": Measure("masks", "IoU", _mask_ious, _is_crowd),
    "keypoints": Measure("keypoints", "OKS", _keypoint_overlaps, _has_no_keypoints),
}


def measure_of(name: str) -> Measure:
    """The measure of a result file, such as "segm_coarse" or "segm_visible"."""
    return MEASURES[task_of(name).iou_type]


def mask_of(name: str) -> str:
    """Name of the mask in a result file; empty for the plain one, and if the file has none."""
    task = task_of(name)
    return task.mask_name if isinstance(task, MaskTask) else ""


def is_comparable(task: str) -> bool:
    """Can reports compare the results of this task: boxes, masks, named masks, keypoints?"""
    return task in MEASURES or isinstance(find_task(task), NamedMaskTask)


def comparable_tasks(names: Collection[str]) -> list[str]:
    """The tasks among the names of result files that reports can compare; named masks come last."""
    return [name for name in dict.fromkeys([*MEASURES, *names]) if name in names and is_comparable(name)]

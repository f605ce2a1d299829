"""How well detections and annotations overlap: IoU of boxes and masks, OKS of keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from maskrcnn_benchmark.structures.keypoint import PersonKeypoints


def similarities(
    task: str,
    payloads: Sequence[Any],
    annotations: Sequence[Mapping[str, Any]],
    ground_truth: COCO,
    sigmas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(D, G) overlaps of D detections with G annotations: IoU for "bbox" and "segm", OKS for "keypoints".

    With a crowd, IoU is the fraction of the detection inside the crowd, as COCO defines it.

    Args:
        payloads: what was detected: boxes x, y, width, height; run lengths; or 3 * K numbers x, y, visibility.
        ground_truth: has the image sizes that polygons need.
        sigmas: (K,) one falloff per keypoint.
    """
    if not len(payloads) or not len(annotations):
        return np.zeros((len(payloads), len(annotations)))
    if task == "keypoints":
        points = np.asarray(payloads, dtype=np.float64).reshape(len(payloads), -1, 3)
        return keypoint_similarities(points[..., :2], annotations, sigmas)
    crowd = [int(annotation["iscrowd"]) for annotation in annotations]
    if task == "bbox":
        truth = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64)
        overlaps = mask_utils.iou(np.asarray(payloads, dtype=np.float64), truth, crowd)
    else:
        masks = [ground_truth.annToRLE(annotation) for annotation in annotations]
        overlaps = mask_utils.iou(list(payloads), masks, crowd)
    return np.asarray(overlaps, dtype=np.float64)


def keypoint_similarities(
    points: NDArray[np.float64], annotations: Sequence[Mapping[str, Any]], sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """COCO's OKS (D, G) of detected points (D, K, 2) with annotations.

    The mean over the labelled points of exp(-distance^2 / (8 * sigma^2 * area)). If no point is labelled, the distance
    is that of the detected points from the annotation's box, enlarged to three times its size.
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


def keypoint_sigmas(sigmas: Sequence[float] = ()) -> NDArray[np.float64]:
    """(K,) the given falloffs for OKS, or COCO's 17 if none are given."""
    return np.asarray(sigmas if len(sigmas) else PersonKeypoints.OKS_SIGMAS, dtype=np.float64)


def is_ignored(annotation: Mapping[str, Any], task: str) -> bool:
    """Is this a crowd, or for "keypoints" an annotation without labelled keypoints? Such matches do not count."""
    return bool(annotation["iscrowd"]) or (task == "keypoints" and annotation["num_keypoints"] == 0)

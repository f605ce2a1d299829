"""Average recall of class-agnostic proposals (Hosang et al. 2015, What makes for effective detection proposals?)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from .ground_truth import build_ground_truth
from .image_results import ImageResult

AREA_RANGES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}  # COCO's, in pixels
IOU_THRESHOLDS = np.arange(0.5, 0.951, 0.05)
LIMITS = (100, 1000)


def evaluate_proposals(
    coco: COCO, image_ids: Sequence[Any], results: Sequence[ImageResult], folder: Path | None
) -> dict[str, float]:
    """The recall of the boxes of these images, which are proposals; box_proposals.pth is written into the folder."""
    ground_truth = build_ground_truth(coco, image_ids, "bbox")
    images = [_overlaps(result, ground_truth.imgToAnns[id_]) for id_, result in zip(image_ids, results, strict=True)]
    if folder:
        plain = [
            {
                "image_id": image_id,
                "boxes_xywh": torch.from_numpy(result.boxes),
                "objectness": torch.from_numpy(result.scores),
            }
            for image_id, result in zip(image_ids, results, strict=True)
        ]
        torch.save(plain, folder / "box_proposals.pth")
    return proposal_recall(images)


def proposal_recall(
    images: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]],
    limits: Sequence[int] = LIMITS,
) -> dict[str, float]:
    """AR@n for the best n proposals of each image, over all objects and over small, medium and large ones.

    Args:
        images: for each image three arrays: the IoU (P, G) of its proposals, best first, with its objects; the areas
            (G,) of the objects in pixels; which objects are crowds (G,), which are not counted.
        limits: numbers of proposals per image to score.
    Returns: {"AR@100": ..., "ARs@100": ...}; -1 if there is no object of that size.
    """
    metrics = {}
    for limit in limits:
        best_overlaps, areas = [np.zeros(0)], [np.zeros(0)]
        for ious, object_areas, crowd in images:
            best_overlaps.append(_matched_overlaps(ious[:limit, ~crowd]))
            areas.append(object_areas[~crowd])
        overlaps, area = np.concatenate(best_overlaps), np.concatenate(areas)
        for suffix, (low, high) in AREA_RANGES.items():
            in_range = overlaps[(area >= low) & (area <= high)]
            recalls = [(in_range >= threshold).mean() for threshold in IOU_THRESHOLDS] if len(in_range) else [-1.0]
            metrics[f"AR{suffix}@{limit}"] = float(np.mean(recalls))
    return metrics


def _overlaps(
    result: ImageResult, objects: Sequence[dict[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """One image's entry of `images` in `proposal_recall`."""
    best_first = result.boxes[np.argsort(-result.scores, kind="stable")].astype(np.float64)
    boxes = np.asarray([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
    crowd = np.asarray([bool(entry["iscrowd"]) for entry in objects], dtype=bool)
    ious = (
        mask_utils.iou(best_first, boxes, np.zeros(len(boxes), dtype=np.uint8))
        if len(boxes) and len(best_first)
        else np.zeros((len(best_first), len(boxes)))
    )
    return ious, np.asarray([entry["area"] for entry in objects], dtype=float), crowd


def _matched_overlaps(ious: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, G) -> (G,): the overlap of each object with its proposal; best pairs first, each proposal used once."""
    ious = ious.copy()
    matched = np.zeros(ious.shape[1])
    for _ in range(min(ious.shape)):
        proposal, target = np.unravel_index(ious.argmax(), ious.shape)
        if ious[proposal, target] <= 0:
            break
        matched[target] = ious[proposal, target]
        ious[proposal, :] = -1
        ious[:, target] = -1
    return matched

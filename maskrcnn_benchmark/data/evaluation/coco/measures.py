"""How results are matched to annotations and averaged: COCO's metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..results import AP_METRICS, KEYPOINT_METRICS
from .boundary import BoundaryEval
from .ground_truth import new_coco
from .mask_eval import MaskEval

BOUNDARY = "boundary"


@dataclass(frozen=True)
class Measure:
    """A way to score results.

    Attributes:
        metrics: names of the numbers that it gives, in pycocotools' order.
        make: builds the evaluation of (ground truth, detections).
    """

    metrics: Sequence[str]
    make: Callable[[COCO, COCO], COCOeval]


MEASURES = {
    "bbox": Measure(AP_METRICS, functools.partial(COCOeval, iouType="bbox")),
    "segm": Measure(AP_METRICS, MaskEval),
    BOUNDARY: Measure(AP_METRICS, BoundaryEval),
    "keypoints": Measure(KEYPOINT_METRICS, functools.partial(COCOeval, iouType="keypoints")),
}


def run_cocoeval(
    ground_truth: COCO,
    entries: Sequence[Mapping[str, Any]],
    measure: str,
    image_ids: Sequence[Any],
    sigmas: Sequence[float] = (),
) -> COCOeval:
    """The finished evaluation of result entries, without pycocotools' output.

    Args:
        entries: in COCO's result format. Without any, nothing was found and all precisions are 0.
        measure: name in `MEASURES`.
        sigmas: for keypoints; empty for COCO's 17.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if entries:
            detections = ground_truth.loadRes([dict(entry) for entry in entries])  # copies, as loadRes writes into them
        else:
            detections = new_coco({**ground_truth.dataset, "annotations": []})
        evaluation = MEASURES[measure].make(ground_truth, detections)
        evaluation.params.imgIds = list(image_ids)
        if evaluation.params.iouType == "keypoints" and len(sigmas):
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=float)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def headline_metrics(evaluation: COCOeval, measure: str) -> dict[str, float]:
    """COCO's average precisions by name; -1 if there is nothing to measure."""
    names = MEASURES[measure].metrics
    return {name: float(value) for name, value in zip(names, evaluation.stats, strict=False)}


def per_class_ap(evaluation: COCOeval, ground_truth: COCO) -> dict[str, float]:
    """AP by category name, over all areas and the largest number of detections; -1 for a category without objects."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recall steps, categories)
    names = {category["id"]: category["name"] for category in ground_truth.dataset["categories"]}
    table = {}
    for column, category_id in enumerate(evaluation.params.catIds):
        valid = precision[:, :, column][precision[:, :, column] > -1]
        table[names[category_id]] = float(valid.mean()) if valid.size else -1.0
    return table

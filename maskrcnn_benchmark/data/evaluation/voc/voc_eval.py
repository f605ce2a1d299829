"""`VocEvaluator`: the average precision of boxes at an IoU of 0.5, by 11 points and by area."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from ..base import EvaluationSettings
from ..coco.image_evaluator import ImageEvaluator
from ..coco.image_results import ImageResult
from ..results import EvaluationResults, write_results
from .average_precision import ImageMatches, ap_by_area, ap_by_points, match_detections, precision_recall

IOU_THRESHOLD = 0.5
POINTS, AREA = "AP", "AP (area)"


class VocEvaluator(ImageEvaluator):
    """Scores boxes as Pascal VOC does: AP at an IoU of at least 0.5, per class, averaged over the classes with objects.

    Both definitions of AP are reported: "AP" by 11 points (VOC 2007; upstream reports this one), and "AP (area)" by the
    area under the curve (VOC 2010 and later). The IoU is that of areas in pixels: boxes that include their far corner,
    as those of VOC do, are x2 - x1 + 1 wide.

    Args:
        dataset: with `get_groundtruth` and `class_names`. A field DIFFICULT of the ground truth tells which objects are
            ignored.
    Raises: ValueError for MODEL.RPN_ONLY, TypeError for a data set without ground truth or class names.
    """

    tasks = ("bbox",)

    def __init__(self, dataset: DetectionDataset, settings: EvaluationSettings) -> None:
        super().__init__(dataset, settings)
        if settings.box_only:
            raise ValueError(
                "the evaluator VOC scores boxes with classes, but the model predicts proposals (MODEL.RPN_ONLY). "
                "Set TEST.EVALUATORS to ('COCO',), which measures their recall."
            )
        if not dataset.has_groundtruth or not dataset.class_names:
            missing = "class_names" if dataset.has_groundtruth else "get_groundtruth"
            raise TypeError(f"the evaluator VOC cannot score on a {dataset.kind}: it has no `{missing}`")

    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        """Score, and write predictions.pth, COCO's result files and the tables into the folder."""
        per_class: dict[str, list[ImageMatches]] = {name: [] for name in self.dataset.class_names[1:]}
        for index, result in self.results.items():
            truth = self.dataset.get_groundtruth(index)
            for name, matches in zip(per_class, _match_image(truth, result, len(per_class)), strict=True):
                per_class[name].append(matches)
        curves = {name: precision_recall(images) for name, images in per_class.items()}
        by_points = {name: -1.0 if curve is None else ap_by_points(*curve) for name, curve in curves.items()}
        by_area = {name: -1.0 if curve is None else ap_by_area(*curve) for name, curve in curves.items()}
        metrics = {POINTS: _mean(by_points), AREA: _mean(by_area)}
        per_class_ap = {"bbox": by_points, "bbox (area)": by_area}
        results = EvaluationResults({"bbox": metrics}, len(self.results), per_class_ap if len(per_class) > 1 else {})
        if output_folder:
            self.save_predictions(Path(output_folder))
            self.save_coco_results(Path(output_folder))
            write_results(results, output_folder)
        return results


def _match_image(truth: BoxList, result: ImageResult, num_classes: int) -> Iterator[ImageMatches]:
    """The matches of each class in one image."""
    extents = truth.extents().double().numpy()
    objects = np.concatenate([extents[:, :2], extents[:, 2:] - extents[:, :2]], axis=1)
    labels = truth.get_field(fields.LABELS).numpy()
    difficult = np.zeros(len(labels), dtype=bool)
    if truth.has_field(fields.DIFFICULT):
        difficult = truth.get_field(fields.DIFFICULT).numpy()
    overlaps = _overlaps(result.boxes.astype(np.float64), objects)
    for label in range(1, num_classes + 1):
        found, true = result.labels == label, labels == label
        yield match_detections(overlaps[found][:, true], result.scores[found], difficult[true], IOU_THRESHOLD)


def _overlaps(found: NDArray[np.float64], objects: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (D, G) of boxes x, y, width, height."""
    if not len(found) or not len(objects):
        return np.zeros((len(found), len(objects)))
    ious: NDArray[np.float64] = mask_utils.iou(found, objects, np.zeros(len(objects), dtype=np.uint8))
    return ious


def _mean(values: dict[str, float]) -> float:
    """Over the classes that have objects; -1 if none has."""
    measured = [value for value in values.values() if value >= 0]
    return sum(measured) / len(measured) if measured else -1.0

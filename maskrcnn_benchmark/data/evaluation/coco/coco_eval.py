"""COCO's metrics for boxes, masks, keypoints and proposals, by pycocotools, from detections in `BoxList`s."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.structures.bounding_box import BoxList

from ..results import AP_METRICS, KEYPOINT_METRICS, EvaluationResults, ExpectedResults, check_expected_results
from .boundary import BoundaryEval
from .ground_truth import build_ground_truth, new_coco
from .image_results import ImageResult
from .proposal_recall import proposal_recall

logger = logging.getLogger(__name__)

IOU_TYPES = ("bbox", "segm", "keypoints")
BOUNDARY = "boundary"


class CocoEvaluator:
    """Collects detections image by image on every rank; the main rank then writes the files and counts.

    Args:
        dataset: a COCODataset: `.coco`, `.id_to_img_map`, `.contiguous_category_id_to_json_id`, `.get_img_info(index)`.
        iou_types: of "bbox", "segm", "keypoints".
        box_only: score the boxes as proposals (MODEL.RPN_ONLY): recall instead of precision.
        keypoint_oks_sigmas: one falloff per keypoint for OKS; empty takes COCO's 17.
        boundary_ap: score masks by their boundaries too, as "boundary" (see `boundary.py`).
    Raises: ValueError for an unknown iou type, or a number of sigmas that is not the dataset's number of keypoints.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        iou_types: Sequence[str] = ("bbox",),
        box_only: bool = False,
        keypoint_oks_sigmas: Sequence[float] | np.ndarray = (),
        boundary_ap: bool = False,
    ) -> None:
        unknown = [iou_type for iou_type in iou_types if iou_type not in IOU_TYPES]
        if unknown:
            raise ValueError(f"unknown iou types {unknown}; COCO's evaluation knows {', '.join(IOU_TYPES)}")
        self.dataset = dataset
        self.iou_types = tuple(iou_type for iou_type in IOU_TYPES if iou_type in iou_types)
        self.box_only = box_only
        self.sigmas = np.asarray(keypoint_oks_sigmas, dtype=float)
        self.boundary_ap = boundary_ap
        self.results: dict[int, ImageResult] = {}  # by index into the dataset
        if "keypoints" in self.iou_types:
            self._check_sigmas()

    def process(self, indices: Sequence[int], detections: Sequence[BoxList]) -> None:
        """Take a batch's detections, in resized-image coordinates, on any device; `indices` into the dataset."""
        for index, detections_per_image in zip(indices, detections, strict=True):
            info = self.dataset.get_img_info(index)
            size_wh = (info["width"], info["height"])
            self.results[int(index)] = ImageResult.from_detections(detections_per_image, size_wh)

    def merge(self, results_of_ranks: Sequence[Mapping[int, ImageResult]]) -> None:
        """Take what all ranks have collected, in the dataset's order, so that it is the same as from one process.

        Raises: RuntimeError when an image of the dataset has no result, as after a rank that dropped a batch.
        """
        merged: dict[int, ImageResult] = {}
        for results in results_of_ranks:
            merged.update(results)
        missing = sorted(set(range(len(self.dataset))) - set(merged))
        if missing:
            ids = ", ".join(str(self.dataset.id_to_img_map[index]) for index in missing[:10])
            raise RuntimeError(
                f"{len(missing)} of {len(self.dataset)} images have no predictions (image ids {ids}"
                f"{', ...' if len(missing) > 10 else ''}); the score would be wrong. "
                "Were all batches of the test loader processed on every rank?"
            )
        self.results = {index: merged[index] for index in sorted(merged)}

    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        """Write predictions and COCO result files into `output_folder` (when given), and count."""
        folder = Path(output_folder) if output_folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._plain_predictions(), folder / "predictions.pth")
        results = self._evaluate_proposals(folder) if self.box_only else self._evaluate_detections(folder)
        if folder:
            torch.save(results.metrics, folder / "coco_results.pth")
            (folder / "coco_results.json").write_text(json.dumps(results.plain(), indent=1) + "\n", encoding="utf-8")
            tables = [results.table(), results.per_class_table()]
            (folder / "results.txt").write_text("\n\n".join(filter(None, tables)) + "\n", encoding="utf-8")
        return results

    def coco_results(self, name: str) -> list[dict[str, Any]]:
        """All detections in COCO's result format: "bbox", "segm", "keypoints", "segm_coarse" or "keypoints_coarse"."""
        ids = self.dataset.id_to_img_map
        category_ids = self.dataset.contiguous_category_id_to_json_id
        return [
            entry
            for index, result in self.results.items()
            for entry in result.coco_results(name, ids[index], category_ids)
        ]

    def _evaluate_detections(self, folder: Path | None) -> EvaluationResults:
        image_ids = self._image_ids()
        results = EvaluationResults({}, len(image_ids))
        for iou_type in self.iou_types:
            ground_truth = build_ground_truth(self.dataset.coco, image_ids, iou_type, len(self.sigmas) or 17)
            for name in (f"{iou_type}_coarse", iou_type):
                if name.endswith("_coarse") and not self._has(name):
                    continue
                entries = self.coco_results(name)
                if folder:
                    (folder / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
                if not entries:
                    logger.warning("No detections at all for %s on %d images: its AP is 0", name, len(image_ids))
                measures = {name: iou_type}
                if iou_type == "segm" and self.boundary_ap:
                    measures[name.replace("segm", BOUNDARY)] = BOUNDARY
                for task, measure in measures.items():
                    evaluation = run_cocoeval(ground_truth, entries, measure, image_ids, self.sigmas)
                    results.metrics[task] = headline_metrics(evaluation, measure)
                    if len(ground_truth.getCatIds()) > 1:
                        results.per_class[task] = per_class_ap(evaluation, ground_truth)
        return results

    def _evaluate_proposals(self, folder: Path | None) -> EvaluationResults:
        image_ids = self._image_ids()
        ground_truth = build_ground_truth(self.dataset.coco, image_ids, "bbox")
        images = []
        for image_id, result in zip(image_ids, self.results.values(), strict=True):
            objects = ground_truth.imgToAnns[image_id]
            best_first = result.boxes[np.argsort(-result.scores, kind="stable")].astype(np.float64)
            boxes = np.asarray([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
            crowd = np.asarray([bool(entry["iscrowd"]) for entry in objects], dtype=bool)
            ious = (
                mask_utils.iou(best_first, boxes, np.zeros(len(boxes), dtype=np.uint8))
                if len(boxes) and len(best_first)
                else np.zeros((len(best_first), len(boxes)))
            )
            images.append((ious, np.asarray([entry["area"] for entry in objects], dtype=float), crowd))
        if folder:
            plain = [
                {
                    "image_id": image_id,
                    "boxes_xywh": torch.from_numpy(r.boxes),
                    "objectness": torch.from_numpy(r.scores),
                }
                for image_id, r in zip(image_ids, self.results.values(), strict=True)
            ]
            torch.save(plain, folder / "box_proposals.pth")
        return EvaluationResults({"box_proposal": proposal_recall(images)}, len(image_ids))

    def _has(self, name: str) -> bool:
        return any(name in result.masks or name in result.keypoints for result in self.results.values())

    def _image_ids(self) -> list[int]:
        return [self.dataset.id_to_img_map[index] for index in self.results]

    def _plain_predictions(self) -> list[dict[str, Any]]:
        return [
            {"image_id": image_id, **result.plain()}
            for image_id, result in zip(self._image_ids(), self.results.values(), strict=True)
        ]

    def _check_sigmas(self) -> None:
        lengths = {
            len(a["keypoints"]) // 3 for a in self.dataset.coco.dataset.get("annotations", ()) if a.get("keypoints")
        }
        expected = len(self.sigmas) or 17
        if lengths - {expected}:
            given = f"lists {len(self.sigmas)} sigmas" if len(self.sigmas) else "is empty, which means COCO's 17"
            raise ValueError(
                f"the annotations have {', '.join(map(str, sorted(lengths)))} keypoints, "
                f"but TEST.KEYPOINT_OKS_SIGMAS {given}. "
                "Give one sigma per keypoint (COCO's lie between 0.025 for eyes and 0.107 for hips)."
            )


def run_cocoeval(
    ground_truth: COCO,
    entries: Sequence[Mapping[str, Any]],
    iou_type: str,
    image_ids: Sequence[int],
    sigmas: Sequence[float] | np.ndarray = (),
) -> COCOeval:
    """COCOeval of result entries (may be none, which counts as nothing found), accumulated and summarised, quietly.

    `iou_type` is one of `IOU_TYPES`, or "boundary" for masks by their boundaries.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if entries:
            detections = ground_truth.loadRes(
                [dict(entry) for entry in entries]
            )  # loadRes writes into what it is given
        else:
            detections = new_coco({**ground_truth.dataset, "annotations": []})
        if iou_type == BOUNDARY:
            evaluation = BoundaryEval(ground_truth, detections)
        else:
            evaluation = COCOeval(ground_truth, detections, iou_type)
        evaluation.params.imgIds = list(image_ids)
        if iou_type == "keypoints" and len(sigmas):
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=float)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def headline_metrics(evaluation: COCOeval, iou_type: str) -> dict[str, float]:
    """COCO's headline precision figures by name; -1 where there is nothing to measure."""
    names = KEYPOINT_METRICS if iou_type == "keypoints" else AP_METRICS
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


def coco_evaluation(
    dataset: Any,
    predictions: Sequence[BoxList] | Mapping[int, BoxList],
    output_folder: str | os.PathLike[str] | None,
    box_only: bool = False,
    iou_types: Sequence[str] = ("bbox",),
    expected_results: ExpectedResults = (),
    expected_results_sigma_tol: float = 4,
    keypoint_oks_sigmas: Sequence[float] | np.ndarray = (),
    boundary_ap: bool = False,
) -> EvaluationResults:
    """Evaluate predictions of the whole dataset, in its order or by index, in resized-image coordinates."""
    evaluator = CocoEvaluator(
        dataset,
        iou_types=iou_types,
        box_only=box_only,
        keypoint_oks_sigmas=keypoint_oks_sigmas,
        boundary_ap=boundary_ap,
    )
    by_index = predictions if isinstance(predictions, Mapping) else dict(enumerate(predictions))
    evaluator.process(list(by_index), list(by_index.values()))
    evaluator.merge([evaluator.results])
    results = evaluator.evaluate(output_folder)
    check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results

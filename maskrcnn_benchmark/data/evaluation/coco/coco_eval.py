"""COCO's metrics for boxes, masks, keypoints and proposals, computed by pycocotools from detections in `BoxList`s."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.datasets.base import DetectionDataset, as_detection_dataset

from ..base import EvaluationSettings
from ..oks_sigmas import oks_sigmas, uniform_sigma_note
from ..results import EvaluationResults, write_results
from .from_groundtruth import annotations_of
from .image_evaluator import ImageEvaluator, write_coco_results
from .measures import headline_metrics, per_class_ap, run_cocoeval
from .proposal_recall import evaluate_proposals
from .tasks import COARSE, TASKS, StageResults, Task, find_task, task_of

logger = logging.getLogger(__name__)


class CocoEvaluator(ImageEvaluator):
    """Evaluates as COCO does, each task by its object in `TASKS`, named masks by a `NamedMaskTask`.

    Args:
        dataset: with `coco`, `id_to_img_map` and `contiguous_category_id_to_json_id`; or with `get_groundtruth` and
            `class_names`, from which the annotations are made.
        iou_types: of "bbox", "segm", "keypoints", "segm_<name of a mask>".
        box_only, keypoint_oks_sigmas, boundary_ap, per_keypoint: as in `EvaluationSettings`.
    Attributes:
        settings: with the sigmas that are used.
    Raises: TypeError for a data set without COCO annotations; ValueError for an unknown iou type, and for a number of
        sigmas that is not the data set's number of keypoints.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        iou_types: Sequence[str] = ("bbox",),
        box_only: bool = False,
        keypoint_oks_sigmas: Sequence[float] = (),
        boundary_ap: bool = False,
        per_keypoint: bool = True,
    ) -> None:
        dataset = as_detection_dataset(dataset)
        sigmas = oks_sigmas(dataset, keypoint_oks_sigmas)
        super().__init__(dataset, EvaluationSettings(tuple(iou_types), box_only, sigmas, boundary_ap, per_keypoint))
        self._note = uniform_sigma_note(dataset, keypoint_oks_sigmas) if "keypoints" in iou_types else None
        names = [name for name in TASKS if name in iou_types] + [name for name in iou_types if name not in TASKS]
        tasks = {name: find_task(name) for name in names}
        unknown = [name for name, task in tasks.items() if task is None]
        if unknown:
            raise ValueError(f"unknown iou types {unknown}; COCO's evaluation knows {', '.join(TASKS)}")
        self.coco = annotations_of(self.dataset)
        self._tasks = [task for task in tasks.values() if task is not None]
        self.tasks = [task.name for task in self._tasks]
        for task in self._tasks:
            task.check(self.coco, self.settings)

    @classmethod
    def from_settings(cls, dataset: DetectionDataset, settings: EvaluationSettings) -> CocoEvaluator:
        """The entry of `EVALUATORS`: scores COCO's tasks among `settings.tasks`."""
        return cls(
            dataset,
            iou_types=[task for task in settings.tasks if find_task(task)],
            box_only=settings.box_only,
            keypoint_oks_sigmas=settings.keypoint_oks_sigmas,
            boundary_ap=settings.boundary_ap,
            per_keypoint=settings.per_keypoint,
        )

    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        """Score, and write predictions.pth, COCO's result files and the tables into the folder."""
        folder = Path(output_folder) if output_folder else None
        if folder:
            self.save_predictions(folder)
        if self.settings.box_only:
            metrics = evaluate_proposals(self.coco, self.image_ids(), list(self.results.values()), folder)
            results = EvaluationResults({"box_proposal": metrics}, len(self.results))
        else:
            results = EvaluationResults({}, len(self.results))
            for task in self._tasks:
                self._evaluate_task(task, results, folder)
            results.notes += [self._note] if self._note else []
        if folder:
            write_results(results, folder)
        return results

    def coco_results(self, name: str) -> list[dict[str, Any]]:
        """As of the base class, of the categories that can have such results."""
        entries, wanted = super().coco_results(name), task_of(name).category_ids(self.coco)
        return entries if wanted is None else [entry for entry in entries if entry["category_id"] in wanted]

    def _evaluate_task(self, task: Task, results: EvaluationResults, folder: Path | None) -> None:
        """Add a row per stage and measure to the results."""
        image_ids = self.image_ids()
        annotations = task.annotations(self.dataset, self.coco)
        ground_truth = task.ground_truth(annotations, image_ids, self.settings)
        for stage in reversed(task.stages):  # coarse first
            if stage.name.endswith(COARSE) and not self._was_predicted(stage.name):
                continue
            entries = self.coco_results(stage.name)
            if folder:
                write_coco_results(folder, stage.name, entries)
            if not entries:
                logger.warning("No detections at all for %s on %d images: its AP is 0", stage.name, len(image_ids))
            for final_row, measure in task.measures(self.settings).items():
                row = final_row + stage.name.removeprefix(task.name)
                evaluation = run_cocoeval(ground_truth, entries, measure, image_ids, self.settings.keypoint_oks_sigmas)
                results.metrics[row] = headline_metrics(evaluation, measure)
                if len(ground_truth.getCatIds()) > 1:
                    results.per_class[row] = per_class_ap(evaluation, ground_truth)
            found = StageResults(self.dataset, image_ids, list(self.results.values()), entries)
            more = task.score_more(stage, found, ground_truth, self.settings)
            if more.metrics:
                results.metrics.setdefault(stage.name, {}).update(more.metrics)
            if more.per_keypoint:
                results.per_keypoint[stage.name] = more.per_keypoint

    def _was_predicted(self, stage_name: str) -> bool:
        return any(stage_name in result.packed for result in self.results.values())

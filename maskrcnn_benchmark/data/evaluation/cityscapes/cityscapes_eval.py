"""`CityscapesEvaluator`: the average precision of masks and boxes against the official ground truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.datasets.cityscapes_file import (
    EVALUATED,
    INSTANCES_PER_LABEL,
    LABEL_IDS,
    VOID_IDS,
    encode_ids,
)

from ..base import EvaluationSettings
from ..coco.image_evaluator import ImageEvaluator
from ..coco.image_results import ImageResult
from ..coco.run_lengths import RLE
from ..results import EvaluationResults, write_results
from .instance_ap import ImageOverlaps, average_precision

_BOXES, _MASKS = "bbox", ("segm_coarse", "segm")  # rows of the table


@dataclass(frozen=True)
class _Objects:
    """The objects of the classes in one image.

    Attributes:
        labels: (G,) ids of Cityscapes' labels.
        is_group: (G,).
        masks: G run lengths.
        void: run lengths of the void pixels.
    """

    labels: NDArray[np.int64]
    is_group: NDArray[np.bool_]
    masks: list[RLE]
    void: RLE

    @classmethod
    def from_ids(cls, ids: NDArray[np.int32]) -> _Objects:
        wanted = {LABEL_IDS[name] for name in EVALUATED}
        encoded = encode_ids(ids)
        single = {value: value // INSTANCES_PER_LABEL for value in encoded if value >= INSTANCES_PER_LABEL}
        labels = {value: single.get(value, value) for value in encoded}
        chosen = [value for value, label in labels.items() if label in wanted]
        is_void = np.isin(ids, VOID_IDS)
        return cls(
            np.array([labels[value] for value in chosen], dtype=np.int64),
            np.array([value not in single for value in chosen], dtype=bool),
            [encoded[value] for value in chosen],
            mask_utils.encode(np.asfortranarray(is_void.astype(np.uint8))),
        )


class CityscapesEvaluator(ImageEvaluator):
    """Scores instances as Cityscapes' official script does.

    AP is averaged over the overlaps 0.5, 0.55, ..., 0.95 and over the classes that occur. AP50 is that at 0.5.
    Instances of fewer than 100 pixels, groups, and void regions are ignored. The ground truth is the instance image of
    `read_instance_ids`, whatever the data set trains on. Boxes are scored in the same way, with the areas of boxes
    instead of pixels, and without void regions; the official script does not score them.

    Args:
        dataset: with `read_instance_ids` and `class_names`. Classes that the official script does not score are left
            out.
    Raises: ValueError for MODEL.RPN_ONLY; TypeError for a data set that is not a `CityScapesDataset`, or like one.
    """

    def __init__(self, dataset: DetectionDataset, settings: EvaluationSettings) -> None:
        super().__init__(dataset, settings)
        self.tasks = [task for task in (_BOXES, "segm") if task in settings.tasks]
        if settings.box_only:
            raise ValueError(
                "the evaluator Cityscapes scores instances, but the model predicts proposals (MODEL.RPN_ONLY). "
                "Set TEST.EVALUATORS to ('COCO',), which measures their recall."
            )
        if not hasattr(dataset, "read_instance_ids"):
            raise TypeError(
                f"the evaluator Cityscapes cannot score on a {dataset.kind}: it has no `read_instance_ids`, "
                "which gives the ground truth in Cityscapes' form"
            )

    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        """Score, and write predictions.pth, COCO's result files and the tables into the folder."""
        rows = [_BOXES] if _BOXES in self.tasks else []
        if "segm" in self.tasks:
            predicted = {stage for result in self.results.values() for stage in result.packed}
            rows += [stage for stage in _MASKS if stage == "segm" or stage in predicted]
        overlaps: dict[str, dict[str, list[ImageOverlaps]]] = {row: {name: [] for name in EVALUATED} for row in rows}
        for index, result in self.results.items():
            objects = _Objects.from_ids(self.dataset.read_instance_ids(index))  # type: ignore[attr-defined]  # checked in __init__
            for row, per_class in overlaps.items():
                for name, images in zip(per_class, self._measure(row, result, objects), strict=True):
                    per_class[name].append(images)
        results = EvaluationResults({}, len(self.results))
        for row, per_class in overlaps.items():
            values = {name: average_precision(images) for name, images in per_class.items()}
            measured = np.array([value for value in values.values() if not np.isnan(value).any()])
            means = (measured.mean(), measured[:, 0].mean()) if len(measured) else (-1.0, -1.0)
            results.metrics[row] = {"AP": float(means[0]), "AP50": float(means[1])}
            results.per_class[row] = {
                name: -1.0 if np.isnan(value).any() else float(value.mean()) for name, value in values.items()
            }
        if output_folder:
            self.save_predictions(Path(output_folder))
            self.save_coco_results(Path(output_folder))
            write_results(results, output_folder)
        return results

    def _measure(self, row: str, result: ImageResult, objects: _Objects) -> list[ImageOverlaps]:
        """The overlaps of each evaluated class in one image."""
        if row == _BOXES:
            found: Any = result.boxes.astype(np.float64)
            true: Any = np.array([mask_utils.toBbox(mask) for mask in objects.masks]).reshape(-1, 4)
            sizes, object_sizes = found[:, 2] * found[:, 3], true[:, 2] * true[:, 3]
            void = np.zeros(len(found))
        else:
            found, true = result.packed.get(row, []), objects.masks
            sizes, object_sizes = _count_pixels(found), _count_pixels(true)
            void = _shared(found, [objects.void], sizes)[:, 0]
        shared = _shared(found, true, sizes)
        scores = result.scores_of(row)
        names = self.dataset.class_names
        labels = np.array([LABEL_IDS.get(names[label], -1) for label in result.labels.tolist()], dtype=np.int64)
        measured = []
        for name in EVALUATED:
            rows = (labels == LABEL_IDS[name]) & (sizes > 0)
            columns = objects.labels == LABEL_IDS[name]
            measured.append(
                ImageOverlaps(
                    scores[rows],
                    sizes[rows],
                    void[rows],
                    object_sizes[columns],
                    objects.is_group[columns],
                    shared[rows][:, columns],
                )  # fmt: skip
            )
        return measured


def _count_pixels(masks: Sequence[RLE]) -> NDArray[np.float64]:
    return np.array([mask_utils.area(mask) for mask in masks], dtype=np.float64)


def _shared(found: Any, true: Any, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area (D, G) that masks, or boxes x, y, width, height, share. `sizes` (D,) are the areas of the first."""
    if not len(found) or not len(true):
        return np.zeros((len(found), len(true)))
    # for a crowd region, pycocotools divides the shared area by that of the detection
    parts = np.asarray(mask_utils.iou(found, true, np.ones(len(true), dtype=np.uint8)))
    shared: NDArray[np.float64] = np.nan_to_num(parts) * sizes[:, None]
    return shared if isinstance(found, np.ndarray) else np.rint(shared)

"""What an evaluator is: it takes detections batch by batch, on every rank, and the main rank scores them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.registry import Registry

from .results import EvaluationResults

# Name -> callable (dataset, settings) that returns an Evaluator, usually the class. Named by the data set's attribute
# `evaluator`, or by TEST.EVALUATORS.
EVALUATORS = Registry()


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of a run for its evaluators, the same for every data set.

    Attributes:
        tasks: what the model predicts: "bbox", "segm", "keypoints", or the task of a head of your own.
        box_only: the boxes are proposals (MODEL.RPN_ONLY): recall is measured instead of precision.
        keypoint_oks_sigmas: sigma of each keypoint, for OKS; empty for those of the data set.
        boundary_ap: score masks by their boundaries too.
        per_keypoint: score each keypoint too.
    """

    tasks: Sequence[str] = ("bbox",)
    box_only: bool = False
    keypoint_oks_sigmas: Sequence[float] = ()
    boundary_ap: bool = False
    per_keypoint: bool = True


class Evaluator(ABC):
    """Scores the detections on one data set. A registered evaluator is built with (dataset, settings).

    Every rank calls `process` for its batches. `results` of all ranks are gathered, and the main rank calls `merge` and
    `evaluate`.

    Attributes:
        tasks: the tasks that it scores. Each task of the model must be scored by one of the evaluators.
        dataset: the data set that it evaluates on.
        results: what this rank has collected: anything that pickles. The default `merge` expects a dictionary by index
            into the data set.
    """

    tasks: Sequence[str] = ()
    results: Any

    def __init__(self, dataset: DetectionDataset, settings: EvaluationSettings) -> None:
        self.dataset = dataset
        self.settings = settings
        self.results = {}

    @abstractmethod
    def process(self, indices: Sequence[int], detections: Sequence[BoxList]) -> None:
        """Collect what the evaluation needs from a batch.

        Args:
            indices: of the images in the data set.
            detections: one BoxList per image, on any device, in pixels of the image that the model was given.
        """

    def merge(self, results_of_ranks: Sequence[Any]) -> None:
        """Take the results of all ranks in the data set's order, as if one process had collected them.

        Raises: RuntimeError if an image of the data set has no result, for example because a rank dropped a batch.
        """
        merged: dict[int, Any] = {}
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

    @abstractmethod
    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        """Score the merged results, and write files of them if there is a folder.

        The tables of the returned metrics are written by `write_results`, which an evaluator calls last.
        """

    def write_pictures(self, folder: Path, count: int) -> Path | None:
        """Draw `count` images with ground truth and detections. Returns: the folder; None if nothing was drawn."""
        return None

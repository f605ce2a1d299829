"""Which evaluator serves which dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.structures.bounding_box import BoxList

from .coco import CocoEvaluator, coco_evaluation
from .results import EvaluationResults, check_expected_results

__all__ = ["CocoEvaluator", "EvaluationResults", "build_evaluator", "check_expected_results", "evaluate"]


def build_evaluator(
    dataset: Any,
    *,
    iou_types: Sequence[str] = ("bbox",),
    box_only: bool = False,
    keypoint_oks_sigmas: Sequence[float] = (),
    boundary_ap: bool = False,
) -> CocoEvaluator:
    """The evaluator of a dataset, to be fed batch by batch.

    Raises: TypeError for a dataset without COCO annotations.
    """
    _check_dataset(dataset)
    return CocoEvaluator(
        dataset,
        iou_types=iou_types,
        box_only=box_only,
        keypoint_oks_sigmas=keypoint_oks_sigmas,
        boundary_ap=boundary_ap,
    )


def evaluate(
    dataset: Any,
    predictions: Sequence[BoxList] | Mapping[int, BoxList],
    output_folder: str | os.PathLike[str] | None,
    **kwargs: Any,
) -> EvaluationResults:
    """Evaluate the predictions of a whole dataset (one BoxList per image, in its order, or by index).

    Keywords: box_only, iou_types, expected_results, expected_results_sigma_tol, keypoint_oks_sigmas,
    boundary_ap.
    """
    _check_dataset(dataset)
    return coco_evaluation(dataset, predictions, output_folder, **kwargs)


def _check_dataset(dataset: Any) -> None:
    if not hasattr(dataset, "coco"):
        raise TypeError(
            f"{type(dataset).__name__} cannot be evaluated: it has no `coco` annotations (pycocotools.coco.COCO). "
            "A dataset in COCO's format is a COCODataset; others need to offer their annotations in that form."
        )

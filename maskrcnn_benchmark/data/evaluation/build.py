"""From names to evaluators, and the evaluation of predictions that are all there already."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.registry import UnknownNameError

from .base import EVALUATORS, EvaluationSettings, Evaluator
from .group import EvaluatorGroup
from .results import EvaluationResults, ExpectedResults, check_expected_results


def build_evaluator(
    dataset: Any,
    *,
    iou_types: Sequence[str] = ("bbox",),
    box_only: bool = False,
    keypoint_oks_sigmas: Sequence[float] = (),
    boundary_ap: bool = False,
    per_keypoint: bool = True,
    evaluators: Sequence[str] = (),
) -> Evaluator:
    """The evaluator of a data set, to be fed batch by batch.

    Args:
        dataset: with the attribute `evaluator`, or COCO's is taken.
        iou_types: the tasks to score.
        evaluators: TEST.EVALUATORS, names in `EVALUATORS`; empty for the data set's own. Several score the same
            detections, and their metrics are put into one table.
        box_only, keypoint_oks_sigmas, boundary_ap, per_keypoint: as in `EvaluationSettings`.
    Raises: TypeError for a data set without the annotations that an evaluator needs; UnknownNameError for an evaluator
        that is not registered; ValueError for a task that none of them scores.
    """
    dataset = as_detection_dataset(dataset)
    settings = EvaluationSettings(tuple(iou_types), box_only, tuple(keypoint_oks_sigmas), boundary_ap, per_keypoint)
    built = {name: _entry(name, bool(evaluators))(dataset, settings) for name in evaluators or (dataset.evaluator,)}
    unknown = [task for task in settings.tasks if not any(task in evaluator.tasks for evaluator in built.values())]
    if unknown:
        scored = "; ".join(f"{name} scores {', '.join(each.tasks) or 'none of them'}" for name, each in built.items())
        raise ValueError(
            f"unknown iou types {unknown}: {scored}. A task of your own needs an evaluator that lists it in `tasks`; "
            "register it in EVALUATORS and name it in TEST.EVALUATORS, such as ('COCO', 'MyEvaluator')."
        )
    return next(iter(built.values())) if len(built) == 1 else EvaluatorGroup(built)


def evaluate(
    dataset: Any,
    predictions: Sequence[BoxList] | Mapping[int, BoxList],
    output_folder: str | os.PathLike[str] | None,
    box_only: bool = False,
    iou_types: Sequence[str] = ("bbox",),
    expected_results: ExpectedResults = (),
    expected_results_sigma_tol: float = 4,
    **settings: Any,
) -> EvaluationResults:
    """Evaluate the predictions of a whole data set.

    Args:
        predictions: one BoxList per image, in the data set's order or by index, in pixels of the image that the model
            was given.
        settings: further keywords of `build_evaluator`.
    """
    evaluator = build_evaluator(dataset, iou_types=iou_types, box_only=box_only, **settings)
    by_index = predictions if isinstance(predictions, Mapping) else dict(enumerate(predictions))
    evaluator.process(list(by_index), list(by_index.values()))
    evaluator.merge([evaluator.results])
    results = evaluator.evaluate(output_folder)
    check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results


def _entry(name: str, from_config: bool) -> Any:
    if name not in EVALUATORS:
        origin = "TEST.EVALUATORS names" if from_config else "the data set's attribute `evaluator` names"
        raise UnknownNameError(
            f"{origin} {name!r}; registered: {', '.join(sorted(EVALUATORS))}. "
            "An evaluator of your own registers itself in a module that IMPORTS names."
        )
    return EVALUATORS[name]

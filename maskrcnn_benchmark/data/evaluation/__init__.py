"""Evaluators: how the detections on a data set are scored."""

from .base import EVALUATORS, EvaluationSettings, Evaluator
from .build import build_evaluator, evaluate
from .coco import CocoEvaluator
from .results import EvaluationResults, check_expected_results, write_results

EVALUATORS.register("COCO", CocoEvaluator.from_settings)

__all__ = [
    "EVALUATORS",
    "CocoEvaluator",
    "EvaluationResults",
    "EvaluationSettings",
    "Evaluator",
    "build_evaluator",
    "check_expected_results",
    "evaluate",
    "write_results",
]

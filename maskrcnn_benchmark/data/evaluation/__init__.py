"""Evaluators: how the detections on a data set are scored."""

from .base import EVALUATORS, EvaluationSettings, Evaluator
from .build import build_evaluator, evaluate
from .cityscapes import CityscapesEvaluator
from .coco import CocoEvaluator
from .results import EvaluationResults, check_expected_results, write_results
from .voc import VocEvaluator

EVALUATORS.register("COCO", CocoEvaluator.from_settings)
EVALUATORS.register("VOC", VocEvaluator)
EVALUATORS.register("Cityscapes", CityscapesEvaluator)

__all__ = [
    "EVALUATORS",
    "CityscapesEvaluator",
    "CocoEvaluator",
    "EvaluationResults",
    "EvaluationSettings",
    "Evaluator",
    "VocEvaluator",
    "build_evaluator",
    "check_expected_results",
    "evaluate",
    "write_results",
]

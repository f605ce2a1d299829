"""Evaluation on data in COCO's format."""

from .coco_eval import CocoEvaluator, coco_evaluation

__all__ = ["CocoEvaluator", "coco_evaluation"]

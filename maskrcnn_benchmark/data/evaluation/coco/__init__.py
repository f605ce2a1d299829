"""Evaluation on annotations in COCO's format."""

from .coco_eval import CocoEvaluator

__all__ = ["CocoEvaluator"]

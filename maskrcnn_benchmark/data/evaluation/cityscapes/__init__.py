"""Evaluation of instances as Cityscapes does it."""

from .cityscapes_eval import CityscapesEvaluator

__all__ = ["CityscapesEvaluator"]

"""Evaluation as Pascal VOC does it."""

from .voc_eval import VocEvaluator

__all__ = ["VocEvaluator"]

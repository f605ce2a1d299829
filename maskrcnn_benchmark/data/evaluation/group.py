"""Several evaluators that score the same detections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.structures.bounding_box import BoxList

from .base import Evaluator
from .results import EvaluationResults, merge_results, write_results


class EvaluatorGroup(Evaluator):
    """Passes each batch to all evaluators, and puts their metrics into one table.

    Args:
        evaluators: by name; all of the same data set.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator]) -> None:
        self.evaluators = dict(evaluators)
        self.tasks = [task for evaluator in evaluators.values() for task in evaluator.tasks]

    @property
    def results(self) -> list[Any]:
        return [evaluator.results for evaluator in self.evaluators.values()]

    def process(self, indices: Sequence[int], detections: Sequence[BoxList]) -> None:
        for evaluator in self.evaluators.values():
            evaluator.process(indices, detections)

    def merge(self, results_of_ranks: Sequence[Sequence[Any]]) -> None:
        for evaluator, results in zip(self.evaluators.values(), zip(*results_of_ranks, strict=True), strict=True):
            evaluator.merge(results)

    def evaluate(self, output_folder: str | os.PathLike[str] | None = None) -> EvaluationResults:
        results = merge_results({name: each.evaluate(output_folder) for name, each in self.evaluators.items()})
        if output_folder:
            write_results(results, output_folder)  # over the tables of the single evaluators
        return results

    def write_pictures(self, folder: Path, count: int) -> Path | None:
        """The pictures of the first evaluator that draws."""
        drawn = (evaluator.write_pictures(folder, count) for evaluator in self.evaluators.values())
        return next((written for written in drawn if written is not None), None)

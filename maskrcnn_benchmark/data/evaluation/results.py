"""The figures of one evaluation: kept by task and metric, printed as a table, compared with what was expected."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")  # COCO has no small people in its keypoint task
PROPOSAL_METRICS = tuple(f"AR{area}@{limit}" for limit in (100, 1000) for area in ("", "s", "m", "l"))
TASK_METRICS = {
    "bbox": AP_METRICS,
    "segm_coarse": AP_METRICS,
    "segm": AP_METRICS,
    "boundary_coarse": AP_METRICS,
    "boundary": AP_METRICS,
    "keypoints_coarse": KEYPOINT_METRICS,
    "keypoints": KEYPOINT_METRICS,
    "box_proposal": PROPOSAL_METRICS,
}

ExpectedResults = Sequence[tuple[str, str, tuple[float, float]]]  # (task, metric, (mean, standard deviation))


@dataclass
class EvaluationResults:
    """Metrics by task ("bbox", "segm", "boundary", "keypoints", "..._coarse", "box_proposal") and name, all in 0..1.

    A metric is -1 where the ground truth has nothing to measure it on (no small objects, say), as pycocotools has it.
    per_class: AP by task and category name, filled when there are several categories.
    failures: expected results that were not met, one sentence each; filled by `check_expected_results`.
    """

    metrics: dict[str, dict[str, float]]
    num_images: int
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The metrics under the name that scripts written for maskrcnn-benchmark read."""
        return self.metrics

    def plain(self) -> dict[str, Any]:
        """Numbers and strings for a JSON file."""
        return {"num_images": self.num_images, "metrics": self.metrics, "per_class": self.per_class}

    def summary_score(self) -> float:
        """One number to rank checkpoints by: mean AP over tasks (AR@1000 of proposals).

        Coarse results do not count, nor do boundaries: they are another view of the masks.
        """
        headline = [
            metrics.get("AP", metrics.get("AR@1000", 0.0))
            for task, metrics in self.metrics.items()
            if not task.endswith("_coarse") and task != "boundary"
        ]
        return sum(headline) / len(headline) if headline else 0.0

    def table(self) -> str:
        """Rows of tasks, columns of metrics; "-" where a task has no such metric or nothing to measure it on."""
        columns = [
            name for name in (*AP_METRICS, *PROPOSAL_METRICS) if any(name in row for row in self.metrics.values())
        ]
        rows = [
            [self._row_title(task), *(_format(self.metrics[task].get(name, -1.0)) for name in columns)]
            for task in TASK_METRICS
            if task in self.metrics
        ]
        return _align([["", *columns], *rows])

    def per_class_table(self) -> str:
        """AP of every category (rows) in every task (columns); empty with a single category."""
        tasks = [task for task in TASK_METRICS if task in self.per_class]
        if not tasks:
            return ""
        names = list(self.per_class[tasks[0]])
        rows = [[name, *(_format(self.per_class[task][name]) for task in tasks)] for name in names]
        return _align([["AP of", *map(self._row_title, tasks)], *rows])

    def _row_title(self, task: str) -> str:
        if task.endswith("_coarse"):
            return f"{task.removesuffix('_coarse')} (coarse)"
        return f"{task} (refined)" if f"{task}_coarse" in self.metrics else task


def check_expected_results(results: EvaluationResults, expected: ExpectedResults, sigma_tolerance: float) -> bool:
    """Compare with TEST.EXPECTED_RESULTS; log PASS or FAIL for each, keep the failures in `results`.

    An entry passes when the metric lies within `sigma_tolerance` standard deviations of the mean. True if all passed.
    """
    for task, metric, (mean, deviation) in expected:
        actual = results.metrics.get(task, {}).get(metric)
        if actual is None:
            text = f"{task} {metric} was not evaluated (evaluated: {', '.join(results.metrics)})"
            passed = False
        else:
            low, high = mean - sigma_tolerance * deviation, mean + sigma_tolerance * deviation
            passed = low <= actual <= high
            text = (
                f"{task} {metric} is {actual:.4f}, expected {mean:.4f} +- {sigma_tolerance} * {deviation:.4f}, "
                f"which is [{low:.4f}, {high:.4f}]"
            )
        if passed:
            logger.info("PASS: %s", text)
        else:
            logger.error("FAIL: %s", text)
            results.failures.append(text)
    return not results.failures


def _format(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"


def _align(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)

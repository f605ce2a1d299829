"""The metrics of one evaluation: kept by task and name, written as tables, compared with expected values."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.utils.problems import config_problem

logger = logging.getLogger(__name__)

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")  # COCO has no small people in its keypoint task
# of keypoints beside COCO's: by how crowded images are, and of single keypoints (see `keypoint_scores`)
CROWD_METRICS = ("APeasy", "APmedium", "APhard")
PCK, VISIBILITY_AP, LABELLED = "PCK@0.2", "visibility AP", "labelled"
PROPOSAL_METRICS = tuple(f"AR{area}@{limit}" for limit in (100, 1000) for area in ("", "s", "m", "l"))
# The rows of a table in their order, and what TEST.EXPECTED_RESULTS may name. An evaluator of your own adds its tasks.
TASK_METRICS: dict[str, Sequence[str]] = {
    "bbox": AP_METRICS,
    "segm_coarse": AP_METRICS,
    "segm": AP_METRICS,
    "boundary_coarse": AP_METRICS,
    "boundary": AP_METRICS,
    "keypoints_coarse": (*KEYPOINT_METRICS, *CROWD_METRICS, PCK, VISIBILITY_AP, LABELLED),
    "keypoints": (*KEYPOINT_METRICS, *CROWD_METRICS, PCK, VISIBILITY_AP, LABELLED),
    "box_proposal": PROPOSAL_METRICS,
}

_COARSE = "_coarse"
_OF_MASKS = ("segm", "boundary")  # tasks that named masks have too, as "segm_<name>"

ExpectedResults = Sequence[tuple[str, str, tuple[float, float]]]  # (task, metric, (mean, standard deviation))


@dataclass
class EvaluationResults:
    """The metrics of one data set.

    A metric is -1 if there is nothing to measure it on, for example no small object; pycocotools does the same.

    Attributes:
        metrics: value by task ("bbox", "segm", "segm_<name of a mask>", "boundary", "keypoints", "..._coarse",
            "box_proposal") and metric name; COCO's are between 0 and 1.
        num_images: number of images that were evaluated.
        per_class: AP by task and category name, if there are several categories.
        per_keypoint: value by task, name of the keypoint and metric.
        failures: a sentence for each expected result that was not met, filled by `check_expected_results`.
        notes: sentences that a reader of the metrics should know.
    """

    metrics: dict[str, dict[str, float]]
    num_images: int
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    per_keypoint: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The metrics under the name that scripts written for maskrcnn-benchmark read."""
        return self.metrics

    def plain(self) -> dict[str, Any]:
        """Numbers and strings for a JSON file."""
        plain = {"num_images": self.num_images, "metrics": self.metrics, "per_class": self.per_class}
        more = {"per_keypoint": self.per_keypoint, "notes": self.notes}
        return {**plain, **{key: value for key, value in more.items() if value}}

    def summary_score(self) -> float:
        """One number to rank checkpoints by: the mean AP of all tasks (AR@1000 for proposals).

        Not counted are coarse results, boundaries, which are another view of the masks, and tasks without an AP.
        """
        headline = [
            metrics["AP"] if "AP" in metrics else metrics["AR@1000"]
            for task, metrics in self.metrics.items()
            if not task.endswith(_COARSE) and _split(task)[0] != "boundary" and metrics.keys() & {"AP", "AR@1000"}
        ]
        return sum(headline) / len(headline) if headline else 0.0

    def table(self) -> str:
        """Rows of tasks, columns of metrics; "-" if a task lacks the metric or has nothing to measure it on."""
        names = {name: None for metrics in self.metrics.values() for name in metrics}
        columns = _ordered(names, (*AP_METRICS, *PROPOSAL_METRICS))
        rows = [
            [self._row_title(task), *(_format(self.metrics[task].get(name, -1.0)) for name in columns)]
            for task in _ordered_tasks(self.metrics)
        ]
        return _align([["", *columns], *rows])

    def per_class_table(self) -> str:
        """AP of every category (rows) in every task (columns); empty if there is only one category."""
        tasks = _ordered_tasks(self.per_class)
        if not tasks:
            return ""
        names = {name: None for task in tasks for name in self.per_class[task]}
        rows = [[name, *(_format(self.per_class[task].get(name, -1.0)) for task in tasks)] for name in names]
        return _align([["AP of", *map(self._row_title, tasks)], *rows])

    def per_keypoint_tables(self) -> list[str]:
        """For each task with keypoints a table of its metrics, a row for each keypoint."""
        tables = []
        for task in _ordered(self.per_keypoint, TASK_METRICS):
            rows = self.per_keypoint[task]
            metrics = list(next(iter(rows.values()), {}))
            lines = [[name, *(_format(values[metric]) for metric in metrics)] for name, values in rows.items()]
            tables.append(_align([[self._row_title(task), *metrics], *lines]))
        return tables

    def _row_title(self, task: str) -> str:
        kind, mask, is_coarse = _split(task)
        is_refined = not is_coarse and f"{task}{_COARSE}" in self.metrics
        details = [mask, "coarse" if is_coarse else "refined" if is_refined else ""]
        return f"{kind} ({', '.join(filter(None, details))})" if any(details) else kind


def merge_results(results: Mapping[str, EvaluationResults]) -> EvaluationResults:
    """The results of several evaluators on one data set as one.

    Metrics of the same task share a row. If two evaluators have a metric of the same name, the later one gets a
    separate row, "task (evaluator)".

    Args:
        results: by name of the evaluator.
    """
    merged = EvaluationResults({}, max(found.num_images for found in results.values()))
    for evaluator, found in results.items():
        merged.notes += [note for note in found.notes if note not in merged.notes]
        for rows, more in ((merged.metrics, found.metrics), (merged.per_class, found.per_class)):
            for task, values in more.items():
                row = task if not rows.get(task, {}).keys() & values.keys() else f"{task} ({evaluator})"
                rows.setdefault(row, {}).update(values)
        for task, table in found.per_keypoint.items():
            merged.per_keypoint[task if task not in merged.per_keypoint else f"{task} ({evaluator})"] = table
    return merged


def write_results(results: EvaluationResults, output_folder: str | os.PathLike[str]) -> None:
    """Write the tables as results.txt, and the metrics as coco_results.json and coco_results.pth."""
    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(results.metrics, folder / "coco_results.pth")
    (folder / "coco_results.json").write_text(json.dumps(results.plain(), indent=1) + "\n", encoding="utf-8")
    tables = [results.table(), results.per_class_table(), *results.per_keypoint_tables(), *results.notes]
    (folder / "results.txt").write_text("\n\n".join(filter(None, tables)) + "\n", encoding="utf-8")


def check_expected_results(results: EvaluationResults, expected: ExpectedResults, sigma_tolerance: float) -> bool:
    """Compare with TEST.EXPECTED_RESULTS: log PASS or FAIL for each, and keep the failures in `results`.

    An entry passes if the metric is within `sigma_tolerance` standard deviations of the mean.

    Returns: whether all passed.
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


def check_expected_entries(entries: Sequence[Any], may_be_own: bool) -> None:
    """Check the entries of TEST.EXPECTED_RESULTS.

    Args:
        may_be_own: whether an unknown task may belong to an evaluator of the user.
    Raises: ConfigError.
    """
    for entry in entries:
        try:
            task, metric, (mean, deviation) = entry
            float(mean), float(deviation)
        except (TypeError, ValueError):
            config_problem(
                f"an entry of TEST.EXPECTED_RESULTS is {entry!r}; expected [task, metric, [mean, standard deviation]], "
                "such as ['bbox', 'AP', [0.37, 0.002]]."
            )
            continue
        kind, _, is_coarse = _split(task)
        plain = f"{kind}{_COARSE}" if is_coarse else kind
        if metric not in TASK_METRICS.get(plain, ()) and not (may_be_own and plain not in TASK_METRICS):
            known = "; ".join(f"{name}: {', '.join(metrics)}" for name, metrics in TASK_METRICS.items())
            config_problem(f"TEST.EXPECTED_RESULTS names {task!r} {metric!r}; the known metrics are {known}.")


def _split(task: str) -> tuple[str, str, bool]:
    """The task of a plain mask or of anything else, the name of the mask ("" for none), whether it is coarse."""
    final = task.removesuffix(_COARSE)
    for kind in _OF_MASKS:
        if final.startswith(f"{kind}_"):
            return kind, final.removeprefix(f"{kind}_"), final != task
    return final, "", final != task


def _ordered_tasks(tasks: Collection[str]) -> list[str]:
    """In the order of `TASK_METRICS`, those of named masks after the plain one's, then tasks that it does not have."""
    kinds = list(TASK_METRICS)
    masks = list(dict.fromkeys(["", *(_split(task)[1] for task in tasks)]))

    def place(task: str) -> tuple[int, int, bool]:
        kind, mask, is_coarse = _split(task)
        return kinds.index(kind) if kind in kinds else len(kinds), masks.index(mask), not is_coarse

    return sorted(tasks, key=place)


def _ordered(names: Collection[str], order: Collection[str]) -> list[str]:
    """The names in this order, then those that the order does not have."""
    return [name for name in order if name in names] + [name for name in names if name not in order]


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

"""Coarse masks and keypoints beside refined ones and ground truth, sorted by what refinement changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation.coco.tasks import COARSE, task_of
from maskrcnn_benchmark.drawing.marks import BETTER, FALSE_POSITIVE, IGNORED, MISS, SAME, WORSE, Mark

from .files import ReportError
from .matching import ImageMatches, ground_truth_of, match_dataset, partner_overlaps, sigma_array
from .overlaps import comparable_tasks, mask_of, measure_of
from .page import Card, Kind, table
from .results_files import Results, read_results
from .results_report import BEST, WORST, Options, ReportedImage, write_results_report

KINDS = {
    BETTER: Kind("better", "▲"),
    SAME: Kind("same", "="),
    WORSE: Kind("worse", "▼"),
    FALSE_POSITIVE: Kind("wrong", "✗"),
    MISS: Kind("missed", "?"),
}
NOTICEABLE = 0.01  # smaller changes of IoU or OKS count as "same"


@dataclass(frozen=True)
class Refinement:
    """How refinement changed the D detections of an image.

    Attributes:
        coarse: (D,) overlap (IoU or OKS) of each detection with its annotation before refinement; nan if it has none.
        refined: (D,) the same after refinement.
    """

    coarse: NDArray[np.float64]
    refined: NDArray[np.float64]

    @property
    def change(self) -> NDArray[np.float64]:
        return self.refined - self.coarse

    def comparable(self, matches: ImageMatches, score_threshold: float) -> NDArray[np.bool_]:
        """(D,) True for detections that score at least `score_threshold` and have an overlap."""
        return (matches.scores >= score_threshold) & np.isfinite(self.change)


def report_refinement(
    dataset: DetectionDataset,
    results_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    sigmas: Sequence[float] = (),
) -> Path:
    """Write the report of what refinement changed; detections are matched to annotations by their boxes.

    Args:
        options: `task` is "segm", "segm_<name>" or "keypoints", or "" for the first of these that was refined.
    Other arguments, result and errors: as for `report_predictions`.
    """
    options = options or Options()
    results = _read(results_folder, options.task)
    refined_tasks = _refined_tasks(results)
    task = options.task or refined_tasks[0]
    compared = "bbox" if "bbox" in results.entries else task
    matches = match_dataset(dataset, results, compared, options.overlap, min_score=options.lowest_score, sigmas=sigmas)
    refinements = {name: _compare(dataset, results, matches, name, sigmas) for name in refined_tasks}
    changes = [
        _mean(refinement.change[refinement.comparable(found, options.score_threshold)])
        for refinement, found in zip(refinements[task], matches, strict=True)
    ]
    measure = measure_of(task)
    direction = "lost" if options.order == WORST else "gained"

    def lead(shown: int) -> list[str]:
        return [
            f"{results.folder}: {shown} of {len(dataset)} images; those whose {measure.results} {direction} most come "
            f"first. The change is the {measure.name} after minus before refinement; changes "
            f"below {NOTICEABLE:g} count as none.",
            "Ground truth, then the same detections before and after refinement. A detection is compared with the "
            f"annotation that its {'box' if compared == 'bbox' else 'refined result'} matches with an overlap of at "
            f"least {options.overlap:g}.",
        ]

    def make_card(index: int) -> Card:
        image = ReportedImage(dataset, index, results, matches[index], options.mask or mask_of(task) or None)
        return _card(image, refinements[task][index], dataset.categories, measure.name, options.score_threshold)

    return write_results_report(
        output,
        "Refinement",
        dataset,
        rank(changes, options.order),
        make_card,
        options,
        kinds=KINDS,
        order_titles={WORST: "lost most first", BEST: "gained most first"},
        lead=lead,
        tables=[_summary(matches, refinements, options.score_threshold)],
        measure="change",
    )


def rank(changes: Sequence[float | None], order: str) -> list[int]:
    """Positions of the images sorted by mean change; images without a comparable detection (None) are left out."""
    known = [(change, position) for position, change in enumerate(changes) if change is not None]
    return [position for _, position in sorted(known, key=lambda pair: pair[0], reverse=order == BEST)]


def kind_of_change(change: float) -> str:
    """The kind of a detection by its change of overlap; FALSE_POSITIVE for nan, a detection without an annotation."""
    if np.isnan(change):
        return FALSE_POSITIVE
    return SAME if abs(change) < NOTICEABLE else BETTER if change > 0 else WORSE


def _read(folder: str | os.PathLike[str], task: str) -> Results:
    """The result files; of the task, or of any task if it is "", both coarse and refined ones."""
    if task:
        if len(task_of(task).stages) < 2:
            raise ReportError(f"--task is {task}, but refinement changes only masks and keypoints")
        return read_results(folder, (task, task + COARSE))
    results = read_results(folder)
    if _refined_tasks(results):
        return results
    return read_results(folder, ("segm" + COARSE,))  # raises: says what is missing and what writes it


def _refined_tasks(results: Results) -> list[str]:
    return [task for task in comparable_tasks(results.entries) if task + COARSE in results.entries]


def _compare(
    dataset: DetectionDataset, results: Results, matches: Sequence[ImageMatches], task: str, sigmas: Sequence[float]
) -> list[Refinement]:
    """One Refinement per image, in the order of `matches`."""
    ground_truth = ground_truth_of(dataset, [found.image_id for found in matches], task, sigmas)
    coarse, refined = (
        [partner_overlaps(found, results, name, ground_truth, sigma_array(dataset, sigmas)) for found in matches]
        for name in (task + COARSE, task)
    )
    return [Refinement(*overlaps) for overlaps in zip(coarse, refined, strict=True)]


def _card(
    image: ReportedImage, refinement: Refinement, names: Mapping[Any, str], measure: str, score_threshold: float
) -> Card:
    matches = image.matches
    changes = refinement.change[refinement.comparable(matches, score_threshold)]
    mean = _mean(changes) or 0.0
    found = matches.found_scores()
    kinds = dict(zip(matches.partners.tolist(), map(kind_of_change, refinement.change.tolist()), strict=True))

    def truth_mark(name: str, position: int) -> Mark:
        kind = kinds.get(position, MISS)
        # Found, but there is no overlap: the annotation has no mask, or no labelled keypoints.
        kind = IGNORED if kind == FALSE_POSITIVE else kind
        return Mark(kind, name, name, found=float(found[position]))

    panels = [image.panel("ground truth", image.truth, image.truth_marks(truth_mark))]
    for title, overlaps, suffix in (("coarse", refinement.coarse, COARSE), ("refined", refinement.refined, "")):
        marks = _detection_marks(matches, refinement, overlaps, names, measure, is_refined=not suffix)
        boxes = image.detections(suffix)
        panels.append(image.panel(f"{title}, {measure} with ground truth", boxes, marks[::-1]))
    instances = f"{len(changes)} {'instance' if len(changes) == 1 else 'instances'}"
    return image.card(f"mean change {signed(mean)} over {instances}", panels)


def signed(value: float, digits: int = 3) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def _mean(changes: NDArray[np.float64]) -> float | None:
    return float(changes.mean()) if len(changes) else None


def _detection_marks(
    matches: ImageMatches,
    refinement: Refinement,
    overlaps: NDArray[np.float64],
    names: Mapping[Any, str],
    measure: str,
    is_refined: bool,
) -> list[Mark]:
    """Marks of the coarse or of the refined detections; only the refined ones show the change."""
    marks = []
    for position, (category, score) in enumerate(
        zip(matches.category_ids.tolist(), matches.scores.tolist(), strict=True)
    ):
        name, change, overlap = names[category], float(refinement.change[position]), float(overlaps[position])
        if np.isnan(change):
            kind = FALSE_POSITIVE if matches.partners[position] < 0 else IGNORED
            marks.append(Mark(kind, name, f"{name} {score:.2f}", f"{name} {score:.3f}: nothing to compare", score))
            continue
        text = f"{overlap:.2f}" + (f" ({signed(change, 2)})" if is_refined else "")
        details = f"{name} {score:.3f}: {measure} {overlap:.3f}, change {signed(change)}"
        kind = kind_of_change(change)
        marks.append(Mark(kind, name, text, details, score, change=change if is_refined else None))
    return marks


def _summary(
    matches: Sequence[ImageMatches], refinements: Mapping[str, Sequence[Refinement]], score_threshold: float
) -> str:
    rows = []
    for task, of_images in refinements.items():
        chosen = [
            (refinement, refinement.comparable(found, score_threshold))
            for refinement, found in zip(of_images, matches, strict=True)
        ]
        coarse = np.concatenate([refinement.coarse[mask] for refinement, mask in chosen])
        refined = np.concatenate([refinement.refined[mask] for refinement, mask in chosen])
        measure = measure_of(task)
        title = f"{measure.results} ({', '.join(filter(None, [mask_of(task), measure.name]))})"
        if not len(coarse):
            rows.append([title, "0", *["-"] * 6])
            continue
        kinds = [kind_of_change(change) for change in (refined - coarse).tolist()]
        shares = [f"{kinds.count(kind) / len(kinds):.0%}" for kind in (BETTER, SAME, WORSE)]
        means = [f"{coarse.mean():.3f}", f"{refined.mean():.3f}", signed(float((refined - coarse).mean()))]
        rows.append([title, str(len(coarse)), *means, *shares])
    header = ["", "compared", "coarse, mean", "refined, mean", "change", "better", "same", "worse"]
    return table(f"All {len(matches)} images, scores from {score_threshold:g}", header, rows)

"""Predictions beside ground truth; the images with the lowest or the highest F1 come first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.drawing.marks import FALSE_POSITIVE, MISS, TRUE_POSITIVE, Mark

from .matching import Counts, ImageMatches, match_dataset
from .overlaps import comparable_tasks, mask_of, measure_of
from .page import Card, Kind, table
from .results_files import read_results
from .results_report import BEST, WORST, Options, ReportedImage, write_results_report

KINDS = {
    TRUE_POSITIVE: Kind("found", "✓"),
    FALSE_POSITIVE: Kind("wrong", "✗"),
    MISS: Kind("missed", "?"),
}


def report_predictions(
    dataset: DetectionDataset,
    results_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    sigmas: Sequence[float] = (),
) -> Path:
    """Write the report of a test's results.

    Args:
        dataset: the data set that was tested, with COCO annotations.
        results_folder: folder of the result files, OUTPUT_DIR/inference/<dataset>.
        sigmas: TEST.KEYPOINT_OKS_SIGMAS of the test.
    Returns: the page. Raises: FileNotFoundError, ReportError, OSError.
    """
    options = options or Options()
    results = read_results(results_folder, (options.task,) if options.task else ())
    task = options.task or comparable_tasks(results.entries)[0]
    matches = match_dataset(dataset, results, task, options.overlap, min_score=options.lowest_score, sigmas=sigmas)
    counts = [matches_per_image.counts(options.score_threshold) for matches_per_image in matches]
    names = dict(dataset.categories)
    measure, mask = measure_of(task), options.mask or mask_of(task) or None

    def lead(shown: int) -> list[str]:
        return [
            f"{results.folder}: {shown} of {len(dataset)} images, sorted by the F1 of {measure.results}, "
            f"{options.order} first. A detection finds an annotation if their {measure.name} is at least "
            f"{options.overlap:g}.",
            "Left: ground truth, right: predictions. The score slider decides what counts as found, wrong or missed; "
            f"detections below {options.lowest_score:g} are not in this page.",
        ]

    return write_results_report(
        output,
        "Predictions",
        dataset,
        rank(counts, options.order),
        lambda index: _card(ReportedImage(dataset, index, results, matches[index], mask), counts[index], names),
        options,
        kinds=KINDS,
        order_titles={WORST: "worst first", BEST: "best first"},
        lead=lead,
        tables=[_class_table(matches, names, options.score_threshold)],
        measure="f1",
    )


def rank(counts: Sequence[Counts], order: str) -> list[int]:
    """Positions of the images sorted by F1; ties by most errors (worst first) or most found (best first)."""
    keys: dict[str, Callable[[int], tuple[float, int]]] = {
        WORST: lambda i: (counts[i].f1, -(counts[i].fp + counts[i].miss)),
        BEST: lambda i: (-counts[i].f1, -counts[i].tp),
    }
    return sorted(range(len(counts)), key=keys[order])


def _card(image: ReportedImage, counts: Counts, names: Mapping[Any, str]) -> Card:
    found = image.matches.found_scores()

    def truth_mark(name: str, position: int) -> Mark:
        score = float(found[position])
        details = f"{name}: found with score {score:.2f}" if np.isfinite(score) else f"{name}: missed at any score"
        return Mark(TRUE_POSITIVE, name, name, details, found=score)

    return image.card(
        f"F1 {counts.f1:.2f}: {counts.tp} found, {counts.fp} wrong, {counts.miss} missed",
        [
            image.panel("ground truth", image.truth, image.truth_marks(truth_mark)),
            image.panel("prediction", image.detections(), _detection_marks(image.matches, names)[::-1]),
        ],
    )


def _detection_marks(matches: ImageMatches, names: Mapping[Any, str]) -> list[Mark]:
    marks = []
    for kind, category, score, overlap in zip(
        matches.kinds(), matches.category_ids.tolist(), matches.scores.tolist(), matches.overlaps.tolist(), strict=True
    ):
        name = names[category]
        details = f"{name} {score:.3f}: " + (
            "matches no annotation, or one that is already found"
            if kind == FALSE_POSITIVE
            else f"overlap {overlap:.2f}"
        )
        marks.append(Mark(kind, name, f"{name} {score:.2f}", details, score=score))
    return marks


def _class_table(matches: Sequence[ImageMatches], names: Mapping[Any, str], score_threshold: float) -> str:
    """Counts of each class over all images; classes with neither annotations nor detections are left out."""
    sums: dict[int, Counts] = {}
    for matches_per_image in matches:
        for category, counts in matches_per_image.counts_by_category(score_threshold).items():
            sums[category] = sums.get(category, Counts(0, 0, 0)).plus(counts)
    rows = []
    for category in (category for category in names if category in sums):
        counts = sums[category]
        shares = ("-" if share is None else f"{share:.3f}" for share in (counts.precision, counts.recall))
        rows.append([names[category], *map(str, counts), *shares, f"{counts.f1:.3f}"])
    header = ["class", "found", "wrong", "missed", "precision", "recall", "F1"]
    return table(f"All {len(matches)} images, scores of at least {score_threshold:g}", header, rows)

"""Predictions beside ground truth, the images with the worst or the best of them first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.drawing import draw_panels
from maskrcnn_benchmark.drawing.marks import FALSE_POSITIVE, IGNORED, MISS, TRUE_POSITIVE, Mark, Panel
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .files import ReportFolder
from .instances import annotation_places, detected_boxes, image_title
from .matching import Counts, ImageMatches, match_dataset
from .page import DATASET_ORDER, Card, Filters, Kind, card_html, page_html, table
from .results_files import Results, read_results

TASKS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
KINDS = {
    TRUE_POSITIVE: Kind("found", "✓"),
    FALSE_POSITIVE: Kind("wrong", "✗"),
    MISS: Kind("missed", "?"),
}
WORST, BEST = "worst", "best"


@dataclass(frozen=True)
class Options:
    """What a report of predictions shows.

    task: what is compared, "bbox", "segm" or "keypoints"; "" takes the first of them that there are results of.
    overlap: least IoU, or OKS for keypoints, of a detection with what it finds.
    score_threshold: detections below it do not count, where the page's slider starts; in steps of 0.01.
    lowest_score: detections below it are not in the page at all.
    order: WORST or BEST images first. count: images to show. thumbnail: longest side of images in the page, in pixels.
    """

    task: str = ""
    overlap: float = 0.5
    score_threshold: float = 0.5
    lowest_score: float = 0.05
    order: str = WORST
    count: int = 40
    thumbnail: int = 640


def report_predictions(
    dataset: Any,
    results_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    sigmas: Sequence[float] = (),
) -> Path:
    """Write the report of a test's results.

    Args:
        dataset: what was tested, as a COCODataset.
        sigmas: TEST.KEYPOINT_OKS_SIGMAS, for other keypoints than COCO's.
    Returns: the page. Raises: FileNotFoundError, ReportError, OSError.
    """
    options = options or Options()
    results = read_results(results_folder, (options.task,) if options.task else ())
    task = options.task or next(name for name in TASKS if name in results.entries)
    matches = match_dataset(dataset, results, task, options.overlap, min_score=options.lowest_score, sigmas=sigmas)
    counts = [matches_per_image.counts(options.score_threshold) for matches_per_image in matches]
    folder = ReportFolder(output)
    names = dict(dataset.categories)
    filters = Filters(
        kinds=KINDS,
        categories=list(names.values()) if len(names) > 1 else (),
        score=options.score_threshold,
        lowest=min(options.lowest_score, options.score_threshold),
        orders=_orders(options.order),
    )
    cards: list[str] = []
    for index in rank(counts, options.order)[: options.count]:
        card = _card(dataset, index, results, matches[index], counts[index], names)
        picture = draw_panels(card.image, card.panels, options.score_threshold)
        folder.save_picture(picture, dataset.get_img_info(index)["id"])
        cards.append(card_html(card, len(cards), filters, options.thumbnail))
    measure = "OKS" if task == "keypoints" else "IoU"
    lead = [
        f"{results.folder}: {len(cards)} of {len(dataset)} images, the {options.order} first by F1 of {TASKS[task]}. "
        f"A detection finds an annotation that it overlaps by {options.overlap:g} {measure} or more.",
        "Left ground truth, right predictions. The slider of scores decides anew what is found, wrong and missed; "
        f"detections below {options.lowest_score:g} are not in this page.",
    ]
    tables = [_class_table(matches, names, options.score_threshold)]
    page = page_html("Predictions", lead, cards, tables=tables, filters=filters, measure="f1")
    return folder.write_page(page)


def rank(counts: Sequence[Counts], order: str) -> list[int]:
    """Positions of images by F1; of equals those with more errors (or, best first, with more found) come first."""
    if order not in (WORST, BEST):
        raise ValueError(f"order is {order!r}; it can be {WORST!r} or {BEST!r}")
    keys: dict[str, Callable[[int], tuple[float, int]]] = {
        WORST: lambda i: (counts[i].f1, -(counts[i].fp + counts[i].miss)),
        BEST: lambda i: (-counts[i].f1, -counts[i].tp),
    }
    return sorted(range(len(counts)), key=keys[order])


def _card(
    dataset: Any, index: int, results: Results, matches: ImageMatches, counts: Counts, names: Mapping[int, str]
) -> Card:
    truth = dataset.get_groundtruth(index)
    size_wh = (int(truth.size[0]), int(truth.size[1]))
    panels = [
        Panel("ground truth", truth, _truth_marks(truth, matches, dataset.class_names), size_wh),
        Panel(
            "prediction",
            detected_boxes(dataset, index, results, matches, truth),
            _detection_marks(matches, names)[::-1],
            size_wh,
        ),
    ]
    return Card(
        title=image_title(dataset, index),
        measure=f"F1 {counts.f1:.2f}: {counts.tp} found, {counts.fp} wrong, {counts.miss} missed",
        image=np.asarray(dataset.read_image(index)),
        panels=panels,
        index=index,
    )


def _truth_marks(truth: BoxList, matches: ImageMatches, class_names: Sequence[str]) -> list[Mark]:
    found = matches.found_scores()
    marks = []
    for label, place in zip(truth.get_field(fields.LABELS).tolist(), annotation_places(truth, matches), strict=True):
        name = class_names[label]
        if place < 0 or matches.ignored[place]:
            marks.append(Mark(IGNORED, name, name, f"{name}: takes no part in the comparison"))
            continue
        score = float(found[place])
        details = f"{name}: found with score {score:.2f}" if np.isfinite(score) else f"{name}: missed at any score"
        marks.append(Mark(TRUE_POSITIVE, name, name, details, found=score))
    return marks


def _detection_marks(matches: ImageMatches, names: Mapping[int, str]) -> list[Mark]:
    marks = []
    for kind, category, score, overlap in zip(
        matches.kinds(), matches.category_ids.tolist(), matches.scores.tolist(), matches.overlaps.tolist(), strict=True
    ):
        name = names[category]
        details = f"{name} {score:.3f}: " + (
            "nothing there to find, or found already" if kind == FALSE_POSITIVE else f"overlap {overlap:.2f}"
        )
        marks.append(Mark(kind, name, f"{name} {score:.2f}", details, score=score))
    return marks


def _orders(first: str) -> dict[str, str]:
    titles = {WORST: ("measure:asc", "worst first"), BEST: ("measure:desc", "best first")}
    orders = dict(titles[name] for name in sorted(titles, key=lambda name: name != first))
    return {**orders, DATASET_ORDER: "as in the dataset"}


def _class_table(matches: Sequence[ImageMatches], names: Mapping[int, str], score_threshold: float) -> str:
    """Counts of each class over all images; classes of which there is nothing are left out."""
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
    return table(f"All {len(matches)} images, scores from {score_threshold:g}", header, rows)

"""Coarse masks and keypoints beside refined ones and ground truth, the images that lost or gained most first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.drawing import draw_panels
from maskrcnn_benchmark.drawing.marks import BETTER, FALSE_POSITIVE, IGNORED, MISS, SAME, WORSE, Mark, Panel
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .files import ReportError, ReportFolder
from .instances import annotation_places, detected_boxes, image_title
from .matching import ImageMatches, ground_truth_of, match_dataset, partner_overlaps
from .page import DATASET_ORDER, Card, Filters, Kind, card_html, page_html, table
from .predictions_report import BEST, WORST, Options
from .results_files import Results, read_results

TASKS = {"segm": ("masks", "IoU"), "keypoints": ("keypoints", "OKS")}
KINDS = {
    BETTER: Kind("better", "▲"),
    SAME: Kind("same", "="),
    WORSE: Kind("worse", "▼"),
    FALSE_POSITIVE: Kind("wrong", "✗"),
    MISS: Kind("missed", "?"),
}
NOTICEABLE = 0.01  # a change of IoU or OKS that is smaller is none


@dataclass(frozen=True)
class Refinement:
    """Overlap (IoU or OKS) of each detection of an image with what it found, before and after; nan where there is
    nothing to compare with."""

    coarse: NDArray[np.float64]
    refined: NDArray[np.float64]

    @property
    def change(self) -> NDArray[np.float64]:
        return self.refined - self.coarse

    def mean_change(self, chosen: NDArray[np.bool_]) -> float | None:
        """Over the chosen detections; None where none can be compared."""
        change = self.change[chosen & np.isfinite(self.change)]
        return float(change.mean()) if len(change) else None


def report_refinement(
    dataset: Any,
    results_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    sigmas: Sequence[float] = (),
) -> Path:
    """Write the report of what refinement changed; detections are matched to annotations by their boxes.

    Args:
        options: `task` is "segm" or "keypoints", or "" for the first of them that was refined.
    Other arguments, result and errors as of `report_predictions`.
    """
    options = options or Options()
    results = _read(results_folder, options.task)
    refined_tasks = [task for task in TASKS if {task, f"{task}_coarse"} <= results.entries.keys()]
    task = options.task or refined_tasks[0]
    compared = "bbox" if "bbox" in results.entries else task
    matches = match_dataset(dataset, results, compared, options.overlap, min_score=options.lowest_score, sigmas=sigmas)
    refinements = {name: _compare(dataset, results, matches, name, sigmas) for name in refined_tasks}
    names = dict(dataset.categories)
    filters = Filters(
        kinds=KINDS,
        categories=list(names.values()) if len(names) > 1 else (),
        score=options.score_threshold,
        lowest=min(options.lowest_score, options.score_threshold),
        orders=_orders(options.order),
    )
    folder = ReportFolder(output)
    changes = [
        refinement.mean_change(found.scores >= options.score_threshold)
        for refinement, found in zip(refinements[task], matches, strict=True)
    ]
    cards: list[str] = []
    for index in rank(changes, options.order)[: options.count]:
        card = _card(dataset, index, results, matches[index], refinements[task][index], task, options)
        picture = draw_panels(card.image, card.panels, options.score_threshold)
        folder.save_picture(picture, dataset.get_img_info(index)["id"])
        cards.append(card_html(card, len(cards), filters, options.thumbnail))
    what, measure = TASKS[task]
    lead = [
        f"{results.folder}: {len(cards)} of {len(dataset)} images, those whose {what} "
        f"{'lost' if options.order == WORST else 'gained'} most first. The change is that of {measure}, refined less "
        f"coarse; below {NOTICEABLE:g} it counts as none.",
        "Ground truth, then the same detections before and after refinement. A detection is compared with the "
        f"annotation that its {'box' if compared == 'bbox' else 'refined result'} finds, with an overlap from "
        f"{options.overlap:g}.",
    ]
    tables = [_summary(matches, refinements, options.score_threshold)]
    return folder.write_page(page_html("Refinement", lead, cards, tables=tables, filters=filters, measure="change"))


def rank(changes: Sequence[float | None], order: str) -> list[int]:
    """Positions of the images in which something can be compared, by mean change."""
    if order not in (WORST, BEST):
        raise ValueError(f"order is {order!r}; it can be {WORST!r} or {BEST!r}")
    known = [(change, position) for position, change in enumerate(changes) if change is not None]
    return [position for _, position in sorted(known, key=lambda pair: pair[0], reverse=order == BEST)]


def kind_of_change(change: float) -> str:
    """nan, for a detection that found nothing, is FALSE_POSITIVE."""
    if np.isnan(change):
        return FALSE_POSITIVE
    return SAME if abs(change) < NOTICEABLE else BETTER if change > 0 else WORSE


def _read(folder: str | os.PathLike[str], task: str) -> Results:
    if task:
        if task not in TASKS:
            raise ReportError(f"refinement changes {' or '.join(TASKS)}, not {task}: choose one of them as --task")
        return read_results(folder, (task, f"{task}_coarse"))
    results = read_results(folder)
    if any({name, f"{name}_coarse"} <= results.entries.keys() for name in TASKS):
        return results
    return read_results(folder, ("segm_coarse",))  # which says what is missing and what writes it


def _compare(
    dataset: Any, results: Results, matches: Sequence[ImageMatches], task: str, sigmas: Sequence[float]
) -> list[Refinement]:
    """For every image, in the order of `matches`."""
    image_ids = [matches_per_image.image_id for matches_per_image in matches]
    ground_truth = ground_truth_of(dataset, image_ids, task, sigmas)
    return [
        Refinement(*(partner_overlaps(found, results, name, ground_truth, sigmas) for name in (f"{task}_coarse", task)))
        for found in matches
    ]


def _card(
    dataset: Any,
    index: int,
    results: Results,
    matches: ImageMatches,
    refinement: Refinement,
    task: str,
    options: Options,
) -> Card:
    truth = dataset.get_groundtruth(index)
    size_wh = (int(truth.size[0]), int(truth.size[1]))
    names, measure = dict(dataset.categories), TASKS[task][1]
    chosen = matches.scores >= options.score_threshold
    count = int((chosen & np.isfinite(refinement.change)).sum())
    mean = refinement.mean_change(chosen) or 0.0
    panels = [Panel("ground truth", truth, _truth_marks(truth, matches, refinement, dataset.class_names), size_wh)]
    for title, overlaps, suffix in (("coarse", refinement.coarse, "_coarse"), ("refined", refinement.refined, "")):
        marks = _detection_marks(matches, refinement, overlaps, names, measure, final=not suffix)
        boxes = detected_boxes(dataset, index, results, matches, truth, suffix)
        panels.append(Panel(f"{title}, {measure} with ground truth", boxes, marks[::-1], size_wh))
    return Card(
        title=image_title(dataset, index),
        measure=f"mean change {signed(mean)} over {count} {'instance' if count == 1 else 'instances'}",
        image=np.asarray(dataset.read_image(index)),
        panels=panels,
        index=index,
    )


def signed(value: float, digits: int = 3) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def _truth_marks(
    truth: BoxList, matches: ImageMatches, refinement: Refinement, class_names: Sequence[str]
) -> list[Mark]:
    found = matches.found_scores()
    kinds = dict(zip(matches.partners.tolist(), map(kind_of_change, refinement.change.tolist()), strict=True))
    marks = []
    for label, place in zip(truth.get_field(fields.LABELS).tolist(), annotation_places(truth, matches), strict=True):
        name = class_names[label]
        if place < 0 or matches.ignored[place]:
            marks.append(Mark(IGNORED, name, name, f"{name}: takes no part in the comparison"))
            continue
        kind = kinds.get(place, MISS)
        # Found, but without anything to compare: an annotation without a mask, or without labelled keypoints.
        kind = IGNORED if kind == FALSE_POSITIVE else kind
        marks.append(Mark(kind, name, name, found=float(found[place])))
    return marks


def _detection_marks(
    matches: ImageMatches,
    refinement: Refinement,
    overlaps: NDArray[np.float64],
    names: Mapping[int, str],
    measure: str,
    final: bool,
) -> list[Mark]:
    """`final`: of the refined detections, which are those that carry the change."""
    marks = []
    for position, (category, score) in enumerate(
        zip(matches.category_ids.tolist(), matches.scores.tolist(), strict=True)
    ):
        name, change, overlap = names[category], float(refinement.change[position]), float(overlaps[position])
        if np.isnan(change):
            kind = FALSE_POSITIVE if matches.partners[position] < 0 else IGNORED
            marks.append(Mark(kind, name, f"{name} {score:.2f}", f"{name} {score:.3f}: nothing to compare", score))
            continue
        text = f"{overlap:.2f}" + (f" ({signed(change, 2)})" if final else "")
        details = f"{name} {score:.3f}: {measure} {overlap:.3f}, change {signed(change)}"
        marks.append(Mark(kind_of_change(change), name, text, details, score, change=change if final else None))
    return marks


def _orders(first: str) -> dict[str, str]:
    titles = {WORST: ("measure:asc", "lost most first"), BEST: ("measure:desc", "gained most first")}
    orders = dict(titles[name] for name in sorted(titles, key=lambda name: name != first))
    return {**orders, DATASET_ORDER: "as in the dataset"}


def _summary(
    matches: Sequence[ImageMatches], refinements: Mapping[str, Sequence[Refinement]], score_threshold: float
) -> str:
    rows = []
    for task, of_images in refinements.items():
        pairs = [
            (refinement.coarse[chosen], refinement.refined[chosen])
            for refinement, found in zip(of_images, matches, strict=True)
            for chosen in [(found.scores >= score_threshold) & np.isfinite(refinement.change)]
        ]
        coarse, refined = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        what, measure = TASKS[task]
        if not len(coarse):
            rows.append([f"{what} ({measure})", "0", *["-"] * 6])
            continue
        kinds = [kind_of_change(change) for change in (refined - coarse).tolist()]
        shares = [f"{kinds.count(kind) / len(kinds):.0%}" for kind in (BETTER, SAME, WORSE)]
        means = [f"{coarse.mean():.3f}", f"{refined.mean():.3f}", signed(float((refined - coarse).mean()))]
        rows.append([f"{what} ({measure})", str(len(coarse)), *means, *shares])
    header = ["", "compared", "coarse, mean", "refined, mean", "change", "better", "same", "worse"]
    return table(f"All {len(matches)} images, scores from {score_threshold:g}", header, rows)

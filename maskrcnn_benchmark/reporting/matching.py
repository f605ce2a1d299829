"""Match detections to annotations by COCO's rule at one threshold, for every image of a data set."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation import EvaluationSettings
from maskrcnn_benchmark.data.evaluation.coco.from_groundtruth import annotations_of
from maskrcnn_benchmark.data.evaluation.coco.tasks import task_of
from maskrcnn_benchmark.data.evaluation.oks_sigmas import oks_sigmas
from maskrcnn_benchmark.drawing.marks import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE

from .files import ReportError
from .overlaps import Sigmas, mask_of, measure_of
from .results_files import Results


class Counts(NamedTuple):
    """Numbers of true positives, false positives and missed annotations."""

    tp: int
    fp: int
    miss: int

    def plus(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.miss + other.miss)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 if there are neither annotations nor detections."""
        total = 2 * self.tp + self.fp + self.miss
        return 2 * self.tp / total if total else 1.0

    @property
    def precision(self) -> float | None:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        return self.tp / (self.tp + self.miss) if self.tp + self.miss else None


def total_counts(counts: Iterable[Counts]) -> Counts:
    return functools.reduce(Counts.plus, counts, Counts(0, 0, 0))


@dataclass(frozen=True)
class ImageMatches:
    """How D detections of an image, best score first, were matched to its G annotations.

    Attributes:
        image_id: id of the image in the annotation file.
        rows: (D,) index of each detection in its result file.
        scores: (D,) scores in that file.
        category_ids: (D,) category ids in that file.
        partners: (D,) index of the matched annotation, -1 for none.
        overlaps: (D,) IoU or OKS with the matched annotation, 0 for none.
        annotation_ids: (G,) ids in the annotation file.
        annotation_category_ids: (G,) category ids in the annotation file.
        ignored: (G,) True for annotations whose matches do not count: crowds, in the keypoint task people without
            labelled keypoints, and in the task of a mask objects without it.
    """

    image_id: Any
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    category_ids: NDArray[np.int64]
    partners: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    annotation_ids: NDArray[np.int64]
    annotation_category_ids: NDArray[np.int64]
    ignored: NDArray[np.bool_]

    def kinds(self) -> list[str]:
        """TRUE_POSITIVE, FALSE_POSITIVE or IGNORED for each detection."""
        return [
            FALSE_POSITIVE if partner < 0 else IGNORED if self.ignored[partner] else TRUE_POSITIVE
            for partner in self.partners.tolist()
        ]

    def found_scores(self) -> NDArray[np.float64]:
        """(G,) score of the detection that found each annotation, -inf for none.

        Detections are matched in order of their scores, so leaving out those with low scores does not change the other
        matches. At a score threshold, the annotations with a score below it are missed.
        """
        found = np.full(len(self.annotation_ids), -np.inf)
        matched = self.partners >= 0
        np.maximum.at(found, self.partners[matched], self.scores[matched])
        return found

    def counts(self, score_threshold: float) -> Counts:
        """Counts of the detections that score at least `score_threshold`."""
        return total_counts(self.counts_by_category(score_threshold).values())

    def counts_by_category(self, score_threshold: float) -> dict[int, Counts]:
        """Counts by category id, for categories with annotations or detections that count."""
        columns: dict[int, list[int]] = {}
        places = {TRUE_POSITIVE: 0, FALSE_POSITIVE: 1}
        for kind, category, score in zip(self.kinds(), self.category_ids.tolist(), self.scores.tolist(), strict=True):
            if kind != IGNORED and score >= score_threshold:
                columns.setdefault(category, [0, 0, 0])[places[kind]] += 1
        missed = ~self.ignored & ~(self.found_scores() >= score_threshold)
        for category in self.annotation_category_ids[missed].tolist():
            columns.setdefault(category, [0, 0, 0])[2] += 1
        return {category: Counts(*numbers) for category, numbers in columns.items()}


def match_dataset(
    dataset: DetectionDataset,
    results: Results,
    name: str,
    threshold: float = 0.5,
    *,
    min_score: float = 0.0,
    sigmas: Sequence[float] = (),
) -> list[ImageMatches]:
    """Match the detections of every image of a data set, in its order.

    Args:
        name: result file to compare, such as "segm" or "segm_coarse".
        threshold: minimum IoU (boxes, masks) or OKS (keypoints) of a match.
        min_score: detections with a lower score are left out.
        sigmas: the sigma of each keypoint for OKS; those of the data set if empty.
    Raises: ReportError if the results do not fit the images or the keypoints, or if the data set has no
        annotations.
    """
    image_ids = [dataset.id_to_img_map[index] for index in range(len(dataset))]
    unknown = sorted(set(results.rows) - set(image_ids), key=str)
    if unknown:
        raise ReportError(
            f"{len(unknown)} of the {len(results.rows)} images in {results.folder} are not in {dataset} "
            f"(image ids {_first_few(unknown)}): --dataset must name the data set that was tested"
        )
    task = task_of(name).name
    falloffs = sigma_array(dataset, sigmas)
    if task == "keypoints" and results.num_keypoints(name) not in (0, len(falloffs)):
        raise ReportError(
            f"{name}.json in {results.folder} has {results.num_keypoints(name)} keypoints, but there are "
            f"{len(falloffs)} sigmas. Give the --config-file of the test, with its TEST.KEYPOINT_OKS_SIGMAS, or the "
            "data set that was tested"
        )
    ground_truth = ground_truth_of(dataset, image_ids, task, sigmas)
    _check_categories(results, ground_truth)
    matches = []
    for image_id in image_ids:
        rows = results.rows_of(image_id, name)
        rows = rows[results.scores[name][rows] >= min_score]
        matches.append(_match_image(image_id, rows, results, name, ground_truth, threshold, falloffs))
    return matches


def ground_truth_of(
    dataset: DetectionDataset, image_ids: Sequence[Any], task: str, sigmas: Sequence[float] = ()
) -> COCO:
    """The annotations that count in the evaluation of a task. Raises: ReportError."""
    of_task, mask = task_of(task), mask_of(task)
    if mask and mask not in dataset.mask_names:
        raise ReportError(
            f"{dataset} has no masks named {mask!r} to compare {task}.json with; its named masks are "
            f"{', '.join(dataset.mask_names) or 'none'}. Give the --config-file of the test, for its DATASETS.MASK_KEYS"
        )
    settings = EvaluationSettings(keypoint_oks_sigmas=tuple(sigma_array(dataset, sigmas)))
    try:
        annotations = of_task.annotations(dataset, annotations_of(dataset))
        return of_task.ground_truth(annotations, image_ids, settings)
    except (TypeError, ValueError) as error:
        raise ReportError(f"{dataset}: {error}") from error


def sigma_array(dataset: DetectionDataset, sigmas: Sequence[float] = ()) -> Sigmas:
    """(K,) as `oks_sigmas`."""
    return np.asarray(oks_sigmas(dataset, sigmas), dtype=np.float64)


def partner_overlaps(
    matches: ImageMatches, results: Results, name: str, ground_truth: COCO, sigmas: Sigmas
) -> NDArray[np.float64]:
    """Compare the results of the same detections in a second file to the annotations that they were matched to.

    Returns: (D,) IoU or OKS; nan for a detection without a match, or if the annotation has no mask or no labelled
        keypoints.

    Args:
        name: the second result file.
    """
    measure = measure_of(name)
    annotations = {annotation["id"]: annotation for annotation in ground_truth.imgToAnns.get(matches.image_id, [])}
    overlaps = np.full(len(matches.rows), np.nan)
    for position, (row, partner) in enumerate(zip(matches.rows.tolist(), matches.partners.tolist(), strict=True)):
        annotation = annotations.get(int(matches.annotation_ids[partner])) if partner >= 0 else None
        if annotation is not None and not measure.is_ignored(annotation):
            value = results.values(name, np.array([row]))
            overlaps[position] = measure.table(value, [annotation], ground_truth, sigmas)[0, 0]
    return overlaps


def match_greedily(
    overlaps: NDArray[np.float64], crowd: NDArray[np.bool_], ignored: NDArray[np.bool_], threshold: float
) -> NDArray[np.int64]:
    """COCO's matching of D detections, best score first, to G annotations.

    Each detection takes the free annotation with the largest overlap of at least `threshold`. It takes an ignored
    annotation only if no other qualifies. A crowd can be taken several times.

    Args:
        overlaps: (D, G).
        crowd, ignored: (G,).
    Returns: (D,) indices of annotations, -1 for none.
    """
    threshold = min(threshold, 1 - 1e-10)
    free = np.ones(overlaps.shape[1], dtype=bool)
    partners = np.full(overlaps.shape[0], -1, dtype=np.int64)
    for detection, row in enumerate(overlaps):
        possible = (free | crowd) & (row >= threshold)
        for candidates in (possible & ~ignored, possible & ignored):
            if candidates.any():
                masked = np.where(candidates, row, -1.0)
                best = len(row) - 1 - int(masked[::-1].argmax())  # the last of equal values, as in pycocotools
                partners[detection] = best
                free[best] = False
                break
    return partners


def _match_image(
    image_id: Any,
    rows: NDArray[np.int64],
    results: Results,
    name: str,
    ground_truth: COCO,
    threshold: float,
    sigmas: Sigmas,
) -> ImageMatches:
    """Match within each category."""
    measure = measure_of(name)
    entries = results.entries[name]
    annotations = ground_truth.imgToAnns.get(image_id, [])
    categories = np.array([entries[row]["category_id"] for row in rows.tolist()], dtype=np.int64)
    truth_categories = np.array([annotation["category_id"] for annotation in annotations], dtype=np.int64)
    crowd = np.array([bool(annotation["iscrowd"]) for annotation in annotations], dtype=bool)
    ignored = np.array([measure.is_ignored(annotation) for annotation in annotations], dtype=bool)
    partners = np.full(len(rows), -1, dtype=np.int64)
    overlaps = np.zeros(len(rows))
    for category in np.intersect1d(categories, truth_categories):
        detected, annotated = np.flatnonzero(categories == category), np.flatnonzero(truth_categories == category)
        values = results.values(name, rows[detected])
        table = measure.table(values, [annotations[i] for i in annotated.tolist()], ground_truth, sigmas)
        chosen = match_greedily(table, crowd[annotated], ignored[annotated], threshold)
        matched = np.flatnonzero(chosen >= 0)
        partners[detected[matched]] = annotated[chosen[matched]]
        overlaps[detected[matched]] = table[matched, chosen[matched]]
    return ImageMatches(
        image_id=image_id,
        rows=rows,
        scores=results.scores[name][rows],
        category_ids=categories,
        partners=partners,
        overlaps=overlaps,
        annotation_ids=np.array([annotation["id"] for annotation in annotations], dtype=np.int64),
        annotation_category_ids=truth_categories,
        ignored=ignored,
    )


def _check_categories(results: Results, ground_truth: COCO) -> None:
    found = {entry["category_id"] for entry in next(iter(results.entries.values()))}
    unknown = sorted(found - set(ground_truth.getCatIds()), key=str)
    if unknown:
        raise ReportError(
            f"the results in {results.folder} have category ids {_first_few(unknown)}, which the annotations do not "
            "have: --dataset must name the data set that was tested"
        )


def _first_few(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")

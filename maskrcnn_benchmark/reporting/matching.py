"""Which detection is which annotation: COCO's rule at one threshold, for every image of a dataset."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.evaluation.coco.ground_truth import build_ground_truth
from maskrcnn_benchmark.drawing.marks import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints

from .files import ReportError
from .results_files import PAYLOADS, Results


class Counts(NamedTuple):
    """Detections that are right and wrong, and annotations that nothing found."""

    tp: int
    fp: int
    miss: int

    def plus(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.miss + other.miss)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing to find and nothing was found."""
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
    """How D detections of an image, best score first, meet its G annotations.

    rows: (D,) numbers of the detections in their result file. scores: (D,). category_ids: (D,).
    partners: (D,) the annotation (0 .. G - 1) that each was matched to, -1 for none.
    overlaps: (D,) IoU or OKS with that annotation, 0 for none.
    annotation_ids, annotation_category_ids: (G,). ignored: (G,) crowds, and people without labelled keypoints when
    keypoints are compared: finding them is neither right nor wrong.
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
        """(G,) score of the detection that each annotation was found with, -inf for none.

        Better detections choose first, so without the detections below some score the others are matched as before:
        at that threshold an annotation is a miss when this is lower.
        """
        found = np.full(len(self.annotation_ids), -np.inf)
        matched = self.partners >= 0
        np.maximum.at(found, self.partners[matched], self.scores[matched])
        return found

    def counts(self, score_threshold: float) -> Counts:
        """Over the detections that score at least this."""
        return total_counts(self.counts_by_category(score_threshold).values())

    def counts_by_category(self, score_threshold: float) -> dict[int, Counts]:
        """The same for each category id of which there is something."""
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
    dataset: Any,
    results: Results,
    name: str,
    threshold: float = 0.5,
    *,
    min_score: float = 0.0,
    sigmas: Sequence[float] = (),
) -> list[ImageMatches]:
    """Match the detections of every image of a dataset, in its order.

    Args:
        dataset: as COCODataset: `coco`, `id_to_img_map`.
        name: result file that is compared, a key of PAYLOADS.
        threshold: least IoU (boxes, masks) or OKS (keypoints) of a match.
        min_score: detections that score lower are left out.
        sigmas: one falloff per keypoint for OKS; none takes COCO's 17.
    Raises: ReportError when the results are of other images or other keypoints.
    """
    image_ids = [dataset.id_to_img_map[index] for index in range(len(dataset))]
    unknown = sorted(set(results.rows) - set(image_ids), key=str)
    if unknown:
        raise ReportError(
            f"{len(unknown)} of the {len(results.rows)} images in {results.folder} are not in {dataset} "
            f"(image ids {_some(unknown)}): --dataset must name what was tested"
        )
    task = name.removesuffix("_coarse")
    falloffs = keypoint_sigmas(sigmas)
    if task == "keypoints" and results.num_keypoints(name) not in (0, len(falloffs)):
        raise ReportError(
            f"{name}.json in {results.folder} has {results.num_keypoints(name)} keypoints, but there are "
            f"{len(falloffs)} sigmas. Give the --config-file of the test, with its TEST.KEYPOINT_OKS_SIGMAS"
        )
    ground_truth = ground_truth_of(dataset, image_ids, task, sigmas)
    _check_categories(results, ground_truth)
    matches = []
    for image_id in image_ids:
        rows = results.rows_of(image_id, name)
        rows = rows[results.scores[name][rows] >= min_score]
        matches.append(_match_image(image_id, rows, results, name, ground_truth, threshold, falloffs))
    return matches


def ground_truth_of(dataset: Any, image_ids: Sequence[Any], task: str, sigmas: Sequence[float] = ()) -> COCO:
    """The annotations that an evaluation of "bbox", "segm" or "keypoints" counts. Raises: ReportError."""
    try:
        return build_ground_truth(dataset.coco, image_ids, task, len(keypoint_sigmas(sigmas)))
    except ValueError as error:
        raise ReportError(f"{dataset}: {error}") from error


def partner_overlaps(
    matches: ImageMatches, results: Results, name: str, ground_truth: COCO, sigmas: Sequence[float] = ()
) -> NDArray[np.float64]:
    """(D,) IoU or OKS of what another file says about the same detections, with the annotations that they were matched
    to; nan for those without a match, or whose partner has nothing of that kind."""
    task = name.removesuffix("_coarse")
    falloffs = keypoint_sigmas(sigmas)
    annotations = {annotation["id"]: annotation for annotation in ground_truth.imgToAnns.get(matches.image_id, [])}
    overlaps = np.full(len(matches.rows), np.nan)
    for position, (row, partner) in enumerate(zip(matches.rows.tolist(), matches.partners.tolist(), strict=True)):
        annotation = annotations.get(int(matches.annotation_ids[partner])) if partner >= 0 else None
        if annotation is None or _is_ignored(annotation, task):
            continue
        payload = results.entries[name][row][PAYLOADS[name]]
        overlaps[position] = similarities(task, [payload], [annotation], ground_truth, falloffs)[0, 0]
    return overlaps


def similarities(
    task: str,
    payloads: Sequence[Any],
    annotations: Sequence[Mapping[str, Any]],
    ground_truth: COCO,
    sigmas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(D, G) of D detections with G annotations: IoU ("bbox", "segm"; with a crowd, the share of the detection inside
    it) or OKS ("keypoints")."""
    if not len(payloads) or not len(annotations):
        return np.zeros((len(payloads), len(annotations)))
    if task == "keypoints":
        points = np.asarray(payloads, dtype=np.float64).reshape(len(payloads), -1, 3)
        return keypoint_similarities(points[..., :2], annotations, sigmas)
    crowd = [int(annotation["iscrowd"]) for annotation in annotations]
    if task == "bbox":
        truth = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64)
        return mask_utils.iou(np.asarray(payloads, dtype=np.float64), truth, crowd)
    return mask_utils.iou(list(payloads), [ground_truth.annToRLE(annotation) for annotation in annotations], crowd)


def keypoint_similarities(
    points: NDArray[np.float64], annotations: Sequence[Mapping[str, Any]], sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """OKS (D, G) of detected points (D, K, 2) with annotations, as COCO defines it.

    The distance of each labelled point, against its falloff and the annotation's area; where none is labelled, how far
    the points lie outside the annotation's box enlarged to three times its size.
    """
    truth = np.asarray([annotation["keypoints"] for annotation in annotations], dtype=np.float64)
    truth = truth.reshape(len(annotations), -1, 3)
    labelled: NDArray[np.bool_] = np.asarray(truth[..., 2] > 0)  # (G, K)
    some = np.asarray(labelled.any(axis=1))
    distance = ((points[:, None] - truth[None, ..., :2]) ** 2).sum(axis=-1)  # (D, G, K)
    x, y, width, height = np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64).T
    low = np.stack([x - width, y - height], axis=-1)[None, :, None]
    high = np.stack([x + 2 * width, y + 2 * height], axis=-1)[None, :, None]
    outside = np.maximum(low - points[:, None], 0) + np.maximum(points[:, None] - high, 0)
    distance = np.where(some[None, :, None], distance, (outside**2).sum(axis=-1))
    area = np.asarray([annotation["area"] for annotation in annotations], dtype=np.float64) + np.spacing(1)
    closeness = np.exp(-distance / (2 * sigmas) ** 2 / area[None, :, None] / 2)
    counted = np.where(some[:, None], labelled, True)
    return (closeness * counted).sum(axis=-1) / counted.sum(axis=-1)


def keypoint_sigmas(sigmas: Sequence[float] = ()) -> NDArray[np.float64]:
    """(K,) falloffs for OKS as given, or COCO's."""
    return np.asarray(sigmas if len(sigmas) else PersonKeypoints.OKS_SIGMAS, dtype=np.float64)


def match_greedily(
    overlaps: NDArray[np.float64], crowd: NDArray[np.bool_], ignored: NDArray[np.bool_], threshold: float
) -> NDArray[np.int64]:
    """COCO's matching of D detections, best score first, with G annotations: (D,) partners, -1 for none.

    Each takes the annotation that it overlaps most, among those that are free, at least by `threshold`; ignored ones
    only where no other is left. A crowd stays free.
    """
    threshold = min(threshold, 1 - 1e-10)
    free = np.ones(overlaps.shape[1], dtype=bool)
    partners = np.full(overlaps.shape[0], -1, dtype=np.int64)
    for detection, row in enumerate(overlaps):
        possible = (free | crowd) & (row >= threshold)
        for candidates in (possible & ~ignored, possible & ignored):
            if candidates.any():
                masked = np.where(candidates, row, -1.0)
                best = len(row) - 1 - int(masked[::-1].argmax())  # of equals the last, as pycocotools has it
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
    sigmas: NDArray[np.float64],
) -> ImageMatches:
    """Match within each category."""
    task = name.removesuffix("_coarse")
    entries = results.entries[name]
    annotations = ground_truth.imgToAnns.get(image_id, [])
    categories = np.array([entries[row]["category_id"] for row in rows.tolist()], dtype=np.int64)
    truth_categories = np.array([annotation["category_id"] for annotation in annotations], dtype=np.int64)
    crowd = np.array([bool(annotation["iscrowd"]) for annotation in annotations], dtype=bool)
    ignored = np.array([_is_ignored(annotation, task) for annotation in annotations], dtype=bool)
    partners = np.full(len(rows), -1, dtype=np.int64)
    overlaps = np.zeros(len(rows))
    for category in np.intersect1d(categories, truth_categories):
        found, there = np.flatnonzero(categories == category), np.flatnonzero(truth_categories == category)
        payloads = [entries[row][PAYLOADS[name]] for row in rows[found].tolist()]
        table = similarities(task, payloads, [annotations[i] for i in there.tolist()], ground_truth, sigmas)
        chosen = match_greedily(table, crowd[there], ignored[there], threshold)
        matched = np.flatnonzero(chosen >= 0)
        partners[found[matched]] = there[chosen[matched]]
        overlaps[found[matched]] = table[matched, chosen[matched]]
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


def _is_ignored(annotation: Mapping[str, Any], task: str) -> bool:
    return bool(annotation["iscrowd"]) or (task == "keypoints" and annotation["num_keypoints"] == 0)


def _check_categories(results: Results, ground_truth: COCO) -> None:
    found = {entry["category_id"] for entry in next(iter(results.entries.values()))}
    unknown = sorted(found - set(ground_truth.getCatIds()), key=str)
    if unknown:
        raise ReportError(
            f"the results in {results.folder} have category ids {_some(unknown)}, which the annotations do not: "
            "--dataset must name what was tested"
        )


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")

"""Scores of single keypoints: AP, PCK, and how well visibility is predicted.

- AP of a keypoint is COCO's keypoint AP (OKS from 0.5 to 0.95, the 20 best detections of a category in an image) of a
  skeleton that has only this keypoint. Instances in which it is not labelled are ignored, as COCO ignores instances
  without labelled keypoints.
- PCK@0.2 is the share of the labelled keypoints that are found within 0.2 times the longer side of the annotation's
  box. An instance has the keypoints of the detection that is matched with it by boxes (`match_boxes`); without a
  detection all its keypoints are wrong.
- The AP of visibility is the average precision of "labelled", ranked by the predicted probability, in these matched
  instances. A constant guess has the share of labelled keypoints as its AP.

Source: https://cocodataset.org/#keypoints-eval; PCK Yang and Ramanan 2013, Articulated human detection with flexible
mixtures of parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from ..results import LABELLED, PCK, VISIBILITY_AP
from .keypoint_matching import (
    OKS_THRESHOLDS,
    Annotated,
    Bools,
    Detected,
    Floats,
    ImageKeypoints,
    Ints,
    best_first,
    chunks_of_groups,
    keypoint_similarities,
    match_boxes,
    match_keypoints,
)

RECALLS = np.linspace(0.0, 1.0, 101)
PCK_REACH = 0.2  # of the longer side of the annotation's box


def score_keypoints(
    detected: Detected, annotated: Annotated, categories: Ints, names: Sequence[str], sigmas: Sequence[float]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Scores of each keypoint, and of all.

    Args:
        categories: (number of groups,) the category of each group; groups are in the order of the image ids.
        names: of the K keypoints.
        sigmas: (K,) of OKS.
    Returns: {name: {metric: value}} and {metric: value}. A value is -1 if there is nothing to measure. Visibility is
        scored if any detection has one other than 1.
    """
    detected = best_first(detected)
    found = _find_correct(detected, annotated)
    columns = {"AP": keypoint_ap(detected, annotated, categories, sigmas), PCK: _share(found.correct, found.labelled)}
    total = {PCK: float(_share(found.correct.sum(keepdims=True), found.labelled.sum(keepdims=True))[0])}
    if (detected.points[..., 2] != 1).any():
        labels = annotated.points[found.matched, :, 2] > 0
        guesses = detected.points[found.matches, :, 2]
        columns[VISIBILITY_AP] = np.array(
            [average_precision(guess, label) for guess, label in zip(guesses.T, labels.T, strict=True)]
        )
        columns[LABELLED] = labels.mean(axis=0) if len(labels) else np.full(len(names), -1.0)
        for metric in (VISIBILITY_AP, LABELLED):
            measured = columns[metric][columns[VISIBILITY_AP] >= 0]
            total[metric] = float(measured.mean()) if len(measured) else -1.0
    per_keypoint = {
        name: {metric: float(values[index]) for metric, values in columns.items()} for index, name in enumerate(names)
    }
    return per_keypoint, total


def gather_instances(
    images: Sequence[ImageKeypoints],
    ground_truth: COCO,
    image_ids: Sequence[Any],
    category_ids: Mapping[int, Any],
    num_keypoints: int,
) -> tuple[Detected, Annotated, Ints]:
    """Detections and annotations of all images, and the category of each group, for `score_keypoints`.

    Args:
        images: those with detections.
        ground_truth: with keypoints.
        image_ids: of all images that are scored.
        category_ids: the annotation file's id of each label.
        num_keypoints: K.
    """
    columns = {category_id: index for index, category_id in enumerate(sorted(ground_truth.getCatIds()))}
    numbers = {image_id: index for index, image_id in enumerate(sorted(image_ids))}
    entries = [entry for image_id in image_ids for entry in ground_truth.imgToAnns[image_id]]
    groups = np.array(
        [numbers[entry["image_id"]] * len(columns) + columns[entry["category_id"]] for entry in entries], dtype=np.int64
    )
    order = np.argsort(groups, kind="stable")
    annotated = Annotated(
        groups[order],
        _rows(entries, "keypoints").reshape(len(entries), num_keypoints, 3)[order],
        _rows(entries, "bbox").reshape(len(entries), 4)[order],
        _rows(entries, "area")[order],
        _rows(entries, "iscrowd")[order] > 0,
    )
    column_of = np.full(1 + max(category_ids, default=0), -1)
    for label, category_id in category_ids.items():
        column_of[label] = columns.get(category_id, -1)
    found_columns = _joined([column_of[image.labels] for image in images], (0,)).astype(np.int64)
    found_numbers = np.repeat(
        np.array([numbers[image.image_id] for image in images], dtype=np.int64), [len(image.labels) for image in images]
    )
    detected = Detected(
        found_numbers * len(columns) + found_columns,
        _joined([image.points for image in images], (0, num_keypoints, 3)),
        _joined([image.boxes for image in images], (0, 4)),
        _joined([image.scores for image in images], (0,)),
    )
    return detected.of(found_columns >= 0), annotated, np.tile(np.arange(len(columns)), len(numbers))


def _joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...]) -> Floats:
    """Concatenated rows; an array of the shape `empty` if there are no parts."""
    return np.concatenate([np.zeros(empty), *parts])


def _rows(entries: Sequence[Mapping[str, Any]], key: str) -> Floats:
    return np.asarray([entry[key] for entry in entries], dtype=np.float64)


def keypoint_ap(detected: Detected, annotated: Annotated, categories: Ints, sigmas: Sequence[float]) -> Floats:
    """(K,) COCO's AP of a skeleton of each keypoint alone, mean over the categories that have it; -1 for none.

    Args:
        detected: from `best_first`.
        annotated, categories, sigmas: as for `score_keypoints`.
    """
    num_keypoints = annotated.points.shape[1]
    ignored = annotated.crowd[:, None] | (annotated.points[..., 2] <= 0)  # (G, K)
    shape = (len(detected), num_keypoints, len(OKS_THRESHOLDS))
    is_true, is_ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    largest = num_keypoints * len(OKS_THRESHOLDS)
    for rows, columns in chunks_of_groups(detected, annotated, largest):
        similarity = keypoint_similarities(detected, annotated, rows, columns, np.asarray(sigmas, dtype=np.float64))
        matches = match_keypoints(similarity, columns, annotated.crowd, ignored)
        filled = rows >= 0
        known = matches >= 0
        on_ignored = known & ignored[matches, np.arange(num_keypoints)[:, None]]
        is_true[rows[filled]], is_ignored[rows[filled]] = (known & ~on_ignored)[filled], on_ignored[filled]
    return _precision_by_category(detected, categories, is_true, is_ignored, annotated, ignored)


def average_precision(scores: Floats, labels: Bools) -> float:
    """Area under the steps of precision over recall; instances with the same score are ranked together.

    Args:
        scores: (P,) higher is likelier.
        labels: (P,)
    Returns: the AP; -1 without positive labels. With a constant score it is the share of positive labels.
    """
    if not labels.any():
        return -1.0
    order = np.argsort(-scores)
    ranked = scores[order]
    is_last = np.append(ranked[1:] != ranked[:-1], True)  # of those with the same score
    counts = np.arange(1, len(ranked) + 1)[is_last]
    positives = np.cumsum(labels[order])[is_last]
    return float((np.diff(positives, prepend=0) * positives / counts).sum() / labels.sum())


# Averages


def _precision_by_category(
    detected: Detected, categories: Ints, is_true: Bools, is_ignored: Bools, annotated: Annotated, ignored: Bools
) -> Floats:
    by_score = np.argsort(-detected.scores, kind="stable")
    category_of = categories[detected.groups][by_score]
    num_keypoints = annotated.points.shape[1]
    rows = []
    for category in np.unique(categories):
        chosen = by_score[category_of == category]
        positives = (~ignored[categories[annotated.groups] == category]).sum(axis=0)
        rows.append([
            _interpolated_precision(is_true[chosen, index], is_ignored[chosen, index], int(positives[index]))
            for index in range(num_keypoints)
        ])  # fmt: skip
    table = np.array(rows, dtype=np.float64).reshape(-1, num_keypoints)
    counted = table >= 0
    return _share(np.where(counted, table, 0.0).sum(axis=0), counted.sum(axis=0))


def _interpolated_precision(is_true: Bools, is_ignored: Bools, positives: int) -> float:
    """COCO's mean precision over `RECALLS` and thresholds, of (D, T) detections with the best first; -1 for none."""
    if positives == 0:
        return -1.0
    if not len(is_true):
        return 0.0
    true = np.cumsum(is_true, axis=0, dtype=np.float64)
    false = np.cumsum(~is_true & ~is_ignored, axis=0, dtype=np.float64)
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    padded = np.vstack([precision, np.zeros(precision.shape[1])])
    recall = true / positives
    reached = [np.searchsorted(column, RECALLS, side="left") for column in recall.T]
    return float(np.mean([padded[rows, index] for index, rows in enumerate(reached)]))


@dataclass(frozen=True)
class _Found:
    """What `PCK` counts, for each keypoint, and the P matched annotations that have labelled keypoints."""

    correct: Ints  # (K,)
    labelled: Ints  # (K,)
    matched: Ints  # (P,) annotations
    matches: Ints  # (P,) their detections


def _find_correct(detected: Detected, annotated: Annotated) -> _Found:
    matches = match_boxes(detected, annotated)
    labelled = (annotated.points[..., 2] > 0) & ~annotated.crowd[:, None]
    matched = np.flatnonzero((matches >= 0) & labelled.any(axis=1))
    offsets = detected.points[matches[matched], :, :2] - annotated.points[matched, :, :2]
    reach = PCK_REACH * annotated.boxes[matched, 2:].max(axis=1, initial=0.0)
    is_near = np.hypot(offsets[..., 0], offsets[..., 1]) <= reach[:, None]
    correct = (is_near & labelled[matched]).sum(axis=0)
    return _Found(correct, labelled.sum(axis=0), matched, matches[matched])


def _share(part: Floats | Ints, whole: Ints) -> Floats:
    """part / whole; -1 where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), -1.0)

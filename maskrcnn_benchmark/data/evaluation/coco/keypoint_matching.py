"""Match detected keypoints with annotated ones, in all images at once: by each keypoint alone as COCO, or by boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_DETECTIONS = 20  # of a category in an image, as in COCO's keypoint evaluation
OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MATCH_IOU = 0.5  # of boxes

_CHUNK_VALUES = 1 << 21  # of the largest array of a chunk
_NO_MATCH = -1


@dataclass(frozen=True)
class ImageKeypoints:
    """The detections of one image, all labels.

    Attributes:
        image_id: as in the annotation file.
        labels: (R,) int64.
        points, boxes: as in `Instances`.
        scores: (R,) to rank by.
    """

    image_id: Any
    labels: Ints
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Instances:
    """R instances, detected or annotated, of all images and categories.

    Attributes:
        groups: (R,) int64, a number for each image and category.
        points: (R, K, 3) x, y in pixels, and COCO's v, or the predicted probability that the keypoint is labelled.
        boxes: (R, 4) x, y, width, height in pixels.
    """

    groups: Ints
    points: Floats
    boxes: Floats

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Detected(Instances):
    """D detections; see `best_first`."""

    scores: Floats  # (D,)

    def of(self, rows: Ints | Bools) -> Detected:
        """The detections in these rows."""
        return Detected(self.groups[rows], self.points[rows], self.boxes[rows], self.scores[rows])


@dataclass(frozen=True)
class Annotated(Instances):
    """G annotations, ordered by group."""

    areas: Floats  # (G,) square pixels
    crowd: Bools  # (G,) regions of many objects, which may match any number of detections


def best_first(detected: Detected) -> Detected:
    """Order by group and descending score, and keep the `MAX_DETECTIONS` best of each group."""
    order = np.lexsort((-detected.scores, detected.groups))
    groups = detected.groups[order]
    return detected.of(order[_ranks(groups) < MAX_DETECTIONS])


def chunks_of_groups(detected: Detected, annotated: Annotated, values_per_pair: int) -> Iterator[tuple[Ints, Ints]]:
    """Groups that have both, padded to the same size: rows (B, D) of detections and (B, G) of annotations, or -1.

    Groups with a similar number of annotations are in the same chunk, to have little padding.

    Args:
        detected: from `best_first`.
        values_per_pair: how many numbers a caller keeps for each pair of a detection and an annotation.
    """
    groups = np.intersect1d(detected.groups, annotated.groups)
    if not len(groups):
        return
    starts = [np.searchsorted(each.groups, groups) for each in (detected, annotated)]
    counts = [np.searchsorted(each.groups, groups, side="right") - start
              for each, start in zip((detected, annotated), starts, strict=True)]  # fmt: skip
    order = np.argsort(counts[1], kind="stable")
    position = 0
    while position < len(order):
        size = max(1, _CHUNK_VALUES // (values_per_pair * MAX_DETECTIONS * counts[1][order[position]]))
        chosen = order[position : position + size]
        rows, columns = (_padded(start[chosen], count[chosen]) for start, count in zip(starts, counts, strict=True))
        yield rows, columns
        position += size


def match_boxes(detected: Detected, annotated: Annotated) -> Ints:
    """(G,) the detection of each annotation, or -1; crowd regions have none.

    The detections of a group choose in the order of their scores, each the free annotation with the largest IoU of
    boxes, from `MATCH_IOU`. Annotations without keypoints are matched like the others.

    Args:
        detected: from `best_first`.
    """
    matches = np.full(len(annotated), _NO_MATCH)
    for rows, columns in chunks_of_groups(detected, annotated, 1):
        free = (columns >= 0) & ~annotated.crowd[columns]
        overlaps = _box_ious(detected.boxes[rows][:, :, None], annotated.boxes[columns][:, None])
        for rank in range(rows.shape[1]):
            usable = free & (rows[:, rank, None] >= 0) & (overlaps[:, rank] >= MATCH_IOU)
            groups, chosen = _best(overlaps[:, rank], usable)
            matches[columns[groups, chosen]] = rows[groups, rank]
            free[groups, chosen] = False
    return matches


def match_keypoints(similarity: Floats, columns: Ints, crowd: Bools, ignored: Bools) -> Ints:
    """COCO's matching of each keypoint at each threshold: annotations of the detections, or -1.

    Args:
        similarity: (B, D, G, K) of padded detections and annotations; -1 in the padding of detections.
        columns: (B, G) rows of annotations, -1 in the padding.
        crowd, ignored: of all annotations, (all,) and (all, K).
    Returns: (B, D, K, T) rows of annotations.
    """
    groups, ranks, _, keypoints = similarity.shape
    thresholds = np.minimum(OKS_THRESHOLDS, 1 - 1e-10)
    is_filled = (columns >= 0)[:, :, None, None]
    is_ignored, is_crowd = ignored[columns][..., None], crowd[columns][:, :, None, None]
    free = np.broadcast_to(is_filled, (*columns.shape, keypoints, len(thresholds))).copy()
    matches = np.full((groups, ranks, keypoints, len(thresholds)), _NO_MATCH)
    numbers = np.ogrid[tuple(slice(size) for size in (groups, keypoints, len(thresholds)))]
    for rank in range(ranks):
        values = similarity[:, rank, ..., None]
        usable = free & (values >= thresholds)
        # counted annotations come before ignored ones; of equal ones the last is taken, as pycocotools does
        order = np.where(usable, values + 2.0 * ~is_ignored, -1.0)
        chosen = order.shape[1] - 1 - order[:, ::-1].argmax(axis=1)
        place = (numbers[0], chosen, numbers[1], numbers[2])
        matched = order[place] >= 0
        matches[:, rank] = np.where(matched, columns[numbers[0], chosen], _NO_MATCH)
        free[place] &= ~matched | is_crowd[numbers[0], chosen, 0, 0]
    return matches


def keypoint_similarities(
    detected: Detected, annotated: Annotated, rows: Ints, columns: Ints, sigmas: Floats
) -> Floats:
    """(B, D, G, K) OKS of each keypoint alone; -1 for padded detections.

    Where a keypoint is not labelled, the distance is that from the annotation's box enlarged to three times its size.
    """
    points, truth = detected.points[rows][:, :, None, :, :2], annotated.points[columns][:, None]
    corner, sides = annotated.boxes[columns][:, None, :, None, :2], annotated.boxes[columns][:, None, :, None, 2:]
    beyond = np.maximum(corner - sides - points, 0) + np.maximum(points - corner - 2 * sides, 0)
    offsets = np.where(truth[..., 2:] > 0, points - truth[..., :2], beyond)
    areas = annotated.areas[columns][:, None, :, None] + np.spacing(1)
    similarity = np.exp(-(offsets**2).sum(axis=-1) / (2 * sigmas) ** 2 / areas / 2)
    return np.where(rows[:, :, None, None] >= 0, similarity, -1.0)


def _best(values: Floats, usable: Bools) -> tuple[Ints, Ints]:
    """Rows (B,) with a usable value, and the column of the largest of each."""
    chosen = np.where(usable, values, -1.0).argmax(axis=1)
    rows = np.flatnonzero(usable.any(axis=1))
    return rows, chosen[rows]


def _box_ious(first: Floats, second: Floats) -> Floats:
    """IoU of boxes (..., 4) x, y, width, height that broadcast."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    total = np.prod(first[..., 2:], axis=-1) + np.prod(second[..., 2:], axis=-1) - common
    return np.asarray(common / np.maximum(total, np.spacing(1)), dtype=np.float64)


def _padded(starts: Ints, counts: Ints) -> Ints:
    """(B, longest): start, start + 1, ..., and -1 after the count."""
    steps = np.arange(counts.max())
    return np.where(steps < counts[:, None], starts[:, None] + steps, _NO_MATCH)


def _ranks(groups: Ints) -> Ints:
    """Position of each row in its group; groups are sorted."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)

"""Average precision as Pascal VOC defines it, for the detections and objects of one class.

Source: Everingham et al. 2010, The Pascal Visual Object Classes (VOC) Challenge, section 4.2; the development kits of
2007 (11 points) and of 2010 to 2012 (area).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1


@dataclass(frozen=True)
class ImageMatches:
    """One class in one image.

    Attributes:
        scores: (D,) of the detections.
        outcomes: (D,) int64, FALSE_POSITIVE, TRUE_POSITIVE or IGNORED.
        num_objects: number of objects that are not difficult.
    """

    scores: NDArray[np.float32]
    outcomes: NDArray[np.int64]
    num_objects: int


def match_detections(
    overlaps: NDArray[np.float64], scores: NDArray[np.float32], difficult: NDArray[np.bool_], threshold: float
) -> ImageMatches:
    """Match the detections of one class in one image to its objects.

    A detection belongs to the object with which it overlaps most, if the IoU reaches the threshold; else it is a false
    positive. The best detection of an object is a true positive, the others are false positives. Detections of
    difficult objects are ignored.

    Args:
        overlaps: (D, G) IoU of detections and objects.
        scores: (D,) of the detections; equal scores keep their order.
        difficult: (G,).
    """
    outcomes = np.full(len(scores), FALSE_POSITIVE, dtype=np.int64)
    if overlaps.size:
        nearest = overlaps.argmax(axis=1)
        reached = overlaps.max(axis=1) >= threshold
        outcomes[reached & difficult[nearest]] = IGNORED
        best_first = np.argsort(-scores, kind="stable")
        candidates = best_first[(reached & ~difficult[nearest])[best_first]]
        _, first = np.unique(nearest[candidates], return_index=True)  # the first of each object is its best
        outcomes[candidates[first]] = TRUE_POSITIVE
    return ImageMatches(scores, outcomes, int((~difficult).sum()))


def precision_recall(images: Sequence[ImageMatches]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Precision and recall after each detection of all images, best first, without the ignored ones.

    Returns: two arrays of the same length, 0 if nothing was detected; None if there are no objects.
    """
    num_objects = sum(image.num_objects for image in images)
    if not num_objects:
        return None
    scores = np.concatenate([image.scores for image in images])
    outcomes = np.concatenate([image.outcomes for image in images])
    outcomes = outcomes[np.argsort(-scores, kind="stable")]
    outcomes = outcomes[outcomes != IGNORED]
    found = np.cumsum(outcomes == TRUE_POSITIVE)
    return found / np.arange(1, len(found) + 1), found / num_objects


def ap_by_points(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """The mean of the best precision at a recall of at least 0, 0.1, ..., 1: VOC 2007.

    The limits are rounded as in the development kit, where 0.3, 0.6 and 0.7 are the next larger double: a recall of
    exactly 3 / 10 does not reach 0.3.
    """
    best = [precision[recall >= limit].max(initial=0.0) for limit in 0.1 * np.arange(11)]
    return float(np.mean(best))


def ap_by_area(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """The area under the curve, with the precision made monotonous: VOC 2010 and later."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best_from_here))

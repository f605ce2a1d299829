"""Average precision of instances as Cityscapes defines it, for one class.

Source: Cordts et al. 2016, The Cityscapes Dataset, section 3.2, and the official script that evaluates instance-level
semantic labelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAPS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100  # smaller instances are ignored


@dataclass(frozen=True)
class ImageOverlaps:
    """The D detections of one class in one image, and the G objects of this class.

    Attributes:
        scores: (D,) of the detections.
        sizes: (D,) pixels of the detections, at least 1.
        void: (D,) pixels of the detections in void regions.
        object_sizes: (G,) pixels of the objects.
        is_group: (G,) whether an object is a group of several instances.
        shared: (D, G) pixels that detections share with objects.
    """

    scores: NDArray[np.float32]
    sizes: NDArray[np.float64]
    void: NDArray[np.float64]
    object_sizes: NDArray[np.float64]
    is_group: NDArray[np.bool_]
    shared: NDArray[np.float64]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(G,), the objects to be found: single instances of at least `MIN_PIXELS`. The others are ignored."""
        return ~self.is_group & (self.object_sizes >= MIN_PIXELS)


def average_precision(images: Sequence[ImageOverlaps]) -> NDArray[np.float64]:
    """AP at each of `OVERLAPS`; NaN if no instance is to be found."""
    return np.array([_ap_at(images, overlap) for overlap in OVERLAPS])


def _ap_at(images: Sequence[ImageOverlaps], overlap: float) -> float:
    num_objects = sum(int(image.counted.sum()) for image in images)
    if not num_objects:
        return float("nan")
    outcomes = [_match(image, overlap) for image in images]
    scores = np.concatenate([scores for scores, _ in outcomes])
    correct = np.concatenate([correct for _, correct in outcomes])
    return _area(scores, correct, num_objects) if len(scores) else 0.0


def _match(image: ImageOverlaps, overlap: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The scores of the detections that count, and which of them are correct.

    The best detection of an instance is correct, others of it are not. Of the rest, those of a group or of a small
    instance do not count, nor do those that mostly cover void, groups and small instances.
    """
    union = image.sizes[:, None] + image.object_sizes - image.shared
    hits = image.shared / union > overlap
    scores, correct = [], []
    for column in np.flatnonzero(image.counted):
        found = np.sort(image.scores[hits[:, column]])
        scores.append(found)
        correct.append(np.arange(len(found)) == len(found) - 1)
    # a group that is small counts twice here, as in the official script
    ignored = image.is_group.astype(int) + (image.object_sizes < MIN_PIXELS)
    share = (image.void + image.shared @ ignored) / image.sizes
    wrong = image.scores[~hits.any(axis=1) & (share <= overlap)]
    return np.concatenate([*scores, wrong]), np.concatenate([*correct, np.zeros(len(wrong), dtype=bool)])


def _area(scores: NDArray[np.float32], correct: NDArray[np.bool_], num_objects: int) -> float:
    """The area under the curve of precision over recall, with straight lines between the points.

    There is a point for each score that occurs: the detections with at least this score. One more has recall 0 and
    precision 1.
    """
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    found = np.cumsum(correct[order][::-1])[::-1][first]  # correct ones from each point to the best
    precision = np.append(found / (len(scores) - first), 1.0)
    recall = np.append(found / num_objects, 0.0)
    return float(np.sum((precision[1:] + precision[:-1]) / 2 * (recall[:-1] - recall[1:])))

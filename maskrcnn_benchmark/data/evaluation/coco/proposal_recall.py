"""Average recall of class-agnostic proposals (Hosang et al. 2015, What makes for effective detection proposals?)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

AREA_RANGES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}  # COCO's, in pixels
IOU_THRESHOLDS = np.arange(0.5, 0.951, 0.05)
LIMITS = (100, 1000)


def proposal_recall(
    images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], limits: Sequence[int] = LIMITS
) -> dict[str, float]:
    """AR@n for the best n proposals of each image, over all objects and over small, medium and large ones.

    Args:
        images: per image the pairwise IoU (P, G) of its proposals, best first, with its objects; the objects' areas
            (G,) in pixels; and the proposals' order is the order of the rows.  The third entry marks crowds (G,),
            which do not count.
        limits: numbers of proposals per image to score.
    Returns: {"AR@100": ..., "ARs@100": ...}; -1 where there is no object of that size.
    """
    metrics = {}
    for limit in limits:
        best_overlaps, areas = [np.zeros(0)], [np.zeros(0)]
        for ious, object_areas, crowd in images:
            best_overlaps.append(_matched_overlaps(ious[:limit, ~crowd]))
            areas.append(object_areas[~crowd])
        overlaps, area = np.concatenate(best_overlaps), np.concatenate(areas)
        for suffix, (low, high) in AREA_RANGES.items():
            in_range = overlaps[(area >= low) & (area <= high)]
            recalls = [(in_range >= threshold).mean() for threshold in IOU_THRESHOLDS] if len(in_range) else [-1.0]
            metrics[f"AR{suffix}@{limit}"] = float(np.mean(recalls))
    return metrics


def _matched_overlaps(ious: np.ndarray) -> np.ndarray:
    """(P, G) -> (G,): each object's overlap with its proposal, best pairs first, each proposal used once."""
    ious = ious.copy()
    matched = np.zeros(ious.shape[1])
    for _ in range(min(ious.shape)):
        proposal, target = np.unravel_index(ious.argmax(), ious.shape)
        if ious[proposal, target] <= 0:
            break
        matched[target] = ious[proposal, target]
        ious[proposal, :] = -1
        ious[:, target] = -1
    return matched

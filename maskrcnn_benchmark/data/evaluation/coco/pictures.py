"""Pictures that a test writes: ground truth beside prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.drawing import Categories, draw_comparison
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .image_results import ImageResult

SCORE_THRESHOLD = 0.5  # detections with a lower score are not drawn
_MAX_INSTANCES = 100  # drawn in one picture, best first


def write_pictures(dataset: DetectionDataset, results: Mapping[int, ImageResult], folder: Path, count: int) -> Path:
    """Draw `count` images, spread over the data set, as <image id>.png; images with annotations are preferred.

    Args:
        dataset: one that `can_draw`.
        results: detections by index into the data set.
    Returns: the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = dataset.class_names or None
    for index in _choose(dataset, sorted(results), count):
        image = np.asarray(dataset.read_image(index))
        picture = compare(image, dataset.get_groundtruth(index), results[index], names)
        Image.fromarray(picture).save(folder / f"{dataset.get_img_info(index).get('id', index)}.png")
    return folder


def compare(
    image: NDArray[np.uint8], truth: BoxList, result: ImageResult, categories: Categories = None
) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8 RGB with its ground truth, beside the same image with the detections."""
    spec = truth.get_field(fields.KEYPOINTS).spec if truth.has_field(fields.KEYPOINTS) else None
    found = result.to_boxlist(result.best_rows(SCORE_THRESHOLD, _MAX_INSTANCES), spec)
    boxlists = {"ground truth": truth, f"prediction, score from {SCORE_THRESHOLD:g}": found}
    return draw_comparison(image, boxlists, categories)


def _choose(dataset: DetectionDataset, indices: list[int], count: int) -> list[int]:
    """Divide `indices` into `count` equal parts. Choose from each the first with annotations, or else the first."""
    count = min(count, len(indices))
    bounds = [part * len(indices) // count for part in range(count + 1)] if count else []
    parts = [indices[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    return [next((index for index in part if len(dataset.get_groundtruth(index))), part[0]) for part in parts]

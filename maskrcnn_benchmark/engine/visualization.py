"""Pictures that a test leaves behind: ground truth beside prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.drawing import PANEL_STROKES, draw_instances, enlarge_small, side_by_side
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

logger = logging.getLogger(__name__)

SCORE_THRESHOLD = 0.5  # detections below it are not drawn
_MOST_INSTANCES = 100  # drawn at most, the best first


def write_pictures(dataset: Any, results: Mapping[int, ImageResult], folder: Path, count: int) -> Path:
    """Draw `count` images, spread over the dataset and with annotations where there are any, as <image id>.png.

    Args:
        dataset: with `read_image(index)`, `get_groundtruth(index)` and `get_img_info(index)`, as a COCODataset.
        results: what was found, by index into the dataset.
    Returns: the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = getattr(dataset, "class_names", None)
    for index in _choose(dataset, sorted(results), count):
        picture = draw_comparison(
            np.asarray(dataset.read_image(index)), dataset.get_groundtruth(index), results[index], names
        )
        Image.fromarray(picture).save(folder / f"{dataset.get_img_info(index)['id']}.png")
    return folder


def draw_comparison(image: np.ndarray, truth: BoxList, result: ImageResult, names: Any = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, ground truth and result -> one picture (H', W', 3) of both, side by side."""
    found = detections_of(
        result, type(truth.get_field(fields.KEYPOINTS)) if truth.has_field(fields.KEYPOINTS) else None
    )
    canvas, factor = enlarge_small(image)
    size_wh = (image.shape[1] * factor, image.shape[0] * factor)
    panels = [
        draw_instances(canvas, boxes.resize(size_wh), names, stroke_scale=PANEL_STROKES) for boxes in (truth, found)
    ]
    return side_by_side(panels, ["ground truth", f"prediction, score from {SCORE_THRESHOLD:g}"])


def detections_of(result: ImageResult, skeleton: type[Keypoints] | None = None) -> BoxList:
    """The detections to draw, best first, as a BoxList in the image's own pixels.

    Args:
        skeleton: class for the keypoints; plain `Keypoints`, which have no limbs, where it does not fit.
    """
    best_first = np.argsort(-result.scores, kind="stable")
    kept = [int(row) for row in best_first[:_MOST_INSTANCES] if result.scores[row] >= SCORE_THRESHOLD]
    return result_boxlist(result, kept, skeleton)


def result_boxlist(
    result: ImageResult, rows: Sequence[int], skeleton: type[Keypoints] | None = None, suffix: str = ""
) -> BoxList:
    """Some of an image's detections as a BoxList in the image's own pixels.

    Args:
        rows: which, in this order.
        skeleton: class for the keypoints; plain `Keypoints`, which have no limbs, where it does not fit.
        suffix: "_coarse" takes masks and keypoints as they were before refinement, where they were refined.
    """
    rows = list(rows)
    # Results are COCO's x, y, width, height, whose far side does not depend on the convention that the model uses.
    boxes = BoxList(torch.from_numpy(result.boxes[rows]).reshape(-1, 4), result.size_wh, mode="xywh", offset=0)
    boxes = boxes.convert("xyxy")
    boxes.add_field(fields.SCORES, torch.from_numpy(result.scores[rows]))
    boxes.add_field(fields.LABELS, torch.from_numpy(result.labels[rows]))
    masks = result.masks.get(f"segm{suffix}", result.masks.get("segm"))
    if masks is not None:
        boxes.add_field(fields.MASKS, SegmentationMask([masks[row] for row in rows], result.size_wh))
    found = result.keypoints.get(f"keypoints{suffix}", result.keypoints.get("keypoints"))
    if found is not None:
        points = torch.from_numpy(found[rows])
        points[..., 2] = 2  # a model says where a point is, not whether it is hidden
        named = skeleton if skeleton is not None and len(skeleton.NAMES) == points.shape[1] else Keypoints
        boxes.add_field(fields.KEYPOINTS, named(points, result.size_wh))
    return boxes


def _choose(dataset: Any, indices: list[int], count: int) -> list[int]:
    """One index out of each of `count` equal stretches: the first with annotations, or the first of all."""
    count = min(count, len(indices))
    bounds = [position * len(indices) // count for position in range(count + 1)] if count else []
    stretches = [indices[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    return [next((i for i in stretch if len(dataset.get_groundtruth(i))), stretch[0]) for stretch in stretches]

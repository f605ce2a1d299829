"""What the reports of test results take from a dataset and its result files, image by image."""

from __future__ import annotations

from typing import Any

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .matching import ImageMatches
from .results_files import Results


def image_title(dataset: Any, index: int) -> str:
    info = dataset.get_img_info(index)
    return f"{info['file_name']} (id {info['id']})"


def detected_boxes(
    dataset: Any, index: int, results: Results, matches: ImageMatches, truth: BoxList, suffix: str = ""
) -> BoxList:
    """The matched detections of an image from the last to the first: the best score is drawn last, on top.

    suffix: "_coarse" for what refinement started from, see `ImageResult.to_boxlist`.
    """
    info = dataset.get_img_info(index)
    size_wh = (info["width"], info["height"])
    found = results.image_result(matches.rows, size_wh, dataset.json_category_id_to_contiguous_id)
    skeleton = type(truth.get_field(fields.KEYPOINTS)) if truth.has_field(fields.KEYPOINTS) else None
    return found.to_boxlist(range(len(found) - 1, -1, -1), skeleton, suffix)


def annotation_places(truth: BoxList, matches: ImageMatches) -> list[int]:
    """For each target its place among the annotations that were matched, -1 for one that took no part."""
    place = {int(identity): position for position, identity in enumerate(matches.annotation_ids)}
    return [place.get(int(identity), -1) for identity in truth.get_field(fields.ANNOTATION_IDS)]

"""COCO annotations made from the ground truth of any data set, so that COCO's metrics can score on it."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .ground_truth import new_coco
from .run_lengths import encode_masks

_MOST_PER_IMAGE = 2**20  # annotations


def annotations_of(dataset: DetectionDataset) -> COCO:
    """The annotations of a data set, or those made from its ground truth. Raises: TypeError if it has neither."""
    if dataset.coco is not None:
        return dataset.coco
    if not (dataset.has_groundtruth and dataset.class_names):
        raise TypeError(
            f"{dataset.kind} cannot be evaluated: it has no `coco` annotations (pycocotools.coco.COCO), and no "
            "`get_groundtruth` with `class_names` to make them from. COCO's format is read by COCODataset. Others "
            "define these members, or name another evaluator in their attribute `evaluator` or in TEST.EVALUATORS."
        )
    return coco_from_groundtruth(dataset)


def annotation_ids(truth: BoxList, index: int) -> list[int]:
    """The ids of an image's annotations: those of the ground truth, else numbers that no other image has.

    Args:
        truth: ground truth of the image.
        index: of the image in the data set.
    """
    if truth.has_field(fields.ANNOTATION_IDS):
        ids: list[int] = truth.get_field(fields.ANNOTATION_IDS).tolist()
        return ids
    first = index * _MOST_PER_IMAGE + 1
    return list(range(first, first + len(truth)))


def coco_from_groundtruth(dataset: DetectionDataset, mask_name: str = "") -> COCO:
    """The ground truth of all images as COCO has it: boxes, masks and keypoints, as far as the targets have them.

    Objects that the field DIFFICULT marks become crowd regions, which COCO's metrics ignore. Crowd regions of an
    annotation file, which are not in the ground truth, are added. The area of an object is that of its mask, else that
    of its box; an object without this mask has the segmentation None.

    Args:
        dataset: with `get_groundtruth` and `class_names`.
        mask_name: which mask of the objects to take, if they have several with names; empty for the plain one.
    """
    category_ids = dataset.contiguous_category_id_to_json_id
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        image_id = dataset.id_to_img_map[index]
        info = dataset.get_img_info(index)
        images.append({"id": image_id, "width": info["width"], "height": info["height"]})
        truth = dataset.get_groundtruth(index)
        columns = {"id": annotation_ids(truth, index), **_columns(truth, mask_name)}
        for row, label in enumerate(truth.get_field(fields.LABELS).tolist()):
            values = {key: column[row] for key, column in columns.items()}
            entry = {"image_id": image_id, "category_id": category_ids[label]}
            annotations.append({**entry, **values})
    annotations += _crowds(dataset, {image["id"] for image in images})
    names = enumerate(dataset.class_names)
    categories = [{"id": category_ids[label], "name": name} for label, name in names if label > 0]
    return new_coco({"info": {}, "images": images, "categories": categories, "annotations": annotations})


def _columns(truth: BoxList, mask_name: str) -> dict[str, list[Any]]:
    """The keys of COCO's annotations, with one value per object."""
    boxes = truth.convert("xywh").bbox
    box_areas = (boxes[:, 2] * boxes[:, 3]).tolist()
    columns: dict[str, list[Any]] = {"bbox": boxes.tolist(), "area": box_areas}
    columns["iscrowd"] = [0] * len(truth)
    if truth.has_field(fields.DIFFICULT):
        columns["iscrowd"] = truth.get_field(fields.DIFFICULT).int().tolist()
    masks = fields.mask_fields(mask_name)
    if truth.has_field(masks.truth) and len(truth):
        columns["segmentation"] = encode_masks(truth.get_field(masks.truth).get_mask_tensor())
        columns["area"] = [float(mask_utils.area(rle)) for rle in columns["segmentation"]]
        if truth.has_field(masks.present):
            for row in (~truth.get_field(masks.present)).nonzero()[:, 0].tolist():
                columns["segmentation"][row], columns["area"][row] = None, box_areas[row]
    if truth.has_field(fields.KEYPOINTS):
        points = truth.get_field(fields.KEYPOINTS).keypoints
        columns["keypoints"] = points.flatten(1).tolist()
        columns["num_keypoints"] = (points[..., 2] > 0).sum(dim=1).tolist()
    return columns


def _crowds(dataset: DetectionDataset, image_ids: set[Any]) -> list[dict[str, Any]]:
    """The crowd regions of an annotation file in these images."""
    if dataset.coco is None:
        return []
    known = set(dataset.contiguous_category_id_to_json_id.values())
    return [
        dict(annotation)
        for annotation in dataset.coco.dataset.get("annotations", ())
        if annotation.get("iscrowd") and annotation["image_id"] in image_ids and annotation["category_id"] in known
    ]

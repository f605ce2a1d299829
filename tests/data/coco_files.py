"""Tiny datasets in COCO's format, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets import validation as problem

PERSON = {"id": 1, "name": "person"}
DOG = {"id": 18, "name": "dog"}


NAN = float("nan")

# problem -> segmentations that have it, in an image of 40 x 30 pixels
BAD_MASKS = {
    problem.POLYGON_MALFORMED: [[1, 2, 3, 4, 5, 6], "polygon", [["a"] * 6], 7],
    problem.POLYGON_ODD: [[[1, 2, 3, 4, 5, 6, 7]]],
    problem.POLYGON_SHORT: [[[1, 2, 3, 4]], [[1, 1, 9, 1, 9, 9], []]],
    problem.POLYGON_NOT_FINITE: [[[1, 2, NAN, 4, 5, 6]]],
    problem.RLE_SIZE: [{"size": [40, 30], "counts": [1200]}],
    problem.RLE_MALFORMED: [{"counts": [1200]}]
    + [{"size": [30, 40], "counts": c} for c in ([3, 4], "~~", "", None, [1201, -1], "0" * 30)],
    problem.RLE_EMPTY: [{"size": [30, 40], "counts": [1200]}],
}


def annotation(identity, image_id=1, bbox=(2, 3, 10, 8), category_id=1, **more):
    """A sound annotation: a box, and a polygon around the same pixels."""
    x, y, w, h = (float(value) for value in bbox)
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = {
        "id": identity, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "iscrowd": 0,
        "area": w * h, "segmentation": [polygon],
    }  # fmt: skip
    entry.update(more)
    return entry


def write_coco(folder: Path, annotations, sizes=((40, 30),), categories=(PERSON, DOG), pixels=None):
    """Images 1, 2, ... of the given (width, height), noise unless `pixels` has arrays; returns (ann_file, root)."""
    root = folder / "images"
    root.mkdir(parents=True, exist_ok=True)
    images = []
    for number, (width, height) in enumerate(sizes, start=1):
        name = f"{number:04d}.png"
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise if pixels is None else pixels[number - 1]).save(root / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    content = {"images": images, "annotations": list(annotations), "categories": list(categories)}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return str(path), str(root)

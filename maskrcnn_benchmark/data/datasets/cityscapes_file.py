"""The classes of Cityscapes, and its annotation files: polygons (JSON) and instance ids (PNG)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.datasets.annotations import RLE

# All labels of Cityscapes by their ids. Polygons of a negative id ("license plate") are not drawn.
LABELS = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
LABEL_IDS = {name: id_ for id_, name in enumerate(LABELS)}
WITH_INSTANCES = LABELS[LABEL_IDS["person"] :]
# Pixels of these are void: the official evaluation ignores detections that mostly cover them.
VOID = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking",
    "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer",
)  # fmt: skip
VOID_IDS = tuple(LABEL_IDS[name] for name in VOID)
EVALUATED = tuple(name for name in WITH_INSTANCES if name not in VOID)
INSTANCES_PER_LABEL = 1000  # a pixel of instance i of label l is l * 1000 + i; of a group, or without instances, l

_GROUP = "group"


class Polygons:
    """A file `*_polygons.json`.

    Attributes:
        size_wh: width and height of the image in pixels.
        objects: (label, whether it is a group of several instances, points x and y) of each polygon, far ones first, so
            that later polygons cover earlier ones. Deleted polygons, and labels that Cityscapes does not know, are left
            out. Points are as in the file, not validated.
    Raises: FileNotFoundError; ValueError with the path if the file is not of this format.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            self.size_wh = int(content["imgWidth"]), int(content["imgHeight"])
            self.objects = list(_known_objects(content["objects"]))
        except FileNotFoundError:
            raise FileNotFoundError(f"annotation file {path} does not exist") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not one of Cityscapes' polygon files (JSON with imgWidth, imgHeight and objects): "
                f"{type(error).__name__}: {error}"
            ) from error

    def draw_ids(self) -> NDArray[np.int32]:
        """The ids (H, W) that `*_instanceIds.png` has, drawn as the official scripts draw them."""
        image = Image.new("I", self.size_wh, 0)
        drawer = ImageDraw.Draw(image)
        counts = dict.fromkeys(WITH_INSTANCES, 0)
        for label, is_group, points in self.objects:
            value = LABEL_IDS[label]
            if label in counts and not is_group:
                value = value * INSTANCES_PER_LABEL + counts[label]
                counts[label] += 1
            try:
                drawer.polygon([(x, y) for x, y in points], fill=value)
            except (TypeError, ValueError):
                continue  # fewer than two points, or not points: the data set has counted it as unusable
        return np.asarray(image).astype(np.int32)


def _known_objects(objects: Iterable[dict[str, Any]]) -> Iterator[tuple[str, bool, Any]]:
    for entry in objects:
        label, is_group = entry["label"], False
        if label not in LABEL_IDS and label.endswith(_GROUP):
            label, is_group = label.removesuffix(_GROUP), True
        if label in LABEL_IDS and not entry.get("deleted"):
            yield label, is_group, entry["polygon"]


def encode_ids(ids: NDArray[np.int32]) -> dict[int, RLE]:
    """The pixels of each id in an image (H, W), as COCO's run lengths."""
    columns = ids.T.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.concatenate([starts[1:], [len(columns)]])
    values = columns[starts]
    order = np.argsort(values, kind="stable")
    present, first = np.unique(values[order], return_index=True)
    encoded = {}
    for value, rows in zip(present.tolist(), np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[rows], ends[rows]], axis=1).reshape(-1)
        runs = np.diff(edges, prepend=0, append=len(columns))  # down the columns, background first
        size = list(ids.shape)
        encoded[value] = mask_utils.frPyObjects({"size": size, "counts": runs.tolist()}, *size)
    return encoded

"""Read a COCO annotation file and check its images and categories."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskrcnn_benchmark.data.datasets.annotations import NAMED_MASKS
from maskrcnn_benchmark.data.datasets.joined_keypoints import join_keypoints
from maskrcnn_benchmark.data.datasets.keypoint_specs import find_spec
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

logger = logging.getLogger(__name__)

_MAX_IDS_NAMED = 5


class CocoFile:
    """The content of an annotation file. Discard it after use: a large file takes millions of small objects.

    Args:
        path: of the file.
        keypoints_path: of a file with the keypoints of the same annotations, see `join_keypoints`; None if there is
            none.
    Attributes:
        annotations: as they are in the file, unchecked.
        images: dictionaries with "id", "file_name", "width" and "height", ordered by id.
        categories: id -> name, in the order of the file.
    Raises: FileNotFoundError; ValueError if the file is not JSON, or if its images or categories cannot be used.
    """

    def __init__(self, path: str, keypoints_path: str | None = None) -> None:
        self.path = path
        content = read_coco_json(path)
        if keypoints_path is not None:
            join_keypoints(content, read_coco_json(keypoints_path), path, keypoints_path)
        self.annotations: list[Any] = content.get("annotations", [])
        self.images = _check_images(content["images"], path)
        self.categories = _check_categories(content.get("categories", []), path)
        self._category_entries: list[dict[str, Any]] = content.get("categories", [])

    def has(self, key: str) -> bool:
        """Whether any annotation has a non-empty value for this key."""
        return any(annotation.get(key) for annotation in self.annotations if isinstance(annotation, dict))

    def keys_of(self, key: str) -> list[str]:
        """The keys of the dictionaries that annotations have under this key, in order of their first use."""
        entries = (annotation.get(key) for annotation in self.annotations if isinstance(annotation, dict))
        return list(dict.fromkeys(name for entry in entries if isinstance(entry, dict) for name in entry))

    def masks_described(self) -> str:
        """Where annotations have polygons or run lengths, for messages."""
        annotations = [annotation for annotation in self.annotations if isinstance(annotation, dict)]
        keys = dict.fromkeys(key for entry in annotations for key, value in entry.items() if _is_mask(value))
        places = list(map(repr, keys))
        if names := self.keys_of(NAMED_MASKS):
            places.append(f"{NAMED_MASKS!r} (of {', '.join(map(repr, names))})")
        return f"masks under {' and '.join(places)}" if places else "no masks"

    def categories_with_keypoints(self) -> list[Any]:
        """Ids of the categories whose entry lists keypoints."""
        return [entry["id"] for entry in self._category_entries if entry.get("keypoints")]

    def keypoint_spec(self, expected: int | None = None, given: KeypointSpec | str | None = None) -> KeypointSpec:
        """What is known about the keypoints: that the categories or `given` tell, else only their number.

        The number is `expected`, else the usual one of the annotations, else COCO's.

        Args:
            given: of the catalog, see `find_spec`.
        Raises: ValueError if the categories disagree with each other, with `given` or with `expected`.
        """
        spec = find_spec(self._category_entries, self.path, expected or self._usual_number_of_keypoints(), given)
        if expected is not None and len(spec) != expected:
            raise ValueError(
                f"the instances of {self.path} have {spec}, the model has {expected}: "
                f"set MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES to {len(spec)}"
            )
        return spec

    def _usual_number_of_keypoints(self) -> int:
        dictionaries = (annotation for annotation in self.annotations if isinstance(annotation, dict))
        points = (annotation.get("keypoints") for annotation in dictionaries)
        lengths = Counter(len(values) for values in points if isinstance(values, list) and values)
        usual = [length // 3 for length, _ in lengths.most_common() if length % 3 == 0]
        return usual[0] if usual else len(COCO_PERSON)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Disable garbage collection, which takes half of the time while millions of objects are created."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def read_coco_json(path: str) -> dict[str, Any]:
    """The content of a file, checked for the lists of COCO's format only. Raises: as `CocoFile`."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"annotation file {os.path.abspath(path)} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"annotation file {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f'annotation file {path} has no list "images": it is not in COCO\'s format')
    if not isinstance(content.get("annotations", []), list) or not isinstance(content.get("categories", []), list):
        raise ValueError(f'"annotations" or "categories" of {path} is not a list: it is not in COCO\'s format')
    return content


def _is_mask(value: Any) -> bool:
    """Does it look like polygons or run lengths?"""
    return (
        "counts" in value
        if isinstance(value, dict)
        else isinstance(value, list) and any(isinstance(part, list) for part in value[:1])
    )


def _check_images(images: list[Any], path: str) -> list[dict[str, Any]]:
    incomplete = [
        image.get("id", image) if isinstance(image, dict) else image
        for image in images
        if not isinstance(image, dict)
        or not isinstance(image.get("id"), (int, str))
        or not isinstance(image.get("file_name"), str)
        or not all(isinstance(image.get(side), int) and image[side] > 0 for side in ("width", "height"))
    ]
    if incomplete:
        raise ValueError(
            f'{len(incomplete)} images of {path} lack an "id", a "file_name", or a "width" and "height" in whole '
            f"pixels: {', '.join(map(str, incomplete[:_MAX_IDS_NAMED]))}"
        )
    first = {image["id"]: image for image in reversed(images)}
    if len(first) != len(images):
        logger.warning("%s lists %d images twice (the same id); the first is used", path, len(images) - len(first))
    return sorted(first.values(), key=lambda image: (isinstance(image["id"], str), image["id"]))


def _check_categories(categories: list[Any], path: str) -> dict[Any, str]:
    try:
        names = {category["id"]: str(category["name"]) for category in categories}
    except (KeyError, TypeError) as error:
        raise ValueError(f'a category of {path} has no "id" and "name"') from error
    if not names or len(names) != len(categories):
        what = "the same category id twice" if names else "no categories"
        raise ValueError(f"{path} has {what}; labels cannot be assigned")
    return names

"""Join the keypoints of one COCO file to the annotations of another, by annotation id.

COCO has its 80 classes in `instances_*.json` and the keypoints of people in `person_keypoints_*.json`. A person has the
same id in both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

_MAX_IDS_NAMED = 5
_BOX_TOLERANCE = 1.0  # pixels; the files round boxes differently

# What a category has about its keypoints, see `KeypointSpec`.
_CATEGORY_KEYS = ("keypoints", "skeleton", "flip_pairs", "sigmas", "colors")

_UNKNOWN_ID = "an id that the instances do not have"
_OTHER_IMAGE = "another image"
_OTHER_CATEGORY = "another category"
_OTHER_BOX = "another box"


def join_keypoints(instances: dict[str, Any], keypoints: Mapping[str, Any], path: str, keypoints_path: str) -> None:
    """Write the keypoints, and what their categories tell about them, into the content of the other file.

    A keypoint annotation whose image, category or box differs from the instance with its id is not used; one warning
    tells how many there are of each kind, and the first ids.

    Args:
        instances: content of an annotation file in COCO's format; it is changed.
        keypoints: content of the file with the keypoints.
        path, keypoints_path: of the two files, for messages.
    Raises: ValueError if no annotation can be joined, or if the categories differ.
    """
    _join_categories(instances, keypoints, path, keypoints_path)
    by_id = {entry["id"]: entry for entry in instances.get("annotations", ()) if _has_whole_id(entry)}
    found: dict[str, list[Any]] = {}
    annotated = [entry for entry in keypoints.get("annotations", ()) if _has_whole_id(entry) and entry.get("keypoints")]
    joined = 0
    for entry in annotated:
        instance = by_id.get(entry["id"])
        problem = _UNKNOWN_ID if instance is None else _disagreement(instance, entry)
        if instance is None or problem is not None:
            found.setdefault(problem or _UNKNOWN_ID, []).append(entry["id"])
            continue
        instance["keypoints"] = entry["keypoints"]
        if "num_keypoints" in entry:
            instance["num_keypoints"] = entry["num_keypoints"]
        joined += 1
    if not found and joined:
        return
    listed = "; ".join(f"{len(ids)} with {reason} (annotation ids {_first(ids)})" for reason, ids in found.items())
    text = (
        f"{keypoints_path} has keypoints of {len(annotated)} annotations, which belong to those of {path} by their ids"
    )
    if not joined and by_id:
        raise ValueError(f"{text}, but none can be joined: {listed or 'none has keypoints'}. Are these files a pair?")
    if found:
        logger.warning("%s. %d are not used: %s", text, len(annotated) - joined, listed)


def _join_categories(instances: dict[str, Any], keypoints: Mapping[str, Any], path: str, keypoints_path: str) -> None:
    categories = {entry.get("id"): entry for entry in instances.get("categories", ()) if isinstance(entry, dict)}
    for entry in keypoints.get("categories", ()):
        own = categories.get(entry.get("id")) if isinstance(entry, dict) else None
        if own is None or own.get("name") != entry.get("name"):
            known = "no such category" if own is None else f"the category {own.get('name')!r}"
            raise ValueError(
                f"{keypoints_path} has the category {entry!r:.100}, and {path} has {known} of this id: keypoints can "
                "be joined only if both files number their categories equally"
            )
        own.update({key: entry[key] for key in _CATEGORY_KEYS if key in entry})


def _has_whole_id(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int


def _disagreement(instance: Mapping[str, Any], entry: Mapping[str, Any]) -> str | None:
    """What differs between two annotations of one id; None if they are of one object."""
    if instance.get("image_id") != entry.get("image_id"):
        return _OTHER_IMAGE
    if instance.get("category_id") != entry.get("category_id"):
        return _OTHER_CATEGORY
    boxes = instance.get("bbox"), entry.get("bbox")
    if boxes[1] is not None and not _same_box(*boxes):
        return _OTHER_BOX
    return None


def _same_box(first: Any, second: Any) -> bool:
    try:
        pairs = list(zip(first, second, strict=True))
        return len(pairs) == 4 and all(math.isclose(a, b, abs_tol=_BOX_TOLERANCE) for a, b in pairs)
    except (TypeError, ValueError):
        return False


def _first(ids: list[Any]) -> str:
    return ", ".join(map(str, ids[:_MAX_IDS_NAMED])) + (", ..." if len(ids) > _MAX_IDS_NAMED else "")

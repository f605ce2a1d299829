"""CrowdPose's levels of difficulty: images by how crowded they are.

Source: Li et al. 2019, CrowdPose: Efficient crowded scenes pose estimation and a new benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO

CROWD_INDEX = "crowdIndex"  # key of an image in CrowdPose's annotation files, 0 to 1
# Levels by crowd index: from the first number, below the second.
CROWD_LEVELS: Mapping[str, tuple[float, float]] = {"easy": (0.0, 0.1), "medium": (0.1, 0.8), "hard": (0.8, math.inf)}


def images_by_level(coco: COCO, image_ids: Sequence[Any]) -> dict[str, list[Any]]:
    """The images of each level; empty if no image has a crowd index. Images without one belong to no level."""
    indices = {
        image_id: float(coco.imgs[image_id][CROWD_INDEX])
        for image_id in image_ids
        if coco.imgs[image_id].get(CROWD_INDEX) is not None
    }
    if not indices:
        return {}
    return {
        level: [image_id for image_id, crowd_index in indices.items() if low <= crowd_index < high]
        for level, (low, high) in CROWD_LEVELS.items()
    }

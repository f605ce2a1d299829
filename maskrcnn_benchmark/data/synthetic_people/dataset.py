"""Write data sets of drawn people in COCO's format."""

import contextlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from maskrcnn_benchmark.structures.keypoint import PersonKeypoints

from .scene import SceneSettings, render_scene

SPLITS = ("train", "val")
GENERATOR_VERSION = 3  # raise it when the same seed no longer gives the same images and annotations
JPEG_QUALITY = 92
CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": list(PersonKeypoints.NAMES),
    "skeleton": [[start + 1, end + 1] for start, end in PersonKeypoints.CONNECTIONS],
}


def write_split(output: Path, split: str, count: int, settings: SceneSettings, seed: int, workers: int) -> None:
    """Write the images and the annotation file of one split ("train" or "val"), unless they exist already.

    An image depends only on (seed, split, number, settings).

    Args:
        workers: 1 draws in this process. Several are spawned, so a script that calls this needs a `__main__` guard.
    Raises: OSError if the folder cannot be written.
    """
    description = {"description": "Drawn people", "version": str(GENERATOR_VERSION), "split": split, "count": count,
                   "seed": seed, "settings": json.loads(json.dumps(asdict(settings)))}  # fmt: skip
    annotation_file = output / "annotations" / f"person_keypoints_{split}.json"
    folder = output / split
    if _is_complete(annotation_file, folder, description):
        print(f"{annotation_file} is up to date ({count} images)")
        return
    folder.mkdir(parents=True, exist_ok=True)
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    annotation_file.unlink(missing_ok=True)  # an interrupted run must not leave an old file with new images

    draw = partial(_write_image, folder=folder, split_number=SPLITS.index(split), settings=settings, seed=seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        drawn: Iterable[Any]
        if workers == 1:
            drawn = map(draw, range(1, count + 1))
        else:
            # Spawned, not forked: if OpenCV has started threads, the forked process hangs.
            context = get_context("spawn")
            # The processes share the cores, so each uses one thread.
            pool = ProcessPoolExecutor(min(workers, count), context, initializer=cv2.setNumThreads, initargs=(1,))
            drawn = stack.enter_context(pool).map(draw, range(1, count + 1), chunksize=4)
        for image, people in tqdm(drawn, total=count, desc=f"drawing {split}", unit="image"):
            images.append(image)
            for person in people:
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, **person})
    content = {"info": description, "licenses": [], "images": images, "annotations": annotations,
               "categories": [CATEGORY]}  # fmt: skip
    partial_file = annotation_file.with_suffix(".partial")
    partial_file.write_text(json.dumps(content))
    partial_file.replace(annotation_file)
    print(f"wrote {count} images with {len(annotations)} people to {folder} and {annotation_file}")


def _is_complete(annotation_file: Path, folder: Path, description: dict[str, Any]) -> bool:
    if not annotation_file.is_file():
        return False
    content = json.loads(annotation_file.read_text())
    present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return content["info"] == description and all(image["file_name"] in present for image in content["images"])


def _write_image(
    number: int, *, folder: Path, split_number: int, settings: SceneSettings, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw image `number` and save it. Returns: its COCO image entry; its annotations, still without ids."""
    pixels, people = render_scene(settings, np.random.default_rng([seed, split_number, number]))
    name = f"{number:012d}.jpg"
    path = folder / name
    if not cv2.imwrite(str(path), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"{path} could not be written (is the disk full?)")
    # Ids of the two splits differ, so that it is noticed if results of one are scored against the other.
    identity = split_number * 1_000_000_000 + number
    return {"id": identity, "file_name": name, "width": settings.width, "height": settings.height}, people

"""Drawn kites: a data set with a skeleton of five points of its own, in one JSON per split.

`python -m tests.data.kites FOLDER` writes FOLDER/train/*.png, FOLDER/train.json and the same for val.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

KITE = {
    "id": 1,
    "name": "kite",
    "keypoints": ["nose", "port", "tail", "starboard", "knot"],
    "skeleton": [[1, 2], [2, 3], [3, 4], [4, 1], [1, 5], [5, 3], [2, 5], [5, 4]],
    "flip_pairs": [["port", "starboard"]],
    "sigmas": [0.05, 0.05, 0.05, 0.05, 0.05],
    "colors": [[255, 210, 0], [230, 40, 40], [150, 80, 220], [30, 170, 70], [40, 120, 255]],
}
# In a kite of length 1 that flies upwards, (x, y): port is on its left.
_SHAPE = np.array([[0.0, -0.4], [-0.3, -0.05], [0.0, 0.6], [0.3, -0.05], [0.0, -0.05]])


def write_kites(folder: Path, train: int = 60, val: int = 12, size_wh: tuple[int, int] = (160, 128)) -> Path:
    """Returns `folder`."""
    for split, count in {"train": train, "val": val}.items():
        rng = np.random.default_rng(len(split))
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            image = _sky(size_wh, rng)
            for centre_x in rng.permutation([0.27, 0.73])[: rng.integers(1, 3)]:
                points = _draw_kite(image, centre_x, rng)
                annotations.append(_annotation(len(annotations) + 1, number, points))
            cv2.imwrite(str(folder / split / f"{number}.png"), image)
            images.append({"id": number, "file_name": f"{number}.png", "width": size_wh[0], "height": size_wh[1]})
        content = {"images": images, "annotations": annotations, "categories": [KITE]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def _sky(size_wh: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(150, 230, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC)


def _draw_kite(image: np.ndarray, centre_x: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a kite with a dark nose and a ribbon; its (5, 2) keypoints."""
    height, width = image.shape[:2]
    length, angle = height * rng.uniform(0.45, 0.6), rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([centre_x * width, height * rng.uniform(0.45, 0.55)])
    points = length * _SHAPE @ turn.T + centre
    colour = tuple(int(value) for value in rng.integers(20, 140, 3))
    cv2.fillPoly(image, [points[:4].round().astype(np.int32)], colour, cv2.LINE_AA)
    front = points[[0, 1, 4, 3]].round().astype(np.int32)
    cv2.fillPoly(image, [front], tuple(min(255, 100 + value) for value in colour), cv2.LINE_AA)
    return points


def _annotation(identity: int, image_id: int, points: np.ndarray) -> dict[str, object]:
    near, far = points.min(axis=0), points.max(axis=0)
    outline = points[:4]
    x, y = outline.T
    area = 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    return {
        "id": identity, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": area,
        "bbox": [*near.round(2).tolist(), *(far - near).round(2).tolist()],
        "segmentation": [outline.round(2).reshape(-1).tolist()],
        "keypoints": [value for x, y in points.round(2).tolist() for value in (x, y, 2)], "num_keypoints": len(points),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(write_kites(parser.parse_args().folder))

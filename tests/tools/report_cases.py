"""A tiny dataset with boxes, masks and keypoints of two classes, and results of a test of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_benchmark.structures.keypoint import PersonKeypoints

SIZE_WH = (96, 64)
CATEGORIES = {7: "person", 9: "dog & cat"}  # ids that are no labels, and a name that HTML must escape
POINTS = len(PersonKeypoints.NAMES)


def ellipse(box: tuple[float, float, float, float]) -> np.ndarray:
    """(H, W) uint8 mask of the ellipse in a box x, y, width, height."""
    mask = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    x, y, width, height = box
    centre = (round(x + width / 2), round(y + height / 2))
    cv2.ellipse(mask, centre, (max(1, round(width / 2)), max(1, round(height / 2))), 0, 0, 360, 1, -1)
    return mask


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def keypoints_in(box: tuple[float, float, float, float], rng: np.random.Generator, share: float = 0.8) -> list[float]:
    """17 points in a box, some of them not labelled."""
    x, y, width, height = box
    points = np.stack([rng.uniform(x, x + width, POINTS), rng.uniform(y, y + height, POINTS)], axis=1)
    flags = np.where(rng.random(POINTS) < share, rng.integers(1, 3, POINTS), 0)
    return np.concatenate([points * (flags > 0)[:, None], flags[:, None]], axis=1).ravel().round(2).tolist()


def annotation(image_id: int, category_id: int, box: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
    """An entry without its id; keypoints are those given, or none."""
    keypoints = more.pop("keypoints", [0] * (3 * POINTS))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": box[2] * box[3],
        "segmentation": run_lengths(ellipse(box)),
        "keypoints": keypoints,
        "num_keypoints": sum(flag > 0 for flag in keypoints[2::3]),
        "iscrowd": 0,
        **more,
    }


def write_dataset(folder: Path, annotations: list[dict[str, Any]], num_images: int) -> tuple[Path, Path]:
    """Grey images 1 .. N as PNG, and their annotations; returns the annotation file and the folder of the images."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(1, num_images + 1):
        cv2.imwrite(str(images / f"{number}.png"), np.full((*SIZE_WH[::-1], 3), 100, dtype=np.uint8))
    width, height = SIZE_WH
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
            for number in range(1, num_images + 1)
        ],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file, images


def write_results(folder: Path, detections: list[dict[str, Any]], names: tuple[str, ...] = ("bbox",)) -> Path:
    """Result files as the test loop writes them. A detection has image_id, category_id, score, "box" (which gives its
    mask too), "keypoints", and where they differ "coarse_box" and "coarse_keypoints"."""
    folder.mkdir(parents=True, exist_ok=True)
    payloads = {
        "bbox": lambda found: {"bbox": list(found["box"])},
        "segm": lambda found: {"segmentation": run_lengths(ellipse(found["box"]))},
        "segm_coarse": lambda found: {"segmentation": run_lengths(ellipse(found.get("coarse_box", found["box"])))},
        "keypoints": lambda found: {"keypoints": found["keypoints"]},
        "keypoints_coarse": lambda found: {"keypoints": found.get("coarse_keypoints", found["keypoints"])},
    }
    for name in names:
        entries = [
            {key: found[key] for key in ("image_id", "category_id", "score")} | payloads[name](found)
            for found in detections
        ]
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder


def random_case(seed: int, num_images: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Annotations and detections that overlap in many ways: moved copies, doubles, strangers, crowds, ties."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, 5)):
            box = random_box(rng)
            category = int(rng.choice(list(CATEGORIES)))
            share = 0.8 if rng.random() < 0.8 else 0.0
            more: dict[str, Any] = {"iscrowd": 1} if rng.random() < 0.15 else {}
            annotations.append(annotation(image_id, category, box, keypoints=keypoints_in(box, rng, share), **more))
            for _ in range(rng.integers(0, 3)):
                moved = tuple(float(side) for side in np.round(np.array(box) + rng.normal(0, 2.5, 4), 1))
                moved = (moved[0], moved[1], max(3.0, moved[2]), max(3.0, moved[3]))
                detections.append({"image_id": image_id, "category_id": category, "box": moved})
                jitter = np.array(annotations[-1]["keypoints"]).reshape(-1, 3)
                jitter[:, :2] += rng.normal(0, rng.choice([0.5, 1.5]), (POINTS, 2))
                detections[-1]["keypoints"] = jitter.ravel().tolist()
        for _ in range(rng.integers(0, 3)):
            box = random_box(rng)
            category = int(rng.choice(list(CATEGORIES)))
            keypoints = keypoints_in(box, rng, 1.0)
            detections.append({"image_id": image_id, "category_id": category, "box": box, "keypoints": keypoints})
    for found in detections:
        found["score"] = float(rng.choice([0.3, 0.5, 0.5, 0.9, round(rng.random(), 3)]))
    return annotations, detections


def random_box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = rng.uniform(8, 40), rng.uniform(8, 30)
    x, y = rng.uniform(0, SIZE_WH[0] - width), rng.uniform(0, SIZE_WH[1] - height)
    return (round(x, 1), round(y, 1), round(width, 1), round(height, 1))


def slow_overlap(task: str, found: dict[str, Any], truth: dict[str, Any]) -> float:
    """IoU by counting, or OKS point by point, of a detection (as of `random_case`) and an annotation."""
    if task == "bbox":
        (ax, ay, aw, ah), (bx, by, bw, bh) = found["box"], truth["bbox"]
        width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
        shared = max(width, 0) * max(height, 0)
        return shared / (aw * ah if truth["iscrowd"] else aw * ah + bw * bh - shared)
    if task == "segm":
        mine, theirs = ellipse(found["box"]) > 0, ellipse(truth["bbox"]) > 0
        shared = (mine & theirs).sum()
        return shared / (mine.sum() if truth["iscrowd"] else (mine | theirs).sum())
    x, y, width, height = truth["bbox"]
    labelled = [flag > 0 for flag in truth["keypoints"][2::3]]
    total, count = 0.0, 0
    for k, sigma in enumerate(PersonKeypoints.OKS_SIGMAS):
        px, py = found["keypoints"][3 * k : 3 * k + 2]
        if labelled[k]:
            dx, dy = px - truth["keypoints"][3 * k], py - truth["keypoints"][3 * k + 1]
        elif not any(labelled):
            dx = max(0, x - width - px) + max(0, px - x - 2 * width)
            dy = max(0, y - height - py) + max(0, py - y - 2 * height)
        else:
            continue
        total += np.exp(-(dx**2 + dy**2) / (2 * truth["area"] * (2 * sigma) ** 2))
        count += 1
    return total / count


def slow_matching(
    task: str, detections: list[dict[str, Any]], annotations: list[dict[str, Any]], threshold: float
) -> tuple[dict[int, int], list[bool]]:
    """For one image: {position of a detection: position of its annotation}, by COCO's words; which are ignored."""
    ignored = [bool(a["iscrowd"] or (task == "keypoints" and not a["num_keypoints"])) for a in annotations]
    taken: set[int] = set()
    partner: dict[int, int] = {}
    for d in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        best, best_key = None, None
        for g, truth in enumerate(annotations):
            if truth["category_id"] != detections[d]["category_id"] or (g in taken and not truth["iscrowd"]):
                continue
            overlap = slow_overlap(task, detections[d], truth)
            if overlap < threshold:
                continue
            key = (not ignored[g], overlap, g)
            if best_key is None or key > best_key:
                best, best_key = g, key
        if best is not None:
            taken.add(best)
            partner[d] = best
    return partner, ignored


def slow_counts(
    task: str,
    detections: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    threshold: float,
    score_threshold: float,
) -> tuple[int, int, int]:
    """How many are found, wrong and missed in an image, of detections that score at least this."""
    kept = [found for found in detections if found["score"] >= score_threshold]
    partner, ignored = slow_matching(task, kept, annotations, threshold)
    right = sum(not ignored[g] for g in partner.values())
    missed = sum(not flag and g not in partner.values() for g, flag in enumerate(ignored))
    return right, len(kept) - len(partner), missed


def of_image(entries: list[dict[str, Any]], image_id: int) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["image_id"] == image_id]

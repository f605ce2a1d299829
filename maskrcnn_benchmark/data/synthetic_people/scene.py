"""Scenes of several people among other objects: an RGB image, and COCO annotations of the visible parts."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_benchmark.structures.keypoint import PersonKeypoints

from .body import sample_pose
from .rendering import Person, draw_person, sample_outfit

KEYPOINT_NAMES = tuple(PersonKeypoints.NAMES)
SUPERSAMPLING = 2  # scenes are drawn larger by this factor and averaged, for smooth edges
MIN_VISIBLE_SHARE = 0.2  # a person with a smaller visible share is removed from the scene
MIN_PIXELS = 60 * SUPERSAMPLING**2  # so is a person with fewer visible pixels of the canvas
TRACING = 2  # masks are enlarged again by this factor to trace their outlines more closely
MIN_PIECE = 2.0  # square pixels of the image; smaller pieces and holes of a mask are ignored


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like. Sizes in pixels, `person_height` as fractions of the image height."""

    width: int = 320
    height: int = 256
    max_people: int = 4
    person_height: tuple[float, float] = (0.45, 1.15)
    clutter: tuple[int, int] = (8, 24)
    occluder_chance: float = 0.35
    noise: float = 5.0


def render_scene(settings: SceneSettings, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw one scene.

    Returns: the image (H, W, 3) uint8 RGB, and for each person from back to front a dict with COCO's `segmentation`
    (polygons of what is visible), `area`, `bbox` (x, y, w, h in pixels), `keypoints` (51 numbers), `num_keypoints` and
    `iscrowd`; and with `segmentations`, two masks by name: "visible", and "amodal" with what others and objects hide.
    """
    canvas_hw = (settings.height * SUPERSAMPLING, settings.width * SUPERSAMPLING)
    light = rng.uniform(0, 2 * np.pi)
    canvas = _background(settings, rng, canvas_hw)
    people = _sample_people(settings, rng, canvas_hw, light)
    occluders = [_sample_occluder(rng, canvas_hw) for _ in range(2) if rng.random() < settings.occluder_chance]
    # Occluders, such as a bench or a car, are in front of everyone except the nearest person.
    people, visible = _drop_hidden(people, occluders)
    for index, person in enumerate(people):
        if index == len(people) - 1:
            _paint_occluders(canvas, occluders)
        inside = person.part_ids > 0
        canvas[inside] = person.colour[inside]
    if not people:
        _paint_occluders(canvas, occluders)
    annotations = [_annotate(person, seen) for person, seen in zip(people, visible, strict=True)]
    return _photograph(canvas, settings, rng), annotations


def _sample_people(
    settings: SceneSettings, rng: np.random.Generator, canvas_hw: tuple[int, int], light: float
) -> list[Person]:
    """Place people, the farthest first. Most are in the image, some are cut by its border."""
    heights = np.sort(rng.uniform(*settings.person_height, rng.integers(1, settings.max_people + 1))) * canvas_hw[0]
    people = []
    for height in heights:
        x = rng.uniform(0.08, 0.92) * canvas_hw[1]
        y = rng.uniform(0.42, 0.72) * canvas_hw[0] if rng.random() < 0.8 else rng.uniform(0.1, 1.0) * canvas_hw[0]
        person = draw_person(sample_pose(rng), sample_outfit(rng, height), KEYPOINT_NAMES, centre=(x, y),
                             height=height, canvas_hw=canvas_hw, light=light)  # fmt: skip
        if np.count_nonzero(person.part_ids) >= MIN_PIXELS:  # else the person is outside the image
            people.append(person)
    return people


def _drop_hidden(
    people: list[Person], occluders: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[Person], list[np.ndarray]]:
    """Remove people who are hardly visible. Returns: the others; the visible pixels (H, W) bool of each."""
    kept: list[Person] = []
    visible: list[np.ndarray] = []
    covered: np.ndarray | None = None
    for index, person in reversed(list(enumerate(people))):
        inside = person.part_ids > 0
        if covered is None:
            covered = np.zeros_like(inside)
        seen = inside & ~covered
        if seen.sum() >= max(MIN_VISIBLE_SHARE * inside.sum(), MIN_PIXELS):
            kept.append(person)
            visible.append(seen)
            covered |= inside
        if index == len(people) - 1:
            for mask, _ in occluders:
                covered |= mask
    return kept[::-1], visible[::-1]


def _annotate(person: Person, seen: np.ndarray) -> dict[str, Any]:
    polygons = _polygons(seen)
    height, width = (side // SUPERSAMPLING for side in seen.shape)
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, high = corners.min(0), corners.max(0)
    points = person.keypoints / SUPERSAMPLING
    in_image = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    labelled = person.labelled & in_image
    shown = person.shows_keypoint(KEYPOINT_NAMES, seen)
    flags = np.where(labelled, np.where(shown, 2, 1), 0)
    keypoints = np.concatenate([np.round(points, 1) * labelled[:, None], flags[:, None]], axis=1)
    return {
        "segmentation": polygons,
        "segmentations": {"visible": polygons, "amodal": _polygons(person.part_ids > 0, join=True)},
        "area": float(coco_mask.area(rle)),
        "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
        "keypoints": [int(value) if value == int(value) else float(value) for value in keypoints.ravel()],
        "num_keypoints": int(labelled.sum()),
        "iscrowd": 0,
    }


def _polygons(mask: np.ndarray, join: bool = False) -> list[list[float]]:
    """The outlines of a mask (H, W) bool of the canvas, as polygons in image pixels.

    COCO's polygons cannot have holes, so a piece with a hole is cut in two through the hole, until there are none. The
    two end a quarter of a pixel from each other; with `join` they meet in the middle.
    """
    polygons = []
    traced = mask.repeat(TRACING, 0).repeat(TRACING, 1).astype(np.uint8)
    pieces = [(traced, -1, traced.shape[1] + 1)]  # with the columns of its cuts; these two are outside
    min_area = MIN_PIECE * (SUPERSAMPLING * TRACING) ** 2
    while pieces:
        piece, first, end = pieces.pop()
        contours, hierarchy = cv2.findContours(piece, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if hierarchy is None:
            continue
        hierarchy = np.reshape(hierarchy, (-1, 4))
        # Small holes are filled, as they would only lead to more pieces.
        holes = [contour for contour, links in zip(contours, hierarchy, strict=True)
                 if links[3] >= 0 and cv2.contourArea(contour) > min_area]  # fmt: skip
        if holes:
            column = int(holes[0][:, 0, 0].mean())
            left, right = piece.copy(), piece
            left[:, column:] = 0
            right[:, :column] = 0
            pieces += [(left, first, column), (right, column, end)]
            continue
        for contour, links in zip(contours, hierarchy, strict=True):
            if links[3] < 0 and cv2.contourArea(contour) > min_area:
                points = contour[:, 0].astype(float)
                if join:
                    points[:, 0] += 0.5 * (points[:, 0] == end - 1) - 0.5 * (points[:, 0] == first)
                polygons.append(_outline(points))
    return polygons


def _outline(contour: np.ndarray) -> list[float]:
    """Pixel centres along a border (P, 2) -> the polygon through them in image pixels, flattened.

    The polygon runs through the centres of the outermost pixels: an eighth of an image pixel inside the true edge.
    """
    return [float(value) for value in np.round((contour + 0.5) / (SUPERSAMPLING * TRACING), 2).ravel()]


def _background(settings: SceneSettings, rng: np.random.Generator, canvas_hw: tuple[int, int]) -> np.ndarray:
    """A wall, a floor and many objects: (H, W, 3) float32 RGB."""
    height, width = canvas_hw
    canvas = np.empty((height, width, 3), np.float32)
    horizon = int(rng.uniform(0.35, 0.85) * height)
    ramp = np.linspace(0.85, 1.15, width, dtype=np.float32)[None, :, None]
    canvas[:horizon] = rng.uniform(30, 235, 3) * ramp
    canvas[horizon:] = rng.uniform(30, 235, 3) * ramp[:, ::-1]
    coarse = rng.normal(0, 14, (height // 32 + 1, width // 32 + 1, 3)).astype(np.float32)
    canvas += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(*settings.clutter)):
        _draw_thing(canvas, rng)
    if rng.random() < 0.5:
        cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.6, 2.5), dst=canvas)
    return canvas


def _draw_thing(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one object in place. Lines in skin colours look like limbs on purpose."""
    height, width = canvas.shape[:2]
    centre = tuple(int(value) for value in rng.uniform((0, 0), (width, height)))
    size = rng.uniform(0.03, 0.28) * height
    colour = tuple(float(value) for value in rng.uniform(10, 245, 3))
    kind = rng.choice(["box", "ellipse", "pole", "limb", "triangle"])
    if kind == "box":
        corner = (int(centre[0] + size * rng.uniform(0.3, 1.5)), int(centre[1] + size * rng.uniform(0.3, 1.5)))
        cv2.rectangle(canvas, centre, corner, colour, -1)
    elif kind == "ellipse":
        axes = (int(size * rng.uniform(0.2, 0.7)) + 1, int(size * rng.uniform(0.2, 0.7)) + 1)
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == "pole":
        end = (int(centre[0] + rng.normal(0, 0.05) * height), int(centre[1] + rng.uniform(0.3, 1.0) * height))
        cv2.line(canvas, centre, end, colour, int(rng.uniform(3, 16)), cv2.LINE_AA)
    elif kind == "limb":
        skin = tuple(float(value) for value in rng.uniform((110, 70, 50), (255, 220, 190)))
        direction = rng.uniform(0, 2 * np.pi)
        end = (int(centre[0] + np.cos(direction) * size), int(centre[1] + np.sin(direction) * size))
        cv2.line(canvas, centre, end, skin, int(rng.uniform(6, 22)), cv2.LINE_AA)
    else:
        corners = np.round(np.asarray(centre) + rng.normal(0, size * 0.6, (3, 2))).astype(np.int32)
        cv2.fillConvexPoly(canvas, corners, colour, cv2.LINE_AA)


def _sample_occluder(rng: np.random.Generator, canvas_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An object in the foreground: its pixels (H, W) bool and its colours (H, W, 3)."""
    height, width = canvas_hw
    mask = np.zeros(canvas_hw, np.uint8)
    x, y = rng.uniform(0, width), rng.uniform(0.5, 1.0) * height
    if rng.random() < 0.5:
        half = rng.uniform((0.03, 0.05), (0.16, 0.25)) * height
        cv2.rectangle(mask, (int(x - half[0]), int(y - half[1])), (int(x + half[0]), int(y + half[1])), 1, -1)
    else:
        foot = (int(x + rng.normal(0, 0.05) * width), height)
        cv2.line(mask, (int(x), 0), foot, 1, int(rng.uniform(0.015, 0.05) * height))
    stripes = (np.arange(height) // max(int(rng.uniform(4, 24)), 1) % 2)[:, None, None]
    colours = np.where(stripes, rng.uniform(10, 240, 3), rng.uniform(10, 240, 3)).astype(np.float32)
    return mask.astype(bool), np.broadcast_to(colours, (*canvas_hw, 3))


def _paint_occluders(canvas: np.ndarray, occluders: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for mask, colours in occluders:
        canvas[mask] = colours[mask]


def _photograph(canvas: np.ndarray, settings: SceneSettings, rng: np.random.Generator) -> np.ndarray:
    """Average to the image's size; add exposure, a colour cast and sensor noise."""
    image = cv2.resize(canvas, (settings.width, settings.height), interpolation=cv2.INTER_AREA)
    image = image * rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image += rng.normal(0, settings.noise, image.shape).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)

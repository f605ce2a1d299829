"""Time the drawing of boxes, masks, skeletons and labels of 20 people on a 1920 x 1080 frame, on one core.

python benchmarks/drawing.py [--people 20] [--width 1920] [--height 1080] [--picture drawn.png]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.data.synthetic_people import SceneSettings, render_scene
from maskrcnn_benchmark.layers.mask_ops import crop_bitmaps
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

MASK_SIZE = 56  # cells per side, as the refine head predicts
NAMES = ["__background__", "person"]


def make_scene(people: int, size_wh: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, BoxList]:
    """A drawn frame (H, W, 3) RGB and detections of its people, who are 0.35 to 0.75 times as high as the frame."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    frame = np.full((height, width, 3), 90, dtype=np.uint8)
    boxes: list[list[float]] = []
    masks: list[torch.Tensor] = []
    points: list[np.ndarray] = []
    settings = SceneSettings(max_people=1, person_height=(0.8, 0.95), occluder_chance=0)
    while len(boxes) < people:
        image, annotations = render_scene(settings, rng)
        if not annotations or annotations[0]["num_keypoints"] < 12:
            continue
        person = annotations[0]
        bitmaps = SegmentationMask([person["segmentation"]], (320, 256)).get_mask_tensor()
        x, y, w, h = person["bbox"]
        extents = torch.tensor([[x, y, x + w, y + h]])
        mask = crop_bitmaps(bitmaps, torch.tensor([0]), extents, MASK_SIZE)[0]
        masks.append(torch.from_numpy(cv2.GaussianBlur(mask.numpy().astype(np.float32), (0, 0), 0.8)))
        scale = rng.uniform(0.35, 0.75) * height / h
        column, row = len(boxes) % 10, len(boxes) // 10
        left = (column + 0.5) / 10 * width - w * scale / 2 + rng.uniform(-0.02, 0.02) * width
        top = min((0.02 + 0.4 * row) * height, height - h * scale)
        boxes.append([left, top, left + w * scale, top + h * scale])
        keypoints = np.reshape(person["keypoints"], (17, 3)).astype(np.float32)
        keypoints[:, :2] = (keypoints[:, :2] - (x, y)) * scale + (left, top)
        keypoints[keypoints[:, 2] == 0, :2] = left + 0.5 * w * scale, top + 0.5 * h * scale
        points.append(keypoints)
        _paste(frame, image, mask.numpy(), (x, y, w, h), boxes[-1])
    detections = BoxList(boxes, size_wh, offset=0)
    keypoints = np.stack(points)
    hidden = keypoints[..., 2] < 2
    keypoints[..., 2] = 1
    skeletons = PersonKeypoints(torch.from_numpy(keypoints), size_wh)
    skeletons.add_field(fields.LOGITS, torch.from_numpy(np.where(hidden, -1.0, rng.uniform(2, 8, hidden.shape))))
    detections.add_field(fields.LABELS, torch.ones(people, dtype=torch.int64))
    detections.add_field(fields.SCORES, torch.from_numpy(rng.uniform(0.7, 1.0, people)).float())
    detections.add_field(fields.MASK, torch.stack(masks)[:, None])
    detections.add_field(fields.KEYPOINTS, skeletons)
    return frame, detections


def _paste(
    frame: np.ndarray, image: np.ndarray, mask: np.ndarray, source: Sequence[float], box: Sequence[float]
) -> None:
    """Paste the person of a small scene into a box of the frame."""
    x, y, w, h = (int(value) for value in source)
    left, top, right, bottom = (int(value) for value in box)
    person = cv2.resize(image[y : y + h + 1, x : x + w + 1], (right - left, bottom - top))
    inside = cv2.resize(mask, (right - left, bottom - top)) > 0
    low_x, low_y = max(0, left), max(0, top)
    high_x, high_y = min(right, frame.shape[1]), min(bottom, frame.shape[0])
    here = (slice(low_y - top, high_y - top), slice(low_x - left, high_x - left))
    frame[low_y:high_y, low_x:high_x][inside[here]] = person[here][inside[here]]


def milliseconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and minimum processor time of this thread; not affected by other processes."""
    work()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(1000 * (time.thread_time() - start))
    return float(np.median(times)), min(times)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the drawing of people on a frame, on one core.")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--picture", metavar="FILE", help="write the drawn frame")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    frame, detections = make_scene(args.people, (args.width, args.height))
    canvas = frame.copy()
    ordered = drawing.best_last(detections)
    colours = drawing.instance_colours(ordered)
    texts = drawing.label_texts(ordered, NAMES)
    parts: dict[str, Callable[[], object]] = {
        "masks": lambda: drawing.draw_masks(canvas, ordered, colours),
        "boxes": lambda: drawing.draw_boxes(canvas, ordered, colours),
        "skeletons": lambda: drawing.draw_skeletons(canvas, ordered.get_field(fields.KEYPOINTS)),
        "labels": lambda: drawing.draw_labels(canvas, ordered, texts, colours),
        "draw_instances": lambda: drawing.draw_instances(frame, detections, NAMES),
    }
    print(f"{args.people} people on {args.width} x {args.height}, one core, {args.repeats} repeats")
    print(f"{'':16}{'median ms':>10}{'fastest ms':>12}")
    for name, work in parts.items():
        median, fastest = milliseconds(work, args.repeats)
        print(f"{name:16}{median:10.2f}{fastest:12.2f}")
    if args.picture:
        cv2.imwrite(args.picture, drawing.draw_instances(frame, detections, NAMES)[..., ::-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A whole picture of instances, and its canvas."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .colours import Colour, instance_colours
from .masks import draw_masks
from .skeletons import draw_skeletons
from .strokes import line_width
from .text import Categories, draw_labels, label_texts


def draw_instances(
    image: NDArray[np.uint8],
    boxlist: BoxList,
    categories: Categories = None,
    *,
    score_threshold: float = 0.0,
    mask_threshold: float = 0.5,
    keypoint_threshold: float = -np.inf,
    show_labels: bool = True,
    channel_order: str = "RGB",
    stroke_scale: float = 1.0,
) -> NDArray[np.uint8]:
    """Draw ground truth or detections on a copy of an image; each instance has a colour, the best are drawn last.

    Left limbs are green, right ones red to orange, the rest blue; a labelled but hidden keypoint (visibility 1 of
    ground truth) is a ring. Limbs and points of predictions are the greyer and thinner the lower their logits are.

    Args:
        image: (H, W, 3) uint8, in `channel_order`.
        boxlist: boxes of that image size, with any of the fields LABELS, SCORES, MASKS or MASK (spanning MASK_BOXES
            where there are any, else the box; or drawn over the image already), KEYPOINTS, IDENTITIES.
        score_threshold: instances that score lower are left out; without SCORES all are drawn.
        mask_threshold: a pixel of MASK is drawn where its probability exceeds this.
        keypoint_threshold: predicted points whose logit is lower are left out.
        show_labels: write category and score at each box; where the picture has no room for all, the best have theirs.
        channel_order: "RGB" or "BGR".
        stroke_scale: of lines and text, relative to what suits a picture that is shown at its own size.
    Returns: (H, W, 3) uint8, in `channel_order`.
    Raises: ValueError when image and boxes do not fit.
    """
    canvas = as_canvas(image, boxlist)
    boxlist = best_last(boxlist.to("cpu").convert("xyxy"), score_threshold)
    colours = instance_colours(boxlist, channel_order)
    draw_masks(canvas, boxlist, colours, threshold=mask_threshold, stroke_scale=stroke_scale)
    draw_boxes(canvas, boxlist, colours, stroke_scale=stroke_scale)
    if boxlist.has_field(fields.KEYPOINTS):
        draw_skeletons(
            canvas,
            boxlist.get_field(fields.KEYPOINTS),
            threshold=keypoint_threshold,
            channel_order=channel_order,
            stroke_scale=stroke_scale,
        )
    if show_labels:
        draw_labels(canvas, boxlist, label_texts(boxlist, categories), colours, stroke_scale=stroke_scale)
    return canvas


def as_canvas(image: NDArray[np.uint8], boxlist: BoxList | None = None) -> NDArray[np.uint8]:
    """A copy of an image to draw on. Raises: ValueError when it is none, or not of the boxes' size."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"draw_instances takes an RGB image (H, W, 3) of uint8, not {image.shape} {image.dtype}")
    if boxlist is not None and tuple(boxlist.size) != (image.shape[1], image.shape[0]):
        raise ValueError(
            f"draw_instances: boxes of an image of {boxlist.size}, the picture is {image.shape[1::-1]} "
            "(width, height); BoxList.resize brings them to it"
        )
    return np.array(image, order="C")


def best_last(boxlist: BoxList, score_threshold: float = 0.0) -> BoxList:
    """The instances to draw, in drawing order: worse scores first; all, as they are, where nothing has a score."""
    if not boxlist.has_field(fields.SCORES):
        return boxlist
    scores = boxlist.get_field(fields.SCORES)
    order = scores.argsort()
    return boxlist[order[scores[order] >= score_threshold]]


def draw_boxes(
    canvas: NDArray[np.uint8], boxlist: BoxList, colours: Sequence[Colour], *, stroke_scale: float = 1.0
) -> None:
    """Frame the pixels that each box covers."""
    line = line_width(canvas, stroke_scale)
    # Beyond the picture by more than a line's width, there is nothing to see of a side, and integers have an end.
    limits = np.array(canvas.shape[1::-1] * 2) + 2 * line
    for box, colour in zip(boxlist.extents().numpy().clip(-2 * line, limits).round(), colours, strict=True):
        x1, y1, x2, y2 = (int(side) for side in box)
        cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), colour, line)

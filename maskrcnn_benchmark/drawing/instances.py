"""Whole pictures of instances, and the canvas that they are drawn on."""

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
    mask: str | None = None,
    mask_threshold: float = 0.5,
    keypoint_threshold: float = -np.inf,
    show_labels: bool = True,
    channel_order: str = "RGB",
    stroke_scale: float = 1.0,
) -> NDArray[np.uint8]:
    """Draw ground truth or detections on a copy of the image, one colour per instance, best scores last (on top).

    Left limbs are green, right limbs red to orange, all others blue. A labelled but hidden keypoint (visibility 1 in
    ground truth) is a ring; so is a predicted one of uncertain visibility, and one that is probably absent is not
    drawn. Predicted limbs and points become greyer and thinner as their logits decrease.

    Args:
        image: (H, W, 3) uint8, in `channel_order`.
        boxlist: boxes of that image size, with any of the fields LABELS, SCORES, KEYPOINTS, IDENTITIES, and MASKS or
            MASK: (R, 1, M, M) probabilities spanning MASK_BOXES, or the boxes without that field; or (R, 1, H, W)
            masks of the image. Several masks per instance are in the fields that `mask_fields` names.
        score_threshold: detections with a lower score are not drawn. Boxes without SCORES are all drawn.
        mask: name of the mask that is drawn filled, see `draw_masks`.
        mask_threshold: pixels of MASK with a higher probability are drawn.
        keypoint_threshold: predicted points with a lower logit are not drawn.
        show_labels: write category and score at each box. If there is no room for all, the best are labelled.
        channel_order: "RGB" or "BGR".
        stroke_scale: factor for lines and text; 1 suits a picture that is shown at its own size.
    Returns: (H, W, 3) uint8, in `channel_order`.
    Raises: ValueError if the boxes do not belong to an image of this size.
    """
    canvas = as_canvas(image, boxlist)
    boxlist = best_last(boxlist.to("cpu").convert("xyxy"), score_threshold)
    colours = instance_colours(boxlist, channel_order)
    texts = label_texts(boxlist, categories) if show_labels else [""] * len(boxlist)
    draw_annotations(
        canvas,
        boxlist,
        colours,
        texts,
        mask=mask,
        mask_threshold=mask_threshold,
        keypoint_threshold=keypoint_threshold,
        channel_order=channel_order,
        stroke_scale=stroke_scale,
    )
    return canvas


def draw_annotations(
    canvas: NDArray[np.uint8],
    boxlist: BoxList,
    colours: Sequence[Colour],
    texts: Sequence[str],
    *,
    mask: str | None = None,
    mask_threshold: float = 0.5,
    keypoint_threshold: float = -np.inf,
    channel_order: str = "RGB",
    stroke_scale: float = 1.0,
) -> None:
    """Draw masks, boxes, skeletons and labels on the canvas, in this order. Arguments as for `draw_instances`.

    Args:
        boxlist: xyxy on the CPU, in drawing order.
        colours, texts: one per instance; "" for no label.
    """
    draw_masks(canvas, boxlist, colours, mask=mask, threshold=mask_threshold, stroke_scale=stroke_scale)
    draw_boxes(canvas, boxlist, colours, stroke_scale=stroke_scale)
    if boxlist.has_field(fields.KEYPOINTS):
        draw_skeletons(
            canvas,
            boxlist.get_field(fields.KEYPOINTS),
            threshold=keypoint_threshold,
            channel_order=channel_order,
            stroke_scale=stroke_scale,
        )
    draw_labels(canvas, boxlist, texts, colours, stroke_scale=stroke_scale)


def as_canvas(image: NDArray[np.uint8], boxlist: BoxList | None = None) -> NDArray[np.uint8]:
    """A copy of the image to draw on. Raises: ValueError if it is not (H, W, 3) uint8, or not of the boxes' size."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"draw_instances takes an image (H, W, 3) of uint8, not {image.shape} of {image.dtype}")
    if boxlist is not None and tuple(boxlist.size) != (image.shape[1], image.shape[0]):
        raise ValueError(
            f"draw_instances: the boxes belong to an image of {boxlist.size} (width, height), the image is "
            f"{image.shape[1::-1]}; BoxList.resize scales boxes"
        )
    return np.array(image, order="C")


def best_last(boxlist: BoxList, score_threshold: float = 0.0) -> BoxList:
    """The instances to draw, lowest score first. Boxes without SCORES are returned as they are."""
    if not boxlist.has_field(fields.SCORES):
        return boxlist
    scores = boxlist.get_field(fields.SCORES)
    order = scores.argsort()
    return boxlist[order[scores[order] >= score_threshold]]


def draw_boxes(
    canvas: NDArray[np.uint8], boxlist: BoxList, colours: Sequence[Colour], *, stroke_scale: float = 1.0
) -> None:
    """Draw a frame around the pixels that each box covers."""
    line = line_width(canvas, stroke_scale)
    # Sides further outside the picture are invisible, and OpenCV's integers overflow.
    limits = np.array(canvas.shape[1::-1] * 2) + 2 * line
    for box, colour in zip(boxlist.extents().numpy().clip(-2 * line, limits).round(), colours, strict=True):
        x1, y1, x2, y2 = (int(side) for side in box)
        cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), colour, line)

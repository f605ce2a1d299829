"""Limbs and keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.keypoint import Keypoints, visibility_of

from .colours import Colour, faded, skeleton_colours
from .strokes import line_width

# Confidence of a keypoint: logistic function of its logit, centred at 2; released models mostly guess below that.
_LOGIT_CENTRE, _LOGIT_SCALE = 2.0, 1.5
_FARTHEST = 1 << 14  # coordinates are clipped to this many pixels; OpenCV's integers overflow


def draw_skeletons(
    canvas: NDArray[np.uint8],
    keypoints: Keypoints,
    *,
    threshold: float = -np.inf,
    channel_order: str = "RGB",
    stroke_scale: float = 1.0,
) -> None:
    """Draw the limbs of each instance, then its points. A predicted limb is as confident as its less confident end.

    Points that are hidden, or uncertain by their predicted visibility, are rings; absent ones are not drawn.
    """
    points, predicted = keypoints.keypoints.numpy(), keypoints.has_field(fields.LOGITS)
    visibility = visibility_of(keypoints.keypoints[..., 2]).numpy() if predicted else points[..., 2]
    shown, hidden, confidence = visibility > 0, visibility == 1, np.ones(points.shape[:2])
    if predicted:
        logits = keypoints.get_field(fields.LOGITS).float().numpy()
        shown = shown & (logits >= threshold)
        confidence = 1 / (1 + np.exp((_LOGIT_CENTRE - logits.clip(-20, 20)) / _LOGIT_SCALE))
    # Pixel p covers [p, p + 1), so a coordinate lies in the pixel of its floor.
    pixels = np.nan_to_num(np.floor(points[..., :2])).clip(-_FARTHEST, _FARTHEST).astype(int)
    line = line_width(canvas, stroke_scale)
    point_colours, limb_colours = skeleton_colours(keypoints.spec, channel_order)
    arrays = (pixels, shown, confidence, hidden)
    for places, are_shown, confidences, are_hidden in zip(*(array.tolist() for array in arrays), strict=True):
        for (start, end), colour in zip(keypoints.spec.skeleton, limb_colours, strict=True):
            if are_shown[start] and are_shown[end]:
                strength = min(confidences[start], confidences[end])
                _draw_limb(canvas, places[start], places[end], colour, line, strength)
        for index, place in enumerate(places):
            if are_shown[index]:
                _draw_point(canvas, place, point_colours[index], line, confidences[index], are_hidden[index])


def _draw_limb(
    canvas: NDArray[np.uint8], start: Sequence[int], end: Sequence[int], colour: Colour, line: int, strength: float
) -> None:
    cv2.line(canvas, start, end, faded(colour, strength), _thinned(line, strength), cv2.LINE_AA)


def _draw_point(
    canvas: NDArray[np.uint8], place: Sequence[int], colour: Colour, line: int, strength: float, hidden: bool
) -> None:
    """Draw a disc; if the point is hidden, a white disc with a coloured rim."""
    radius = _thinned(line + 1, strength)
    if hidden:
        cv2.circle(canvas, place, radius, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(canvas, place, radius, faded(colour, strength), 1 if hidden else -1, cv2.LINE_AA)


def _thinned(line: int, strength: float) -> int:
    return max(1, round(line * (0.5 + 0.5 * strength)))

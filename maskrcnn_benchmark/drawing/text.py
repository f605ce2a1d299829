"""Labels and other lines of text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.drawing.label_layout import place_labels
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .colours import Colour
from .strokes import font_scale

Categories = Sequence[str] | Mapping[int, str] | None  # names by label; item 0 of a sequence is the background

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN = 2  # pixels of background around a text


def draw_labels(
    canvas: NDArray[np.uint8],
    boxlist: BoxList,
    texts: Sequence[str],
    colours: Sequence[Colour],
    *,
    stroke_scale: float = 1.0,
) -> list[tuple[int, int, int, int] | None]:
    """Write a text at each box, on a background of the box's colour. Labels do not overlap and are never cut off.

    Returns: for each label (left, top, right, bottom) in pixels, the last two exclusive; None for an empty text, or if
    there is no room for the label.
    """
    scale = font_scale(canvas, stroke_scale)
    sizes = [text_size(text, scale) if text else (0, 0) for text in texts]
    limits = np.array(canvas.shape[1::-1] * 2)
    boxes = np.nan_to_num(boxlist.extents().double().numpy()).clip(0, limits)
    placed: list[tuple[int, int, int, int] | None] = []
    corners = place_labels(boxes, sizes, (canvas.shape[1], canvas.shape[0]))
    for text, corner, (width, height), colour in zip(texts, corners, sizes, colours, strict=True):
        if corner is not None:
            write_text(canvas, text, corner, colour, scale)
        placed.append(None if corner is None else (*corner, corner[0] + width, corner[1] + height))
    return placed


def label_texts(boxlist: BoxList, categories: Categories = None) -> list[str]:
    """The label of each box: category (its number if the name is unknown) and score."""
    words: list[list[str]] = [[] for _ in range(len(boxlist))]
    if boxlist.has_field(fields.LABELS):
        names = categories if isinstance(categories, Mapping) else dict(enumerate(categories or ()))
        for text, label in zip(words, boxlist.get_field(fields.LABELS).tolist(), strict=True):
            text.append(str(names.get(label, label)))
    if boxlist.has_field(fields.SCORES):
        for text, score in zip(words, boxlist.get_field(fields.SCORES).tolist(), strict=True):
            text.append(f"{score:.2f}")
    return [" ".join(text) for text in words]


def write_text(
    canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], background: Colour, scale: float | None = None
) -> None:
    """Write a line of text, black or white, on a background whose upper left pixel is `corner` (left, top).

    Args:
        scale: OpenCV's font scale; None chooses it by the size of the canvas.
    """
    scale = font_scale(canvas) if scale is None else scale
    width, height = text_size(text, scale)
    left, top = corner
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), background, -1)
    bright = 0.2 * background[0] + 0.6 * background[1] + 0.2 * background[2] > 140  # for RGB and BGR
    write_bare_text(canvas, text, corner, (0, 0, 0) if bright else (255, 255, 255), scale)


def write_bare_text(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], ink: Colour, scale: float) -> None:
    """Write a line of text without a background; it fills `text_size` pixels from `corner` (left, top)."""
    _, height, below = _measured(text, scale)
    base = (corner[0] + _MARGIN, corner[1] + _MARGIN + height - 1 - below + _MARGIN)
    cv2.putText(canvas, text, base, _FONT, scale, ink, _thickness(scale), cv2.LINE_AA)


def write_caption(canvas: NDArray[np.uint8], text: str) -> None:
    """Write a line of text in the lower left corner, white on black."""
    scale = font_scale(canvas)
    _, height = text_size(text, scale)
    write_text(canvas, text, (0, max(0, canvas.shape[0] - height)), (0, 0, 0), scale)


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of a text with its background, in pixels."""
    width, height, _ = _measured(text, scale)
    return width + 2 * _MARGIN, height + 2 * _MARGIN


@functools.lru_cache(maxsize=4096)  # the frames of a video repeat the same words
def _measured(text: str, scale: float) -> tuple[int, int, int]:
    """Width and height of the letters, and the part of the height below the baseline, in pixels."""
    (width, above), below = cv2.getTextSize(text, _FONT, scale, _thickness(scale))
    return width, above + below, below


def _thickness(scale: float) -> int:
    return max(1, round(1.5 * scale))

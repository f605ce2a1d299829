"""One image several times, side by side, each time with different instances drawn on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures.bounding_box import BoxList

from .colours import KIND_COLOURS, instance_colours
from .instances import as_canvas, draw_annotations, draw_instances
from .marks import FALSE_POSITIVE, IGNORED, MISS, Mark, Panel
from .sheets import PANEL_STROKES, enlarge_small, side_by_side
from .text import Categories

_KIND_WORDS = {FALSE_POSITIVE: "wrong", MISS: "missed", IGNORED: "ignored"}  # OpenCV's font lacks the page's signs


def draw_comparison(
    image: NDArray[np.uint8], boxlists: Mapping[str, BoxList], categories: Categories = None
) -> NDArray[np.uint8]:
    """Draw each set of boxes, such as ground truth and detections, on a copy of the image, under its title.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxlists: title -> boxes of that image size, with fields as for `draw_instances`.
    Returns: (H', W', 3) uint8 RGB.
    """
    canvas, factor = enlarge_small(image)
    size_wh = (image.shape[1] * factor, image.shape[0] * factor)
    panels = [
        draw_instances(canvas, boxes.resize(size_wh), categories, stroke_scale=PANEL_STROKES)
        for boxes in boxlists.values()
    ]
    return side_by_side(panels, list(boxlists))


def draw_panels(image: NDArray[np.uint8], panels: Sequence[Panel], score_threshold: float = 0.0) -> NDArray[np.uint8]:
    """Draw the marked instances of each panel on a copy of the image (H, W, 3) uint8 RGB, side by side.

    Detections that score below the threshold are left out; annotations that only they found are drawn as missed.
    """
    canvas, factor = enlarge_small(image)
    strokes = PANEL_STROKES if len(panels) > 1 else 1.0
    drawn = [_draw_panel(canvas, panel, factor, score_threshold, strokes) for panel in panels]
    has_scores = [any(mark.score is not None for mark in panel.marks) for panel in panels]
    limit = f", score from {score_threshold:g}"
    titles = [panel.title + (limit if scored else "") for panel, scored in zip(panels, has_scores, strict=True)]
    return side_by_side(drawn, titles)


def _draw_panel(
    image: NDArray[np.uint8], panel: Panel, factor: int, score_threshold: float, strokes: float
) -> NDArray[np.uint8]:
    """Draw one panel on a copy of the image, which was enlarged by `factor`."""
    shown = [row for row, mark in enumerate(panel.marks) if not mark.is_hidden(score_threshold)]
    boxes = panel.boxes.to("cpu").convert("xyxy")[shown]
    boxes = boxes.resize((boxes.size[0] * factor, boxes.size[1] * factor))
    marks = [panel.marks[row] for row in shown]
    kinds = [mark.kind_at(score_threshold) for mark in marks]
    colours = [KIND_COLOURS.get(kind, colour) for kind, colour in zip(kinds, instance_colours(boxes), strict=True)]
    texts = [_label(mark, kind) for mark, kind in zip(marks, kinds, strict=True)]
    canvas = as_canvas(image)
    # The boxes may belong to the upper left part of a padded image; nothing is drawn on the padding.
    part = canvas[: int(boxes.size[1]), : int(boxes.size[0])]
    view = np.ascontiguousarray(part)
    draw_annotations(view, boxes, colours, texts, mask=panel.mask, stroke_scale=strokes)
    part[:] = view
    return canvas


def _label(mark: Mark, kind: str) -> str:
    text = mark.text.replace("\N{MINUS SIGN}", "-")  # OpenCV's font has ASCII only
    return f"{_KIND_WORDS.get(kind, '')} {text}".strip() if text else ""

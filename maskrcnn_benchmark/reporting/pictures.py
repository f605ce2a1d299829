"""Marked instances as pixels: the panels of a card as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.structures import fields

from .matching import FALSE_POSITIVE, IGNORED, MISS, TRUE_POSITIVE
from .overlay import Mark, Panel

TARGET, BETTER, WORSE, SAME = "target", "better", "worse", "same"
# Colours that stay apart for those who do not tell red from green; pages and pictures share them.
COLOURS: dict[str, drawing.Colour] = {
    TRUE_POSITIVE: (18, 184, 134),
    FALSE_POSITIVE: (255, 107, 26),
    MISS: (59, 156, 255),
    BETTER: (18, 184, 134),
    WORSE: (230, 90, 170),
    SAME: (195, 166, 255),
    IGNORED: (184, 190, 198),
}
_WORDS = {FALSE_POSITIVE: "wrong", MISS: "missed", IGNORED: "ignored"}  # letters, which the pictures' font has


def draw_panels(image: np.ndarray, panels: Sequence[Panel], score_threshold: float = 0.0) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB, once for each panel with what is marked on it, side by side.

    Detections below the threshold are left out, annotations that they found are misses.
    """
    canvas, factor = drawing.enlarge_small(image)
    strokes = drawing.PANEL_STROKES if len(panels) > 1 else 1.0
    drawn = [_draw_panel(canvas, panel, factor, score_threshold, strokes) for panel in panels]
    scored = [any(mark.score is not None for mark in panel.marks) for panel in panels]
    limit = f", score from {score_threshold:g}"
    titles = [panel.title + (limit if has_scores else "") for panel, has_scores in zip(panels, scored, strict=True)]
    return drawing.side_by_side(drawn, titles)


def _draw_panel(image: np.ndarray, panel: Panel, enlarged: int, score_threshold: float, strokes: float) -> np.ndarray:
    shown = [row for row, mark in enumerate(panel.marks) if mark.score is None or mark.score >= score_threshold]
    boxes = panel.boxes.to("cpu").convert("xyxy")[shown]
    boxes = boxes.resize((boxes.size[0] * enlarged, boxes.size[1] * enlarged))
    marks = [panel.marks[row] for row in shown]
    kinds = [mark.kind_at(score_threshold) for mark in marks]
    own = drawing.instance_colours(boxes)
    colours = [COLOURS.get(kind, colour) for kind, colour in zip(kinds, own, strict=True)]
    canvas = drawing.as_canvas(image)
    # The boxes may be those of a part of the picture, from its upper left corner, and all lie inside it.
    part = canvas[: int(boxes.size[1]), : int(boxes.size[0])]
    view = np.ascontiguousarray(part)
    drawing.draw_masks(view, boxes, colours, stroke_scale=strokes)
    drawing.draw_boxes(view, boxes, colours, stroke_scale=strokes)
    if boxes.has_field(fields.KEYPOINTS):
        drawing.draw_skeletons(view, boxes.get_field(fields.KEYPOINTS), stroke_scale=strokes)
    texts = [_text(mark, kind) for mark, kind in zip(marks, kinds, strict=True)]
    drawing.draw_labels(view, boxes, texts, colours, stroke_scale=strokes)
    part[:] = view
    return canvas


def _text(mark: Mark, kind: str) -> str:
    text = mark.text.replace("\N{MINUS SIGN}", "-")  # which the font may not have
    return f"{_WORDS.get(kind, '')} {text}".strip() if text else ""

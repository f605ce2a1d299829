"""Instances as SVG shapes that a page can show, hide and colour one by one; the image below them as a small JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from PIL import Image

from maskrcnn_benchmark.drawing import image_masks
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.label_layout import place_labels

from .matching import IGNORED, MISS

JPEG_QUALITY = 80
_CHARACTER_WIDTH = 0.6  # of the font size, on average
_OUTLINE_TOLERANCE = 1 / 800  # of the image's longer side: outlines of masks keep corners that stand out more


@dataclass(frozen=True)
class Mark:
    """What a page knows of one instance.

    kind: decides its colour; one of the page's kinds, for an annotation the one that it has when it was found.
    category: name of its class. text: written at its box. details: shown when pointed at.
    score: of a detection. found: of an annotation, the score of the detection that found it, -inf for none.
    change: by how much refinement changed it.
    """

    kind: str
    category: str
    text: str = ""
    details: str = ""
    score: float | None = None
    found: float | None = None
    change: float | None = None

    def kind_at(self, score_threshold: float) -> str:
        """An annotation is a miss where what found it scores lower."""
        missed = self.found is not None and self.kind != IGNORED and not self.found >= score_threshold
        return MISS if missed else self.kind

    def attributes(self, score_threshold: float) -> str:
        values = {"kind": self.kind_at(score_threshold), "was": self.kind, "class": self.category}
        for name, number in (("score", self.score), ("found", self.found), ("change", self.change)):
            if number is not None:
                values[name] = repr(float(number)) if np.isfinite(number) else "-1"
        hidden = " hidden" if self.is_hidden(score_threshold) else ""
        return "".join(f' data-{name}="{escape(value)}"' for name, value in values.items()) + hidden

    def is_hidden(self, score_threshold: float) -> bool:
        return self.score is not None and self.score < score_threshold


@dataclass(frozen=True)
class Panel:
    """One picture of a card: a title, the boxes on it, and a mark for each.

    frame_wh: a part of the image from its upper left corner to set off; None for none.
    """

    title: str
    boxes: BoxList
    marks: Sequence[Mark]
    size_wh: tuple[int, int]
    frame_wh: tuple[int, int] | None = None


def image_uri(image: np.ndarray, longest: int, kind: str = "jpeg") -> str:
    """(H, W, 3) uint8 RGB -> data URI of a "jpeg" or "png" whose longer side is at most `longest` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def panel_svg(
    panel: Panel,
    image_id: str,
    uri: str | None,
    *,
    font_size: float,
    score_threshold: float = 0.0,
    signs: Mapping[str, str] | None = None,
) -> str:
    """The picture as an <svg> in image pixels: for each mark a <g class="instance">, and above all of these its text.

    Args:
        image_id: of the element that holds the image, unique in the page.
        uri: the image; None in further panels of the same image, which show that of the first.
        font_size: in image pixels.
        score_threshold: detections below it are hidden, annotations that they found are misses, as the page opens.
        signs: by kind, what is written before a text.
    """
    width, height = panel.size_wh
    if uri is not None:
        below = f'<image id="{image_id}" width="{width}" height="{height}" preserveAspectRatio="none" href="{uri}"/>'
    else:
        below = f'<use href="#{image_id}"/>'
    frame = ""
    if panel.frame_wh is not None and panel.frame_wh != panel.size_wh:
        frame = f'<rect class="frame" width="{panel.frame_wh[0]}" height="{panel.frame_wh[1]}"/>'
    label = escape(f"{panel.title}: {', '.join(mark.text or mark.category for mark in panel.marks) or 'nothing'}")
    shapes = "".join(_instance_shapes(panel, score_threshold))
    texts = "".join(_texts(panel, font_size, score_threshold, signs or {}))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" font-size="{_number(font_size)}">'
        f"{below}{frame}{shapes}{texts}</svg>"
    )


def _instance_shapes(panel: Panel, score_threshold: float) -> Iterator[str]:
    """A <g> for each instance: mask, box, skeleton."""
    boxes = panel.boxes.to("cpu").convert("xyxy")
    masks = image_masks(boxes)
    points = boxes.get_field(fields.KEYPOINTS) if boxes.has_field(fields.KEYPOINTS) else None
    for row, (corners, mark) in enumerate(zip(boxes.extents().tolist(), panel.marks, strict=True)):
        x1, y1, x2, y2 = corners
        outline = "" if masks is None else _outline_path(masks[row].numpy())
        parts = [f"<title>{escape(mark.details)}</title>" if mark.details else ""]
        parts.append(f'<path class="mask" d="{outline}"/>' if outline else "")
        side = f'width="{_number(max(0.0, x2 - x1))}" height="{_number(max(0.0, y2 - y1))}"'
        parts.append(f'<rect class="box" x="{_number(x1)}" y="{_number(y1)}" {side}/>')
        parts.append("" if points is None else _skeleton(points, row))
        yield f'<g class="instance" data-row="{row}"{mark.attributes(score_threshold)}>{"".join(parts)}</g>'


def _texts(panel: Panel, size: float, score_threshold: float, signs: Mapping[str, str]) -> Iterator[str]:
    """The texts that there is room for: what comes later in the list chooses its place first."""
    texts = [f"{signs.get(mark.kind, '')} {mark.text}".strip() if mark.text else "" for mark in panel.marks]
    sizes = [(round(len(text) * size * _CHARACTER_WIDTH), round(1.2 * size)) if text else (0, 0) for text in texts]
    extents = panel.boxes.to("cpu").extents().double().numpy()
    corners = place_labels(extents.clip(0, np.array(panel.size_wh * 2)), sizes, panel.size_wh)
    for row, (mark, corner) in enumerate(zip(panel.marks, corners, strict=True)):
        if corner is None:
            continue
        sign = signs.get(mark.kind_at(score_threshold), "")
        span = f'<tspan class="sign">{escape(f"{sign} " if sign else "")}</tspan>' if signs else ""
        hidden = " hidden" if mark.is_hidden(score_threshold) else ""
        place = f'x="{corner[0]}" y="{_number(corner[1] + size)}"'
        yield f'<text data-row="{row}" {place}{hidden}>{span}{escape(mark.text)}</text>'


def _outline_path(mask: np.ndarray) -> str:
    """(H, W), not 0 inside -> closed outlines through the centres of its border pixels, without needless corners."""
    contours, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance = max(0.5, max(mask.shape) * _OUTLINE_TOLERANCE)
    lines = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, tolerance, True)[:, 0] + 0.5
        lines.append("M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in corners.tolist()) + "Z")
    return "".join(lines)


def _skeleton(keypoints: Keypoints, row: int) -> str:
    points = keypoints.keypoints[row].tolist()
    sides = [_side(name) for name in keypoints.NAMES] or ["middle"] * len(points)
    parts = []
    for start, end in keypoints.CONNECTIONS:
        if points[start][2] > 0 and points[end][2] > 0:
            side = sides[start] if sides[start] == sides[end] else "middle"
            x1, y1, x2, y2 = (_number(value) for value in (*points[start][:2], *points[end][:2]))
            parts.append(f'<line class="{side}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    radius = _number(max(keypoints.size) / 200)
    for (x, y, visibility), side in zip(points, sides, strict=True):
        if visibility > 0:
            hidden = " hidden-point" if visibility == 1 else ""
            parts.append(f'<circle class="{side}{hidden}" cx="{_number(x)}" cy="{_number(y)}" r="{radius}"/>')
    return f'<g class="skeleton">{"".join(parts)}</g>'


def _side(name: str) -> str:
    side = name.split("_")[0]
    return side if side in ("left", "right") else "middle"


def _number(value: float) -> str:
    """A tenth of a pixel is enough, and short."""
    return f"{value:.1f}".rstrip("0").rstrip(".")

"""Marked instances as SVG shapes, which a page can show, hide and colour one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.drawing.label_layout import place_labels
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.named_masks import mask_names, with_mask
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

from .colours import KIND_COLOURS, SVG_SIDE_COLOURS, SVG_TARGET_COLOURS, Colour, limb_sides
from .marks import Mark, Panel
from .masks import image_masks

_CHARACTER_WIDTH = 0.6  # average, as a fraction of the font size
_OUTLINE_TOLERANCE = 1 / 800  # a mask's outline may be simplified by this fraction of the image's longer side


def colour_variables() -> str:
    """CSS declarations of the colours that the page's style sheet uses, "--tp: rgb(18, 184, 134); ..."."""
    targets = {f"target-{index}": colour for index, colour in enumerate(SVG_TARGET_COLOURS)}
    colours: dict[str, Colour] = {**KIND_COLOURS, **targets, **SVG_SIDE_COLOURS}
    return "".join(f"--{name}: rgb{colour}; " for name, colour in colours.items())


def panel_svg(
    panel: Panel,
    image_id: str,
    uri: str | None,
    *,
    font_size: float,
    score_threshold: float = 0.0,
    signs: Mapping[str, str] | None = None,
) -> str:
    """The panel as an <svg> in image pixels: a <g class="instance"> for each mark, and the labels above all of them.

    Args:
        image_id: id of the element that holds the image, unique in the page.
        uri: URI of the image; None in further panels of the same image, which refer to the first by its id.
        font_size: in image pixels.
        score_threshold: detections below it are hidden, and annotations that only these found count as missed.
        signs: kind -> sign in front of a label.
    """
    width, height = panel.size_wh
    if uri is not None:
        image = f'<image id="{image_id}" width="{width}" height="{height}" preserveAspectRatio="none" href="{uri}"/>'
    else:
        image = f'<use href="#{image_id}"/>'
    frame = ""
    if panel.frame_wh is not None and panel.frame_wh != panel.size_wh:
        frame = f'<rect class="frame" width="{panel.frame_wh[0]}" height="{panel.frame_wh[1]}"/>'
    label = escape(f"{panel.title}: {', '.join(mark.text or mark.category for mark in panel.marks) or 'nothing'}")
    shapes = "".join(_instance_shapes(panel, score_threshold))
    texts = "".join(_texts(panel, font_size, score_threshold, signs or {}))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" font-size="{_number(font_size)}">'
        f"{image}{frame}{shapes}{texts}</svg>"
    )


def _instance_shapes(panel: Panel, score_threshold: float) -> Iterator[str]:
    """A <g> for each instance: mask, box, skeleton."""
    boxes = panel.boxes.to("cpu").convert("xyxy")
    names = mask_names(boxes)
    filled = names[0] if panel.mask is None and names else panel.mask
    masks = {name: image_masks(with_mask(boxes, name)) for name in sorted(names, key=lambda name: name != filled)}
    points = boxes.get_field(fields.KEYPOINTS) if boxes.has_field(fields.KEYPOINTS) else None
    for row, (corners, mark) in enumerate(zip(boxes.extents().tolist(), panel.marks, strict=True)):
        x1, y1, x2, y2 = corners
        parts = [f"<title>{escape(mark.details)}</title>" if mark.details else ""]
        for name, mask in masks.items():
            outline = "" if mask is None else _outline_path(mask[row].numpy())
            kind = "mask" if name == filled else "mask other-mask"
            parts.append(f'<path class="{kind}" d="{outline}"/>' if outline else "")
        size = f'width="{_number(max(0.0, x2 - x1))}" height="{_number(max(0.0, y2 - y1))}"'
        parts.append(f'<rect class="box" x="{_number(x1)}" y="{_number(y1)}" {size}/>')
        parts.append("" if points is None else _skeleton(points, row))
        yield f'<g class="instance" data-row="{row}"{_data_attributes(mark, score_threshold)}>{"".join(parts)}</g>'


def _data_attributes(mark: Mark, score_threshold: float) -> str:
    """The attributes that the page's script reads, and `hidden`."""
    values = {"kind": mark.kind_at(score_threshold), "was": mark.kind, "class": mark.category}
    for name, number in (("score", mark.score), ("found", mark.found), ("change", mark.change)):
        if number is not None:
            values[name] = repr(float(number)) if np.isfinite(number) else "-1"
    hidden = " hidden" if mark.is_hidden(score_threshold) else ""
    return "".join(f' data-{name}="{escape(value)}"' for name, value in values.items()) + hidden


def _texts(panel: Panel, size: float, score_threshold: float, signs: Mapping[str, str]) -> Iterator[str]:
    """The labels that fit into the picture; later instances are placed first."""
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


def _outline_path(mask: NDArray[np.generic]) -> str:
    """(H, W), nonzero inside -> simplified closed outlines through the centres of the border pixels."""
    contours, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance = max(0.5, max(mask.shape) * _OUTLINE_TOLERANCE)
    lines = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, tolerance, True)[:, 0] + 0.5
        lines.append("M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in corners.tolist()) + "Z")
    return "".join(lines)


def _skeleton(keypoints: Keypoints, row: int) -> str:
    points, spec = keypoints.keypoints[row].tolist(), keypoints.spec
    parts = []
    for (start, end), side in zip(spec.skeleton, limb_sides(spec), strict=True):
        if points[start][2] > 0 and points[end][2] > 0:
            x1, y1, x2, y2 = (_number(value) for value in (*points[start][:2], *points[end][:2]))
            parts.append(f'<line {_paint(spec, end, side)} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    radius = _number(max(keypoints.size) / 200)
    for index, ((x, y, visibility), side) in enumerate(zip(points, spec.sides, strict=True)):
        if visibility > 0:
            paint = _paint(spec, index, f"{side} hidden-point" if visibility == 1 else side)
            parts.append(f'<circle {paint} cx="{_number(x)}" cy="{_number(y)}" r="{radius}"/>')
    return f'<g class="skeleton">{"".join(parts)}</g>'


def _paint(spec: KeypointSpec, index: int, names: str) -> str:
    """Attributes for the colour: the classes of the page's colours, and the point's own colour where it has one."""
    own = f' style="--{names.split()[0]}: rgb{spec.colors[index]}"' if spec.colors else ""
    return f'class="{names}"{own}'


def _number(value: float) -> str:
    """Rounded to a tenth of a pixel, without trailing zeros."""
    return f"{value:.1f}".rstrip("0").rstrip(".")

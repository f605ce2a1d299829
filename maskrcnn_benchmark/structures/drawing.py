"""Pictures of instances: boxes, masks, skeletons and labels, on the image they belong to."""

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import paste_masks
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints

Colour = tuple[int, int, int]  # red, green, blue, 0 .. 255

# Hues of limbs and points by side, as parts of the colour circle: a mirrored skeleton is seen at a glance.
_LEFT_HUES, _RIGHT_HUES, _MIDDLE_HUES = (0.28, 0.45), (0.98, 1.12), (0.54, 0.64)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FILL = 0.45  # opacity of a mask


def draw_instances(
    image: np.ndarray,
    boxlist: BoxList,
    categories: Sequence[str] | Mapping[int, str] | None = None,
    *,
    score_threshold: float = 0.0,
    mask_threshold: float = 0.5,
    keypoint_threshold: float = -np.inf,
    show_labels: bool = True,
) -> np.ndarray:
    """Draw ground truth or detections on a copy of an image; each instance has a colour, the best are drawn last.

    Left limbs are green, right ones red to orange, the rest blue; a labelled but hidden keypoint (visibility 1 of
    ground truth) is a ring.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxlist: boxes of that image size, with any of the fields LABELS, SCORES, MASKS or MASK (spanning MASK_BOXES
            where there are any, else the box; or drawn over the image already), KEYPOINTS.
        categories: names by label; a sequence starts with label 0, the background.
        score_threshold: instances that score lower are left out; without SCORES all are drawn.
        mask_threshold: a pixel of MASK is drawn where its probability exceeds this.
        keypoint_threshold: predicted points whose logit is lower are left out.
        show_labels: write category and score into each box's corner.
    Returns: (H, W, 3) uint8, RGB.
    Raises: ValueError when image and boxes do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"draw_instances takes an RGB image (H, W, 3) of uint8, not {image.shape} {image.dtype}")
    if tuple(boxlist.size) != (image.shape[1], image.shape[0]):
        raise ValueError(
            f"draw_instances: boxes of an image of {boxlist.size}, the picture is {image.shape[1::-1]} "
            "(width, height); BoxList.resize brings them to it"
        )
    canvas = np.ascontiguousarray(image).copy()
    boxlist = _select(boxlist.to("cpu").convert("xyxy"), score_threshold)
    colours = [_colour(index) for index in range(len(boxlist))]
    line = _line_width(image)
    masks = _image_masks(boxlist, mask_threshold)
    if masks is not None:
        for mask, colour in zip(masks, colours, strict=True):
            _draw_mask(canvas, mask.numpy().astype(np.uint8), colour, line)
    for box, colour in zip(boxlist.extents().tolist(), colours, strict=True):
        x1, y1, x2, y2 = (int(round(side)) for side in box)
        cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), colour, line)
    if boxlist.has_field(fields.KEYPOINTS):
        _draw_skeletons(canvas, boxlist.get_field(fields.KEYPOINTS), keypoint_threshold, line)
    if show_labels:
        for box, text, colour in zip(boxlist.bbox.tolist(), _texts(boxlist, categories), colours, strict=True):
            if text:
                _write(canvas, text, (int(box[0]), int(box[1])), colour)
    return canvas


def side_by_side(
    panels: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, height: int | None = None, gap: int = 8
) -> np.ndarray:
    """One picture of several, left to right, each under its title.

    Args:
        panels: images (H, W, 3) uint8, RGB; they are scaled to one height.
        titles: a line of text for each.
        height: of the panels, in pixels; that of the tallest by default.
        gap: white space between panels, in pixels.
    Returns: (H', W', 3) uint8, RGB, on white.
    """
    if not panels or (titles is not None and len(titles) != len(panels)):
        raise ValueError(f"side_by_side: {len(panels)} panels with {len(titles or ())} titles")
    height = height or max(panel.shape[0] for panel in panels)
    scaled = []
    for panel in panels:
        width = max(1, round(panel.shape[1] * height / panel.shape[0]))
        method = cv2.INTER_AREA if height < panel.shape[0] else cv2.INTER_CUBIC
        same = panel.shape[:2] == (height, width)
        scaled.append(panel if same else cv2.resize(panel, (width, height), interpolation=method))
    font_scale = max(0.4, height / 800)
    strip = 0 if titles is None else int(34 * font_scale) + 6
    total = sum(panel.shape[1] for panel in scaled) + gap * (len(scaled) - 1)
    sheet = np.full((height + strip, total, 3), 255, dtype=np.uint8)
    left = 0
    for position, panel in enumerate(scaled):
        sheet[strip:, left : left + panel.shape[1]] = panel
        if titles is not None:
            head = sheet[:strip, left : left + panel.shape[1]]
            title = np.ascontiguousarray(head)  # drawn apart, so that a long title ends at its panel's edge
            thickness = max(1, round(2 * font_scale))
            cv2.putText(
                title, titles[position], (4, int(25 * font_scale)), _FONT, font_scale, (0, 0, 0), thickness, cv2.LINE_AA
            )
            head[:] = title
        left += panel.shape[1] + gap
    return sheet


def _select(boxlist: BoxList, score_threshold: float) -> BoxList:
    """The instances to draw, in drawing order: worse scores first."""
    if not boxlist.has_field(fields.SCORES):
        return boxlist
    scores = boxlist.get_field(fields.SCORES)
    order = scores.argsort()
    return boxlist[order[scores[order] >= score_threshold]]


def _image_masks(boxlist: BoxList, threshold: float) -> Tensor | None:
    """(R, H, W), not 0 where an instance is, or None for boxes without masks; predictions go before ground truth."""
    width, height = (int(side) for side in boxlist.size)
    if boxlist.has_field(fields.MASK):
        masks = boxlist.get_field(fields.MASK)
        masks = masks[:, 0] if masks.dim() == 4 else masks
        if masks.shape[-2:] == (height, width) and not masks.is_floating_point():
            return masks
        spans = boxlist.get_field(fields.MASK_BOXES) if boxlist.has_field(fields.MASK_BOXES) else boxlist
        return paste_masks(masks, spans.extents(), (height, width), threshold)
    if boxlist.has_field(fields.MASKS):
        return boxlist.get_field(fields.MASKS).get_mask_tensor()
    return None


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour, line: int) -> None:
    """Tint the pixels of a mask (H, W) and trace its outline."""
    inside = mask != 0
    if not inside.any():
        return
    tinted = (1 - _FILL) * canvas[inside] + _FILL * np.array(colour, dtype=np.float32)
    canvas[inside] = np.round(tinted).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, max(1, line // 2))


def _draw_skeletons(canvas: np.ndarray, keypoints: Keypoints, threshold: float, line: int) -> None:
    points = keypoints.keypoints
    shown = points[..., 2] > 0
    if keypoints.has_field(fields.LOGITS):
        shown = shown & (keypoints.get_field(fields.LOGITS) >= threshold)
    point_colours, limb_colours = _skeleton_colours(keypoints, points.shape[1])
    for instance, drawn in zip(points.tolist(), shown.tolist(), strict=True):
        # Pixel p covers [p, p + 1), so the pixel that holds a coordinate is its floor.
        pixels = [(int(np.floor(x)), int(np.floor(y))) for x, y, _ in instance]
        for (start, end), colour in zip(keypoints.CONNECTIONS, limb_colours, strict=True):
            if drawn[start] and drawn[end]:
                cv2.line(canvas, pixels[start], pixels[end], colour, line, cv2.LINE_AA)
        for index, (_, _, visibility) in enumerate(instance):
            if drawn[index]:
                hidden = visibility == 1 and not keypoints.has_field(fields.LOGITS)
                cv2.circle(canvas, pixels[index], line + 1, (255, 255, 255), -1, cv2.LINE_AA)
                cv2.circle(canvas, pixels[index], line + 1, point_colours[index], 1 if hidden else -1, cv2.LINE_AA)


def _skeleton_colours(keypoints: Keypoints, count: int) -> tuple[list[Colour], list[Colour]]:
    """Colours of the points and of the connections: shades of one hue for each side that the names tell."""
    sides = [name.split("_")[0] for name in keypoints.NAMES] or [""] * count
    limbs = [sides[start] if sides[start] == sides[end] else "" for start, end in keypoints.CONNECTIONS]
    return _shades(sides), _shades(limbs)


def _shades(sides: Sequence[str]) -> list[Colour]:
    ranges = {"left": _LEFT_HUES, "right": _RIGHT_HUES}
    seen: dict[str, int] = {}
    colours = []
    for side in sides:
        side = side if side in ranges else ""
        first, last = ranges.get(side, _MIDDLE_HUES)
        part = seen.get(side, 0) / max(1, sum((other if other in ranges else "") == side for other in sides) - 1)
        seen[side] = seen.get(side, 0) + 1
        colours.append(_rgb(first + part * (last - first), 0.95, 0.95))
    return colours


def _texts(boxlist: BoxList, categories: Sequence[str] | Mapping[int, str] | None) -> list[str]:
    """What is written at each box: category or its number, and the score."""
    words: list[list[str]] = [[] for _ in range(len(boxlist))]
    if boxlist.has_field(fields.LABELS):
        for text, label in zip(words, boxlist.get_field(fields.LABELS).tolist(), strict=True):
            text.append(_category_name(categories, label))
    if boxlist.has_field(fields.SCORES):
        for text, score in zip(words, boxlist.get_field(fields.SCORES).tolist(), strict=True):
            text.append(f"{score:.2f}")
    return [" ".join(text) for text in words]


def _category_name(categories: Sequence[str] | Mapping[int, str] | None, label: int) -> str:
    names = categories if isinstance(categories, Mapping) else dict(enumerate(categories or ()))
    return str(names.get(label, label))


def _write(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Text on a ground of its own, above the corner where there is room, else below it; never off the picture."""
    scale = max(0.33, 0.16 * _line_width(canvas) + 0.2)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    height, room = height + 2, height + baseline + 2
    left = min(max(corner[0], 0), max(0, canvas.shape[1] - width))
    top = corner[1] - room if corner[1] >= room else max(corner[1], 0)
    top = min(top, max(0, canvas.shape[0] - room))
    cv2.rectangle(canvas, (left, top), (left + width, top + room), colour, -1)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(canvas, text, (left, top + height), _FONT, scale, ink, 1, cv2.LINE_AA)


def _line_width(image: np.ndarray) -> int:
    return max(1, round(max(image.shape[:2]) / 320))


def _colour(index: int) -> Colour:
    """A colour for each instance; consecutive ones are far apart on the colour circle (golden section)."""
    return _rgb(0.55 + index * 0.618034, 0.75 if index % 2 else 0.9, 0.95)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)

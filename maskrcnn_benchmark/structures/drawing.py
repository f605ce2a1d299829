"""Pictures of instances: boxes, masks, skeletons and labels, on the image they belong to.

`draw_instances` makes a whole picture. The parts that it consists of draw on a canvas in place: (H, W, 3) uint8, its
channels in the order that the colours were asked for in, instances in the order of the BoxList, the last on top.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import paste_masks, paste_windows
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.label_layout import place_labels

Colour = tuple[int, int, int]  # in the canvas' order of channels, 0 .. 255
Categories = Sequence[str] | Mapping[int, str] | None  # names by label; a sequence starts with label 0, the background

CHANNEL_ORDERS = ("RGB", "BGR")

# Hues of limbs and points by side, as parts of the colour circle: a mirrored skeleton is seen at a glance.
_LEFT_HUES, _RIGHT_HUES, _MIDDLE_HUES = (0.28, 0.45), (0.98, 1.12), (0.54, 0.64)
_GREY = 128  # what the colour of a limb fades to where the model is unsure
# A keypoint's confidence is the logistic function of its logit about 2, below which released models mostly guess.
_LOGIT_CENTRE, _LOGIT_SCALE = 2.0, 1.5
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FILL = 0.45  # opacity of a mask
_TILE_DIMMING = 0.35  # brightness left of the image behind a heat map


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
    Returns: (H, W, 3) uint8, in `channel_order`.
    Raises: ValueError when image and boxes do not fit.
    """
    canvas = as_canvas(image, boxlist)
    boxlist = best_last(boxlist.to("cpu").convert("xyxy"), score_threshold)
    colours = instance_colours(boxlist, channel_order)
    draw_masks(canvas, boxlist, colours, threshold=mask_threshold)
    draw_boxes(canvas, boxlist, colours)
    if boxlist.has_field(fields.KEYPOINTS):
        keypoints = boxlist.get_field(fields.KEYPOINTS)
        draw_skeletons(canvas, keypoints, threshold=keypoint_threshold, channel_order=channel_order)
    if show_labels:
        draw_labels(canvas, boxlist, label_texts(boxlist, categories), colours)
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


def instance_colours(boxlist: BoxList, channel_order: str = "RGB") -> list[Colour]:
    """A colour for each instance: by IDENTITIES where there are any, else by its place in the list.

    Consecutive ones are far apart on the colour circle (golden section).
    """
    if boxlist.has_field(fields.IDENTITIES):
        indices = boxlist.get_field(fields.IDENTITIES).tolist()
    else:
        indices = list(range(len(boxlist)))
    return _ordered(
        [_rgb(0.55 + index * 0.618034, 0.75 if index % 2 else 0.9, 0.95) for index in indices], channel_order
    )


def draw_boxes(canvas: NDArray[np.uint8], boxlist: BoxList, colours: Sequence[Colour]) -> None:
    """Frame the pixels that each box covers."""
    line = line_width(canvas)
    # Beyond the picture by more than a line's width, there is nothing to see of a side, and integers have an end.
    limits = np.array(canvas.shape[1::-1] * 2) + 2 * line
    for box, colour in zip(boxlist.extents().numpy().clip(-2 * line, limits).round(), colours, strict=True):
        x1, y1, x2, y2 = (int(side) for side in box)
        cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), colour, line)


def draw_masks(
    canvas: NDArray[np.uint8], boxlist: BoxList, colours: Sequence[Colour], *, threshold: float = 0.5
) -> None:
    """Tint the pixels of each mask, and within them its outline more strongly; nothing where there are no masks."""
    outline = max(1, line_width(canvas) // 2)
    scratch = np.empty((2, canvas.size), dtype=np.uint8)
    for (left, top, mask), colour in zip(_mask_windows(boxlist, threshold), colours, strict=False):
        x, y, width, height = cv2.boundingRect(mask)
        if width and height:
            window = canvas[top + y : top + y + height, left + x : left + x + width]
            _tint(window, mask[y : y + height, x : x + width], colour, outline, scratch)


def draw_skeletons(
    canvas: NDArray[np.uint8], keypoints: Keypoints, *, threshold: float = -np.inf, channel_order: str = "RGB"
) -> None:
    """Draw the limbs of each instance, then its points; a predicted limb is as sure as its less sure end."""
    points = keypoints.keypoints.numpy()
    shown = points[..., 2] > 0
    predicted = keypoints.has_field(fields.LOGITS)
    strength: NDArray[np.float64] = np.ones(points.shape[:2])
    if predicted:
        logits = keypoints.get_field(fields.LOGITS).float().numpy()
        shown = shown & (logits >= threshold)
        strength = 1 / (1 + np.exp((_LOGIT_CENTRE - logits.clip(-20, 20)) / _LOGIT_SCALE))
    # Pixel p covers [p, p + 1), so the pixel that holds a coordinate is its floor.
    pixels = np.nan_to_num(np.floor(points[..., :2])).clip(-(1 << 14), 1 << 14).astype(int)
    line = line_width(canvas)
    point_colours, limb_colours = (
        _ordered(colours, channel_order) for colours in _skeleton_colours(keypoints, points.shape[1])
    )
    for place, drawn, sure, flags in zip(
        pixels.tolist(), shown.tolist(), strength.tolist(), points[..., 2].tolist(), strict=True
    ):
        for (start, end), colour in zip(keypoints.CONNECTIONS, limb_colours, strict=True):
            if drawn[start] and drawn[end]:
                weight = min(sure[start], sure[end])
                cv2.line(canvas, place[start], place[end], _faded(colour, weight), _thinned(line, weight), cv2.LINE_AA)
        for index, centre in enumerate(place):
            if drawn[index]:
                radius = _thinned(line + 1, sure[index])
                hidden = flags[index] == 1 and not predicted
                cv2.circle(canvas, centre, radius, (255, 255, 255), -1, cv2.LINE_AA)
                colour = _faded(point_colours[index], sure[index])
                cv2.circle(canvas, centre, radius, colour, 1 if hidden else -1, cv2.LINE_AA)


def draw_labels(
    canvas: NDArray[np.uint8], boxlist: BoxList, texts: Sequence[str], colours: Sequence[Colour]
) -> list[tuple[int, int, int, int] | None]:
    """Write a text at each box, on a ground of the box's colour; texts are whole and do not cover each other.

    Returns: left, top, right, bottom of each label, in pixels, the last two exclusive; None where there is no text, or
    no room for it.
    """
    scale = _font_scale(canvas)
    sizes = [_text_size(text, scale) if text else (0, 0) for text in texts]
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
    """What is written at each box: category or its number, and the score."""
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
    canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], ground: Colour, scale: float | None = None
) -> None:
    """A line of text, black or white, on a ground whose upper left pixel is `corner` (left, top)."""
    scale = _font_scale(canvas) if scale is None else scale
    width, height = _text_size(text, scale)
    left, top = corner
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), ground, -1)
    bright = 0.2 * ground[0] + 0.6 * ground[1] + 0.2 * ground[2] > 140  # in either order of the channels
    ink = (0, 0, 0) if bright else (255, 255, 255)
    thickness = _text_thickness(scale)
    _, baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    cv2.putText(canvas, text, (left + 2, top + height - 1 - baseline), _FONT, scale, ink, thickness, cv2.LINE_AA)


def write_caption(canvas: NDArray[np.uint8], text: str) -> None:
    """A line of text in the lower left corner, white on black."""
    scale = _font_scale(canvas)
    _, height = _text_size(text, scale)
    write_text(canvas, text, (0, max(0, canvas.shape[0] - height)), (0, 0, 0), scale)


def image_masks(boxlist: BoxList, threshold: float = 0.5) -> Tensor | None:
    """(R, H, W), not 0 where an instance is, or None for boxes without masks; predictions go before ground truth."""
    width, height = (int(side) for side in boxlist.size)
    if boxlist.has_field(fields.MASK):
        masks, spans = _predicted_masks(boxlist)
        return masks if spans is None else paste_masks(masks, spans.extents(), (height, width), threshold)
    return boxlist.get_field(fields.MASKS).get_mask_tensor() if boxlist.has_field(fields.MASKS) else None


def mask_montage(
    image: NDArray[np.uint8],
    boxlist: BoxList,
    per_side: int,
    categories: Categories = None,
    *,
    channel_order: str = "RGB",
) -> NDArray[np.uint8]:
    """The mask probabilities of the best detections as heat maps, each over the dimmed image, in a square of tiles.

    Args:
        image: (H, W, 3) uint8, in `channel_order`.
        boxlist: boxes of that image size with MASK: probabilities, or masks drawn over the image already.
        per_side: tiles in a row and in a column.
    Returns: (H, W, 3) uint8, in `channel_order`; tiles that nothing is left for are dim.
    Raises: ValueError when image and boxes do not fit, for no tiles, and for boxes without MASK.
    """
    if per_side < 1 or not boxlist.has_field(fields.MASK):
        raise ValueError(
            f"mask_montage takes one tile per side or more, not {per_side}, and detections with the field "
            f"{fields.MASK!r}, not with {', '.join(boxlist.fields()) or 'none'}"
        )
    sheet = as_canvas(image, boxlist)
    order = best_last(boxlist.to("cpu").convert("xyxy"))
    best = order[list(reversed(range(len(order))))[: per_side**2]]
    width, height = max(1, image.shape[1] // per_side), max(1, image.shape[0] // per_side)
    small = best.resize((width, height))
    dimmed = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    dimmed = cv2.convertScaleAbs(dimmed, alpha=_TILE_DIMMING)
    sheet[:] = 0
    heat_maps = list(_probability_windows(best, (width, height)))
    texts = label_texts(small, categories)
    for index in range(per_side**2):
        row, column = divmod(index, per_side)
        tile = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        tile[:] = dimmed
        if index < len(heat_maps):
            left, top, heat = heat_maps[index]
            window = tile[top : top + heat.shape[0], left : left + heat.shape[1]]
            coloured = cv2.applyColorMap(heat, cv2.COLORMAP_TURBO) if heat.size else window  # comes as BGR
            coloured = coloured if channel_order == "BGR" else coloured[..., ::-1]
            cv2.copyTo(np.ascontiguousarray(coloured), heat, window)
            write_text(tile, texts[index], (0, 0), (255, 255, 255))
    return sheet


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


def line_width(image: NDArray[np.uint8]) -> int:
    """Of boxes and limbs, in pixels: 1 for small images, 4 on 1920 x 1080."""
    return max(1, round(max(image.shape[:2]) / 450))


def _mask_windows(boxlist: BoxList, threshold: float) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """For each instance left, top and the mask (h, w) of a window of the image, not 0 where the instance is."""
    if boxlist.has_field(fields.MASK):
        masks, spans = _predicted_masks(boxlist)
        if spans is not None:
            size_hw = (int(boxlist.size[1]), int(boxlist.size[0]))
            for left, top, window in paste_windows(masks, spans.extents(), size_hw, threshold):
                yield left, top, window.numpy().view(np.uint8)
            return
    else:
        drawn = image_masks(boxlist)
        if drawn is None:
            return
        masks = drawn
    for mask in masks.contiguous().numpy():
        yield 0, 0, mask.view(np.uint8) if mask.itemsize == 1 else (mask != 0).astype(np.uint8)


def _probability_windows(boxlist: BoxList, size_wh: tuple[int, int]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """For each instance left, top and the mask's probability * 255 in a window of the image scaled to `size_wh`."""
    masks, spans = _predicted_masks(boxlist)
    if spans is None:
        for mask in masks.numpy():
            heat = mask.astype(np.uint8) * (255 if masks.is_floating_point() or mask.max(initial=0) <= 1 else 1)
            yield 0, 0, cv2.resize(heat, size_wh, interpolation=cv2.INTER_AREA)
        return
    ratios = [size_wh[0] / boxlist.size[0], size_wh[1] / boxlist.size[1]] * 2
    extents = spans.extents() * spans.bbox.new_tensor(ratios)
    for left, top, window in paste_windows(masks, extents, size_wh[::-1], -1):
        yield left, top, window.numpy()


def _predicted_masks(boxlist: BoxList) -> tuple[Tensor, BoxList | None]:
    """MASK as (R, M, M) probabilities and the boxes that they span; or as (R, H, W) drawn masks, and None."""
    masks = boxlist.get_field(fields.MASK)
    masks = masks[:, 0] if masks.dim() == 4 else masks
    if not masks.is_floating_point() and masks.shape[-2:] == (int(boxlist.size[1]), int(boxlist.size[0])):
        return masks, None
    return masks, boxlist.get_field(fields.MASK_BOXES) if boxlist.has_field(fields.MASK_BOXES) else boxlist


def _tint(
    window: NDArray[np.uint8], mask: NDArray[np.uint8], colour: Colour, outline: int, scratch: NDArray[np.uint8]
) -> None:
    """Blend a colour into the part (h, w, 3) of a picture where a mask (h, w) is not 0.

    A mean over the mask tells how deep inside it a pixel lies: the outline is where that is below 1. At the tips of
    steps it is least, and these have the weaker tint of the mask's inside, which makes slanted edges smoother. The
    pixels that change are those of the mask, no others.

    Args:
        scratch: (2, S), S >= h * w * 3; memory that was used before is several times as fast as fresh one.
    """
    padded = np.zeros((mask.shape[0] + 2 * outline, mask.shape[1] + 2 * outline), dtype=np.uint8)
    inside = padded[outline:-outline, outline:-outline]
    cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY, dst=inside)
    side = 2 * outline + 1
    depth = cv2.blur(padded, (side, side))[outline:-outline, outline:-outline]
    straight = int(255 * (outline + 1) / side)  # at the outermost pixel along a straight edge
    edge = cv2.bitwise_and(cv2.inRange(depth, straight - 8, 254), inside)
    flat, blended = (memory[: window.size].reshape(window.shape) for memory in scratch)
    cv2.rectangle(flat, (0, 0), (flat.shape[1], flat.shape[0]), colour, -1)
    cv2.addWeighted(window, 1 - _FILL, flat, _FILL, 0, dst=blended)
    cv2.copyTo(blended, inside, window)
    cv2.copyTo(flat, edge, window)


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


def _faded(colour: Colour, strength: float) -> Colour:
    """Towards grey, the less strong the more so."""
    red, green, blue = (round(_GREY + strength * (channel - _GREY)) for channel in colour)
    return red, green, blue


def _thinned(line: int, strength: float) -> int:
    return max(1, round(line * (0.5 + 0.5 * strength)))


def _font_scale(image: NDArray[np.uint8]) -> float:
    return max(0.33, max(image.shape[:2]) / 2400)


def _text_thickness(scale: float) -> int:
    return max(1, round(1.5 * scale))


def _text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of a text with the ground around it, in pixels."""
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, _text_thickness(scale))
    return width + 4, height + baseline + 4


def _ordered(colours: Sequence[Colour], channel_order: str) -> list[Colour]:
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order is {channel_order!r}; it can be {' or '.join(map(repr, CHANNEL_ORDERS))}")
    return list(colours) if channel_order == "RGB" else [(blue, green, red) for red, green, blue in colours]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)

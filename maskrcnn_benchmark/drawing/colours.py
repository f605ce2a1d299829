"""The colour scheme: instances, kinds of marks, limbs and keypoints, training runs."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

from .marks import BETTER, FALSE_POSITIVE, IGNORED, MISS, SAME, TRUE_POSITIVE, WORSE

Colour = tuple[int, int, int]  # 0 .. 255, in the channel order of the canvas

CHANNEL_ORDERS = ("RGB", "BGR")

# RGB. Readers who cannot tell red from green can tell these apart. TARGET is absent: targets have instance colours.
KIND_COLOURS: dict[str, Colour] = {
    TRUE_POSITIVE: (18, 184, 134),
    FALSE_POSITIVE: (255, 107, 26),
    MISS: (59, 156, 255),
    BETTER: (18, 184, 134),
    WORSE: (230, 90, 170),
    SAME: (195, 166, 255),
    IGNORED: (184, 190, 198),
}
# SVG shapes, RGB: targets take these colours in turn; a limb or point takes the colour of its side.
SVG_TARGET_COLOURS: tuple[Colour, ...] = ((255, 159, 26), (18, 184, 134), (230, 103, 216), (59, 156, 255))
SVG_SIDE_COLOURS: dict[str, Colour] = {"left": (61, 220, 80), "right": (255, 77, 61), "middle": (47, 143, 255)}
# Lines of training runs, as matplotlib takes colours.
RUN_COLOURS = ("#0b5cad", "#e0622a", "#12936d", "#9a57c9", "#b8860b", "#c23b74", "#4c6a85", "#6b8e23")

# First and last hue of the limbs and points on each side, as fractions of the colour circle.
_SIDE_HUES = {"left": (0.28, 0.45), "right": (0.98, 1.12), "middle": (0.54, 0.64)}
_GREY = 128  # limbs fade to this where the model is uncertain


def instance_colours(boxlist: BoxList, channel_order: str = "RGB") -> list[Colour]:
    """A colour for each instance, chosen by its number in IDENTITIES, or by its index if there is no such field.

    Consecutive numbers are far apart on the colour circle (golden section).
    """
    if boxlist.has_field(fields.IDENTITIES):
        numbers = boxlist.get_field(fields.IDENTITIES).tolist()
    else:
        numbers = list(range(len(boxlist)))
    return numbered_colours(numbers, channel_order)


def numbered_colours(numbers: Sequence[int], channel_order: str = "RGB") -> list[Colour]:
    """A colour for each number, counted from 0; equal numbers have equal colours."""
    return _in_order([_rgb(0.55 + n * 0.618034, 0.75 if n % 2 else 0.9, 0.95) for n in numbers], channel_order)


def skeleton_colours(spec: KeypointSpec, channel_order: str) -> tuple[list[Colour], list[Colour]]:
    """Colours of the points and of the limbs between them.

    They are those of the specification, where a limb has the colour of its second point. Without any, they are shades
    of one hue per side of the body.
    """
    if spec.colors:
        points, limbs = list(spec.colors), [spec.colors[end] for _, end in spec.skeleton]
    else:
        points, limbs = _shades(spec.sides), _shades(limb_sides(spec))
    return _in_order(points, channel_order), _in_order(limbs, channel_order)


def limb_sides(spec: KeypointSpec) -> list[str]:
    """The side of each limb: the side of its points if they agree, else "middle"."""
    sides = spec.sides
    return [sides[start] if sides[start] == sides[end] else "middle" for start, end in spec.skeleton]


def faded(colour: Colour, strength: float) -> Colour:
    """`colour` for strength 1, grey for strength 0."""
    first, second, third = (round(_GREY + strength * (channel - _GREY)) for channel in colour)
    return first, second, third


def _shades(sides: Sequence[str]) -> list[Colour]:
    colours = []
    for index, side in enumerate(sides):
        first, last = _SIDE_HUES[side]
        fraction = sides[:index].count(side) / max(1, sides.count(side) - 1)
        colours.append(_rgb(first + fraction * (last - first), 0.95, 0.95))
    return colours


def _in_order(colours: list[Colour], channel_order: str) -> list[Colour]:
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order is {channel_order!r}; it can be {' or '.join(map(repr, CHANNEL_ORDERS))}")
    return colours if channel_order == "RGB" else [(blue, green, red) for red, green, blue in colours]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)

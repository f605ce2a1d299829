"""Colours of instances, limbs and keypoints."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints

Colour = tuple[int, int, int]  # in the canvas' order of channels, 0 .. 255

CHANNEL_ORDERS = ("RGB", "BGR")

# Hues of limbs and points by side, as parts of the colour circle: a mirrored skeleton is seen at a glance.
_LEFT_HUES, _RIGHT_HUES, _MIDDLE_HUES = (0.28, 0.45), (0.98, 1.12), (0.54, 0.64)
_GREY = 128  # what the colour of a limb fades to where the model is unsure


def instance_colours(boxlist: BoxList, channel_order: str = "RGB") -> list[Colour]:
    """A colour for each instance: by IDENTITIES where there are any, else by its place in the list.

    Consecutive ones are far apart on the colour circle (golden section).
    """
    if boxlist.has_field(fields.IDENTITIES):
        indices = boxlist.get_field(fields.IDENTITIES).tolist()
    else:
        indices = list(range(len(boxlist)))
    return numbered_colours(indices, channel_order)


def numbered_colours(numbers: Sequence[int], channel_order: str = "RGB") -> list[Colour]:
    """The same colour for the same number, from 0."""
    return _ordered([_rgb(0.55 + n * 0.618034, 0.75 if n % 2 else 0.9, 0.95) for n in numbers], channel_order)


def skeleton_colours(keypoints: Keypoints, count: int, channel_order: str) -> tuple[list[Colour], list[Colour]]:
    """Colours of `count` points and of the connections: shades of one hue for each side that the names tell."""
    sides = [name.split("_")[0] for name in keypoints.NAMES] or [""] * count
    limbs = [sides[start] if sides[start] == sides[end] else "" for start, end in keypoints.CONNECTIONS]
    return _ordered(_shades(sides), channel_order), _ordered(_shades(limbs), channel_order)


def faded(colour: Colour, strength: float) -> Colour:
    """Towards grey, the less strong (1 .. 0) the more so."""
    first, second, third = (round(_GREY + strength * (channel - _GREY)) for channel in colour)
    return first, second, third


def _shades(sides: Sequence[str]) -> list[Colour]:
    ranges = {"left": _LEFT_HUES, "right": _RIGHT_HUES}
    known = [side if side in ranges else "" for side in sides]
    colours = []
    for index, side in enumerate(known):
        first, last = ranges.get(side, _MIDDLE_HUES)
        part = known[:index].count(side) / max(1, known.count(side) - 1)
        colours.append(_rgb(first + part * (last - first), 0.95, 0.95))
    return colours


def _ordered(colours: list[Colour], channel_order: str) -> list[Colour]:
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order is {channel_order!r}; it can be {' or '.join(map(repr, CHANNEL_ORDERS))}")
    return colours if channel_order == "RGB" else [(blue, green, red) for red, green, blue in colours]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)

"""One image several times, side by side, each time with other instances drawn on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures.bounding_box import BoxList

from .instances import draw_instances
from .sheets import PANEL_STROKES, enlarge_small, side_by_side
from .text import Categories


def draw_comparison(
    image: NDArray[np.uint8], boxlists: Mapping[str, BoxList], categories: Categories = None
) -> NDArray[np.uint8]:
    """The image once for each set of boxes, such as ground truth and detections, each under its title.

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

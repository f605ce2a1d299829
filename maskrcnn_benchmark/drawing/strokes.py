"""How thick lines are, and how large text is, on a picture of a certain size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def line_width(image: NDArray[np.uint8], stroke_scale: float = 1.0) -> int:
    """Of boxes and limbs, in pixels: 1 for small images, 2 on 640 x 480, 4 on 1920 x 1080, times `stroke_scale`."""
    return max(1, round(stroke_scale * (0.7 + max(image.shape[:2]) / 600)))


def font_scale(image: NDArray[np.uint8], stroke_scale: float = 1.0) -> float:
    """Of labels, as OpenCV counts; letters stay legible on small images and grow more slowly than the picture."""
    return stroke_scale * max(0.33, 0.24 + max(image.shape[:2]) / 3400)

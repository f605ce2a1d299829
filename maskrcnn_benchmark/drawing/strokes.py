"""Width of lines and size of text, by the size of the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def line_width(image: NDArray[np.uint8], stroke_scale: float = 1.0) -> int:
    """Width of frames and limbs in pixels: 1 on small images, 2 on 640x480, 4 on 1920x1080, times `stroke_scale`."""
    return max(1, round(stroke_scale * (0.7 + _longer_side(image) / 600)))


def font_scale(image: NDArray[np.uint8], stroke_scale: float = 1.0) -> float:
    """OpenCV's font scale of labels: legible on small images, growing more slowly than the picture."""
    return stroke_scale * max(0.33, 0.24 + _longer_side(image) / 3400)


def _longer_side(image: NDArray[np.uint8]) -> int:
    return max(int(side) for side in image.shape[:2])

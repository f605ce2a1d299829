"""What travels through a pipeline, and what can go wrong at its ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures.bounding_box import BoxList

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class StreamError(OSError):
    """A source that does not deliver, or a sink that does not take; says which, why and what to do."""


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    image: (H, W, 3) uint8, BGR. index: of the frame in its source, from 0. seconds: when it is to be shown, or was
    taken, since the first frame. captured: when it was read, on `time.perf_counter`. name: of its file, without the
    folder; "" where frames have no files.
    """

    image: NDArray[np.uint8]
    index: int
    seconds: float
    captured: float
    name: str = ""


@dataclass(frozen=True)
class Result:
    """A frame, the detections in its pixels that are shown, and the picture (H, W, 3) uint8, BGR, that shows them."""

    frame: Frame
    detections: BoxList
    picture: NDArray[np.uint8]

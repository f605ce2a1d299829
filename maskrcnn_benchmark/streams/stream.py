"""Frames and results of a pipeline, and the error of its sources and sinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.structures.bounding_box import BoxList

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class StreamError(OSError):
    """A source cannot be read or a sink cannot be written. The message says which, why, and what to do."""


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        index: index of the frame in its source, from 0.
        seconds: time of the frame in the video or since the first frame of a camera.
        captured: time at which it was read, of `time.perf_counter`.
        name: name of its file without the folder; "" if it has no file.
    """

    image: NDArray[np.uint8]
    index: int
    seconds: float
    captured: float
    name: str = ""


@dataclass(frozen=True)
class Result:
    """The detections in a frame.

    Attributes:
        frame: the frame.
        detections: the detections that are shown, in pixels of the frame.
        picture: (H, W, 3) uint8, BGR, the frame with the detections drawn on it.
    """

    frame: Frame
    detections: BoxList
    picture: NDArray[np.uint8]

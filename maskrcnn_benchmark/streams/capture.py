"""Reading frames with OpenCV's VideoCapture, of a camera or a file."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

DEFAULT_FPS = 25.0  # if a camera or file does not report its rate


def open_quietly(open_capture: Callable[[Any], Any], address: Any) -> Any:
    """Call `open_capture` without OpenCV's messages."""
    with quiet_opencv():
        return open_capture(address)


def is_image(image: Any) -> bool:
    """Is this a colour image (H, W, 3) with pixels?"""
    return isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.size > 0


def frames_per_second(capture: Any) -> float:
    """The reported rate, or DEFAULT_FPS if there is none or it is implausible."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Suppress OpenCV's messages about files it cannot open; our errors say the same."""
    logging_ = cv2.utils.logging
    level = logging_.getLogLevel()
    logging_.setLogLevel(logging_.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging_.setLogLevel(level)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts 9.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

"""A window on the screen as a sink."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import cv2

from maskrcnn_benchmark import drawing

from .stream import Result, StreamError

_ESCAPE = 27


class WindowClosed(Exception):
    """The user has closed the window, or pressed q or Escape."""


class WindowSink:
    """A window on the screen. Window systems require that only the main thread uses it.

    Args:
        title: title of the window.
        hold: show each picture until a key is pressed.
        caption: returns a line to write on each picture.
    Raises: StreamError if there is no screen or this OpenCV cannot open windows. `write` raises WindowClosed.
    """

    def __init__(self, title: str, *, hold: bool = False, caption: Callable[[], str] | None = None) -> None:
        missing = why_no_window()
        if missing:
            raise StreamError(missing)
        self._title = title
        self.hold = hold
        self._caption = caption
        self._shown = False

    def write(self, result: Result) -> None:
        self._check_open()
        picture = result.picture
        if self._caption is not None:
            picture = picture.copy()
            drawing.write_caption(picture, self._caption())
        cv2.imshow(self._title, picture)
        self._shown = True
        key = cv2.waitKey(1)
        while self.hold and key < 0:
            self._check_open()
            key = cv2.waitKey(50)
        if key & 0xFF in (_ESCAPE, ord("q")):
            raise WindowClosed

    def _check_open(self) -> None:
        if self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            raise WindowClosed

    def close(self) -> None:
        if self._shown:
            cv2.destroyAllWindows()


def why_no_window() -> str:
    """Why no window can be opened here, and what to do; "" if one can be opened."""
    advice = "Use --no-display with --output to write a file instead"
    if any(line.split()[:2] == ["GUI:", "NONE"] for line in cv2.getBuildInformation().splitlines()):
        return (
            f"this OpenCV cannot open windows (it is opencv-python-headless). {advice}, or replace it: "
            "pip uninstall opencv-python-headless; pip install opencv-python"
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return f"there is no screen (DISPLAY and WAYLAND_DISPLAY are not set). {advice}, or log in with ssh -X"
    return ""

"""Frames from a camera or a network stream."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from .capture import frames_per_second, is_image, natural_key, open_quietly
from .stream import Frame, StreamError

_PAUSE = 0.01  # seconds between attempts to read after a failed one


class CameraSource:
    """A camera or a network stream. It never ends; the pipeline gives up if no frame arrives within `timeout`.

    Args:
        address: number of a camera, a device file, or a URL that FFmpeg can read.
        timeout: seconds to wait for it to open, and for each frame.
        open_capture: creates the `cv2.VideoCapture`, or an object that reads like one.
    Raises: StreamError if it does not open.
    """

    def __init__(
        self, address: int | str, timeout: float = 5.0, open_capture: Callable[[Any], Any] = cv2.VideoCapture
    ) -> None:
        self.name = f"camera {address}" if isinstance(address, int) else str(address)
        self.live, self.moving = True, True
        self.timeout = timeout
        self.length: int | None = None
        self.problems: list[str] = []
        self._capture = _within(timeout, lambda: open_quietly(open_capture, address), self.name)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self.name} cannot be opened. Is it connected, not in use by another program, and may this user open "
                f"it? {_existing_cameras()}"
            )
        self.fps = frames_per_second(self._capture)
        self._first: float | None = None
        self._index = 0
        self._broken = 0
        self._stopped = False

    def read(self) -> Frame | None:
        """The next complete frame; waits for it without a limit, and skips broken ones."""
        while not self._stopped:
            received, image = self._capture.read()
            now = time.perf_counter()
            if received and is_image(image):
                self._first = now if self._first is None else self._first
                frame = Frame(image, self._index, now - self._first, now)
                self._index += 1
                self._broken = 0
                return frame
            self._broken += 1
            time.sleep(_PAUSE)
        return None

    def why_late(self) -> str:
        if self._broken:
            return (
                f"{self.name} has delivered no complete frame for {self.timeout:g} s ({self._broken} broken or empty "
                "ones). Is it unplugged, or was the connection lost?"
            )
        return (
            f"{self.name} has delivered nothing for {self.timeout:g} s: it is frozen. Unplug and connect it again; "
            "--timeout sets how long to wait."
        )

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._capture.release()


def _within(seconds: float, work: Callable[[], Any], name: str) -> Any:
    """Return work(), or raise StreamError after some time: it runs in a thread, because drivers may hang."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name=f"open {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise StreamError(
            f"{name} did not open within {seconds:g} s. Is it connected, and not in use by another program?"
        )
    if isinstance(outcome[0], Exception):
        raise StreamError(f"{name} cannot be opened: {outcome[0]}") from outcome[0]
    return outcome[0]


def _existing_cameras() -> str:
    devices = sorted(Path("/dev").glob("video*"), key=lambda path: natural_key(path.name)) if os.name == "posix" else []
    return f"Cameras of this machine: {', '.join(map(str, devices))}." if devices else "This machine has no cameras."

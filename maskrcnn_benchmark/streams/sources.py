"""Where frames come from: a camera, a video file, image files."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from maskrcnn_benchmark.engine.predictor import as_picture

from .stream import IMAGE_SUFFIXES, Frame, StreamError

logger = logging.getLogger(__name__)

DEFAULT_FPS = 25.0  # of a camera or a file that does not say
IMAGES_PER_SECOND = 2.0  # of a video made of image files
_PAUSE = 0.01  # seconds between attempts to read from a camera that has just failed


class Source(Protocol):
    """Hands out frames one after the other.

    live: frames come when they come, and those that nobody waits for are dropped. moving: one frame goes on where the
    last one ended. length: number of frames; None where it is not known. timeout: seconds after which a live source
    that delivers nothing is given up. problems: what could not be read and was passed over.
    """

    name: str
    live: bool
    moving: bool
    fps: float
    length: int | None
    timeout: float
    problems: list[str]

    def read(self) -> Frame | None:
        """The next frame; None at the end. Raises: StreamError."""

    def why_late(self) -> str:
        """What to tell the user when a live source has delivered nothing for `timeout` seconds."""

    def stop(self) -> None:
        """Let a `read` that waits in another thread end soon."""

    def close(self) -> None:
        """To be called when nothing reads any more."""


class CameraSource:
    """A camera, or a stream from the network: never ends, and is given up when it delivers nothing for a while.

    Args:
        address: the number of a camera, a device file, or a URL that FFmpeg knows.
        timeout: seconds to wait for it to open, and for each frame.
        open_capture: makes the `cv2.VideoCapture`, or whatever reads like one.
    Raises: StreamError when it does not open.
    """

    def __init__(
        self, address: int | str, timeout: float = 5.0, open_capture: Callable[[Any], Any] = cv2.VideoCapture
    ) -> None:
        self.name = f"camera {address}" if isinstance(address, int) else str(address)
        self.live, self.moving = True, True
        self.timeout = timeout
        self.length: int | None = None
        self.problems: list[str] = []
        self._capture = _within(timeout, lambda: _open(open_capture, address), self.name)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self.name} cannot be opened. Is it connected, free (no other program has it) and permitted to this "
                f"user? {_existing_cameras()}"
            )
        self.fps = _frames_per_second(self._capture)
        self._first: float | None = None
        self._index = 0
        self._broken = 0
        self._stopped = False

    def read(self) -> Frame | None:
        """The next whole frame; waits for it as long as it takes, and passes over broken ones."""
        while not self._stopped:
            received, image = self._capture.read()
            now = time.perf_counter()
            if received and _is_image(image):
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
                f"{self.name} has delivered no whole frame for {self.timeout:g} s ({self._broken} broken or empty "
                "ones). Is it unplugged, or the connection to it lost?"
            )
        return (
            f"{self.name} has delivered nothing for {self.timeout:g} s: it is frozen. Unplug and connect it again; "
            "--timeout sets how long to wait."
        )

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._capture.release()


class VideoSource:
    """A video file; hands out every frame that can be decoded.

    Raises: StreamError when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self.live, self.moving = False, True
        self.timeout = math.inf
        self.problems: list[str] = []
        self._capture = _open(cv2.VideoCapture, self.name)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self.name} cannot be read as a video: it is damaged, cut off, of a codec that this OpenCV does not "
                "have, or no video. Try a player, or convert it: ffmpeg -i FILE -c:v libx264 out.mp4"
            )
        self.fps = _frames_per_second(self._capture)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length: int | None = count if count > 0 else None
        self._index = 0

    def read(self) -> Frame | None:
        while self._capture.grab():
            received, image = self._capture.retrieve()
            if received and _is_image(image):
                frame = Frame(image, self._index, self._index / self.fps, time.perf_counter())
                self._index += 1
                return frame
        self._compare_with_length()
        return None

    def _compare_with_length(self) -> None:
        if self._index == 0:
            raise StreamError(f"{self.name}: not one frame can be decoded; the file is damaged or has no pictures.")
        # headers of some formats hold an estimate
        if self.length is not None and self._index < self.length - max(2, self.length // 50):
            self.problems.append(
                f"{self.name}: {self.length - self._index} of {self.length} frames cannot be decoded; the file is "
                "damaged or cut off"
            )

    def why_late(self) -> str:
        return f"{self.name} is not being read"

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self._capture.release()


class ImageSource:
    """Image files, one after the other; those that cannot be read are reported and passed over.

    Raises: StreamError for no files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], name: str = "") -> None:
        self._paths = [os.fspath(path) for path in paths]
        self.name = name or (self._paths[0] if len(self._paths) == 1 else f"{len(self._paths)} images")
        if not self._paths:
            raise StreamError(f"{self.name}: there are no images; looked for {', '.join(IMAGE_SUFFIXES)}")
        self.live, self.moving = False, False
        self.timeout = math.inf
        self.fps = IMAGES_PER_SECOND
        self.length: int | None = len(self._paths)
        self.problems: list[str] = []
        self._index = 0

    @property
    def paths(self) -> Sequence[str]:
        return self._paths

    def read(self) -> Frame | None:
        while self._index < len(self._paths):
            index, path = self._index, self._paths[self._index]
            self._index += 1
            try:
                image = np.ascontiguousarray(np.asarray(as_picture(path))[..., ::-1])
            except OSError as error:
                logger.warning("%s", error)
                self.problems.append(str(error))
                continue
            return Frame(image, index, index / self.fps, time.perf_counter(), os.path.basename(path))
        if len(self.problems) == len(self._paths):
            raise StreamError(f"none of the images can be read: {'; '.join(self.problems[:3])}")
        return None

    def why_late(self) -> str:
        return f"{self.name} is not being read"

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_source(specs: Sequence[str], timeout: float = 5.0) -> Source:
    """What the user names.

    Args:
        specs: one of: the number of a camera; its device file; a URL of a stream; a video; an image; a folder of
            images; a text file with the path of an image in each line. Or several images.
        timeout: for a camera, in seconds.
    Raises: StreamError.
    """
    if not specs:
        raise StreamError("no source is given: name a camera, a video, images or a folder of images")
    if len(specs) > 1:
        return ImageSource(specs, f"{len(specs)} images")
    spec = specs[0]
    if re.fullmatch(r"\d+", spec):
        return CameraSource(int(spec), timeout)
    if "://" in spec or spec.startswith("/dev/video"):
        return CameraSource(spec, timeout)
    path = Path(spec)
    if path.is_dir():
        names = sorted((entry.name for entry in path.iterdir()), key=_natural)
        images = [path / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
        return ImageSource(images, f"folder {spec}")
    if not path.is_file():
        raise StreamError(
            f"the source {spec!r} is neither the number of a camera nor an existing file or folder. Give 0 for the "
            "first camera, or the path of a video, an image, a folder of images, or a .txt file that lists images."
        )
    if path.suffix.lower() == ".txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return ImageSource([path.parent / line.strip() for line in lines if line.strip()], f"list {spec}")
    return ImageSource([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts 9.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _is_image(image: Any) -> bool:
    return isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.size > 0


def _frames_per_second(capture: Any) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if fps and math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS


def _open(open_capture: Callable[[Any], Any], address: Any) -> Any:
    with quiet_opencv():
        return open_capture(address)


def _within(seconds: float, work: Callable[[], Any], name: str) -> Any:
    """What `work` returns; drivers may hang, so it runs in a thread that is given up after some time."""
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
        raise StreamError(f"{name} did not open within {seconds:g} s. Is it connected, and not in use?")
    if isinstance(outcome[0], Exception):
        raise StreamError(f"{name} cannot be opened: {outcome[0]}") from outcome[0]
    return outcome[0]


def _existing_cameras() -> str:
    devices = sorted(Path("/dev").glob("video*"), key=lambda path: _natural(path.name)) if os.name == "posix" else []
    return f"This machine has {', '.join(map(str, devices))}." if devices else "This machine shows no camera."


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Without OpenCV's own lines about what cannot be opened: the error that is raised says it."""
    logging_ = cv2.utils.logging
    level = logging_.getLogLevel()
    logging_.setLogLevel(logging_.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging_.setLogLevel(level)

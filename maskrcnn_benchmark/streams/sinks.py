"""Where results go: a video, image files, a window, a file of detections."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult

from .sources import Source, quiet_opencv
from .stream import IMAGE_SUFFIXES, Result, StreamError

logger = logging.getLogger(__name__)

# Codecs that the wheels of OpenCV can write, by the kind of file.
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
# Colours at full resolution: lines are thin.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
_ESCAPE = 27


class Sink(Protocol):
    """Takes results one after the other; `close` is called once, also after an error."""

    def write(self, result: Result) -> None:
        """Raises: StreamError."""

    def close(self) -> None:
        """Raises: StreamError when what was written is not whole."""


class VideoSink:
    """A video file of the size of the first picture; pictures of other sizes are fitted into it, with black borders.

    Args:
        path: its suffix says the kind of file.
        fps: frames per second.
        codec: four letters; by default as VIDEO_CODECS has it.
        real_time: pictures come when they come: each is repeated, or left out, so that the video plays as fast as
            what it shows went on.
    Raises: StreamError for a kind of file or codec that is not known, and where nothing can be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float, codec: str | None = None, *, real_time: bool = False
    ) -> None:
        self._path = Path(path)
        self._fps = fps
        self._real_time = real_time
        self._codec = codec or VIDEO_CODECS.get(self._path.suffix.lower(), "")
        if not self._codec:
            raise StreamError(
                f"{self._path}: videos are written as {', '.join(VIDEO_CODECS)}, not {self._path.suffix!r}"
            )
        if len(self._codec) != 4:
            raise StreamError(f"--codec is {self._codec!r}; a codec is named by four letters, such as 'mp4v'")
        _check_writable(self._path)
        self._check_codec()
        self._writer: Any = None
        self._size_wh = (0, 0)
        self._written = 0

    def write(self, result: Result) -> None:
        if self._writer is None:
            self._start(result.picture)
        picture = _fit(result.picture, self._size_wh)
        due = int(result.frame.seconds * self._fps) + 1 - self._written if self._real_time else 1
        for _ in range(due):
            self._writer.write(picture)
            self._written += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        # A writer of OpenCV does not say when the disk is full.
        check = cv2.VideoCapture(str(self._path))
        frames = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if frames < self._written:
            raise StreamError(
                f"{self._path} has {frames} of the {self._written} frames that were written to it. Is the disk full?"
            )

    def _start(self, picture: NDArray[np.uint8]) -> None:
        height, width = picture.shape[:2]
        self._size_wh = (width + width % 2, height + height % 2)  # codecs halve the colours' resolution
        self._writer = self._open(self._path, self._size_wh)
        if not self._writer.isOpened():
            self._writer = None
            raise StreamError(
                f"{self._path} cannot be written with codec {self._codec!r} at {width} x {height} pixels and "
                f"{self._fps:g} frames per second"
            )

    def _check_codec(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer = self._open(Path(folder) / f"probe{self._path.suffix}", (64, 64))
            opened = writer.isOpened()
            writer.release()
        if not opened:
            raise StreamError(
                f"this OpenCV cannot write {self._path.suffix} files with codec {self._codec!r}. Codecs that its "
                f"wheels have: {', '.join(f'{codec} ({suffix})' for suffix, codec in VIDEO_CODECS.items())}"
            )

    def _open(self, path: Path, size_wh: tuple[int, int]) -> Any:
        with quiet_opencv():
            return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*self._codec), self._fps, size_wh)


class FolderSink:
    """An image file for each picture: named as its source's file, or numbered.

    Raises: StreamError when the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        _check_writable(self._folder / "probe")
        self._used: set[str] = set()

    def write(self, result: Result) -> None:
        name = result.frame.name or f"{result.frame.index:06d}.jpg"
        stem, suffix = os.path.splitext(name)
        count = 1
        while name.lower() in self._used:  # files of the same name from different folders
            count += 1
            name = f"{stem}_{count}{suffix}"
        self._used.add(name.lower())
        _write_image(self._folder / name, result.picture)

    def close(self) -> None:
        pass


class ImageSink:
    """One image file, for a source of one image. Raises: StreamError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        _check_writable(self._path)

    def write(self, result: Result) -> None:
        _write_image(self._path, result.picture)

    def close(self) -> None:
        pass


class JsonSink:
    """The detections of each frame, as one JSON document that is written as they come.

    {"source", "categories": {label: name}, "frames": [{"frame": its index, "seconds", "image": its file's name,
    "width", "height", "detections": [{"bbox": [x, y, width, height], "score", "label", "category", "segmentation":
    COCO's run lengths, "keypoints": [x, y, visibility, ...]}, ...]}, ...]}, coordinates in the frame's pixels.

    Raises: StreamError.
    """

    def __init__(self, path: str | os.PathLike[str], source: str, categories: Mapping[int, str]) -> None:
        self._path = Path(path)
        self._categories = dict(categories)
        _check_writable(self._path)
        self._separator = "\n"
        self._file: IO[str] = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        head = {"source": source, "categories": self._categories}
        self._write(json.dumps(head)[:-1] + ', "frames": [')

    def write(self, result: Result) -> None:
        frame = result.frame
        height, width = frame.image.shape[:2]
        found = ImageResult.from_detections(result.detections, (width, height))
        entry = {
            "frame": frame.index,
            "seconds": round(frame.seconds, 3),
            "image": frame.name or None,
            "width": width,
            "height": height,
            "detections": [self._detection(found, row) for row in range(len(found))],
        }
        self._write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def close(self) -> None:
        try:
            self._write("\n]}\n")
        finally:
            self._file.close()

    def _detection(self, found: ImageResult, row: int) -> dict[str, Any]:
        label = int(found.labels[row])
        detection: dict[str, Any] = {
            "bbox": [round(float(side), 2) for side in found.boxes[row]],
            "score": round(float(found.scores[row]), 4),
            "label": label,
            "category": self._categories.get(label),
        }
        if "segm" in found.masks:
            detection["segmentation"] = found.masks["segm"][row]
        if "keypoints" in found.keypoints:
            points = found.keypoints["keypoints"][row].reshape(-1)
            detection["keypoints"] = [round(float(value), 2) for value in points]
        return detection

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise StreamError(f"{self._path} cannot be written: {error.strerror}. Is the disk full?") from error


class WindowClosed(Exception):
    """The user is done: has closed the window, or pressed q or Escape."""


class WindowSink:
    """A window on the screen. To be used by the main thread, as window systems demand.

    Args:
        hold: show each picture until a key is pressed.
        caption: gives a line to write on each picture.
    Raises: StreamError where there is no screen, or this OpenCV has no windows. `write` raises WindowClosed.
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
    """Why no window can be opened here, and what to do; "" where one can."""
    advice = "Use --no-display with --output to write a file instead"
    if any(line.split()[:2] == ["GUI:", "NONE"] for line in cv2.getBuildInformation().splitlines()):
        return (
            f"this OpenCV cannot open windows (it is opencv-python-headless). {advice}, or replace it: "
            "pip uninstall opencv-python-headless; pip install opencv-python"
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return f"there is no screen (DISPLAY and WAYLAND_DISPLAY are not set). {advice}, or log in with ssh -X"
    return ""


def open_sink(path: str, source: Source, *, fps: float | None = None, codec: str | None = None) -> Sink:
    """The sink of an output path: a video or an image file by its suffix, else a folder.

    Args:
        source: whose frames it gets; its own files are not overwritten.
        fps: of a video; None takes the source's.
    Raises: StreamError.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    images = [os.path.realpath(name) for name in getattr(source, "paths", ())]
    folders = {os.path.dirname(name) for name in images}
    if os.path.realpath(target) in {os.path.realpath(source.name), *images, *folders}:
        raise StreamError(f"the output {path} would overwrite its own source; name another file or folder")
    if target.is_dir() or path.endswith(("/", os.sep)) or not suffix:
        return FolderSink(target)
    if suffix in VIDEO_CODECS:
        return VideoSink(target, fps or source.fps, codec, real_time=source.live)
    if suffix in IMAGE_SUFFIXES:
        if source.length != 1:
            raise StreamError(f"the output {path} is one image, but {source.name} has more; name a folder or a video")
        return ImageSink(target)
    raise StreamError(
        f"the output {path} is of an unknown kind {suffix!r}. Videos: {', '.join(VIDEO_CODECS)}; images: "
        f"{', '.join(IMAGE_SUFFIXES)}; a name without a suffix, or with a / at its end, is a folder"
    )


def _check_writable(path: Path) -> None:
    """Make the folder of a file, and try to write there, before any work is done. Raises: StreamError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with open(path, "ab"):
                pass
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise StreamError(f"cannot write {path}: {error.strerror}. Name an output in a folder of yours.") from error


def _write_image(path: Path, picture: NDArray[np.uint8]) -> None:
    try:
        encoded, data = cv2.imencode(path.suffix, picture, _JPEG if path.suffix.lower().startswith(".jp") else [])
        if not encoded:
            raise StreamError(f"OpenCV cannot write {path.suffix} images; name the output .png or .jpg")
        path.write_bytes(data.tobytes())
    except OSError as error:
        if isinstance(error, StreamError):
            raise
        raise StreamError(f"cannot write {path}: {error.strerror}. Is the disk full?") from error


def _fit(picture: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture of `size_wh`: as it is; or with a row or column repeated; or scaled, between black borders."""
    height, width = picture.shape[:2]
    if (width, height) == size_wh:
        return picture
    right, below = size_wh[0] - width, size_wh[1] - height
    if 0 <= right <= 1 and 0 <= below <= 1:
        return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
    scale = min(size_wh[0] / width, size_wh[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = np.zeros((size_wh[1], size_wh[0], 3), dtype=np.uint8)
    left, top = (size_wh[0] - inner[0]) // 2, (size_wh[1] - inner[1]) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=method)
    return fitted

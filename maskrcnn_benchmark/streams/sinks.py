"""Where results go: a video, image files, a file of detections. `window` has the window."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult

from .capture import quiet_opencv
from .sources import Source
from .stream import IMAGE_SUFFIXES, Result, StreamError

logger = logging.getLogger(__name__)

# File suffix -> codec; OpenCV's wheels can write these.
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
# No chroma subsampling: it would blur thin coloured lines.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip


class Sink(Protocol):
    """Takes results one by one. `close` is called once, also after an error."""

    def write(self, result: Result) -> None:
        """Write a result. Raises: StreamError."""

    def close(self) -> None:
        """Finish the output. Raises: StreamError if it is incomplete."""


class VideoSink:
    """A video file of the size of the first picture. Pictures of other sizes are scaled, with black borders.

    Args:
        path: the suffix determines the file format.
        fps: frames per second.
        codec: four letters; by default from VIDEO_CODECS.
        real_time: repeat or drop pictures so that the video plays at the speed at which they were recorded.
    Raises: StreamError for an unknown file format or codec, and if the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float, codec: str | None = None, *, real_time: bool = False
    ) -> None:
        self._path = Path(path)
        self._fps = fps
        self._real_time = real_time
        self._codec = codec or VIDEO_CODECS.get(self._path.suffix.lower(), "")
        if not self._codec:
            raise StreamError(f"{self._path}: videos can be {', '.join(VIDEO_CODECS)}, not {self._path.suffix!r}")
        if len(self._codec) != 4:
            raise StreamError(f"--codec is {self._codec!r}; a codec has four letters, such as 'mp4v'")
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
        # OpenCV's writer does not report a full disk.
        check = cv2.VideoCapture(str(self._path))
        frames = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if frames < self._written:
            raise StreamError(
                f"{self._path} has only {frames} of the {self._written} frames that were written. Is the disk full?"
            )

    def _start(self, picture: NDArray[np.uint8]) -> None:
        height, width = picture.shape[:2]
        self._size_wh = (width + width % 2, height + height % 2)  # even sides: codecs halve the resolution of colours
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
                f"this OpenCV cannot write {self._path.suffix} files with codec {self._codec!r}. Codecs of "
                f"OpenCV's wheels: {', '.join(f'{codec} ({suffix})' for suffix, codec in VIDEO_CODECS.items())}"
            )

    def _open(self, path: Path, size_wh: tuple[int, int]) -> Any:
        with quiet_opencv():
            return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*self._codec), self._fps, size_wh)


class FolderSink:
    """An image file for each picture, with the name of its source file or a number.

    Raises: StreamError if the folder cannot be created or written.
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
    """A single image file, for a source of one image. Raises: StreamError if it cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        _check_writable(self._path)

    def write(self, result: Result) -> None:
        _write_image(self._path, result.picture)

    def close(self) -> None:
        pass


class JsonSink:
    """The detections of each frame in one JSON document, which is written frame by frame.

    {"source", "categories": {label: name}, "frames": [{"frame": index, "seconds", "image": file name, "width",
    "height", "detections": [{"bbox": [x, y, width, height], "score", "label", "category", "segmentation": COCO run
    lengths, "segmentations": {name of a mask: run lengths}, "keypoints": [x, y, visibility, ...]}, ...]}, ...]}.
    Coordinates are pixels of the frame.

    Args:
        path: the file to write.
        source: name of the source.
        categories: label -> name.
    Raises: StreamError if the file cannot be written.
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
        masks = {name: of_all[row] for name, of_all in found.masks_by_name().items()}
        if "" in masks:
            detection["segmentation"] = masks.pop("")
        if masks:
            detection["segmentations"] = masks
        if "keypoints" in found.keypoints:
            points = found.keypoints["keypoints"][row].reshape(-1)
            detection["keypoints"] = [round(float(value), 2) for value in points]
        return detection

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise StreamError(f"{self._path} cannot be written: {error.strerror}. Is the disk full?") from error


def open_sink(path: str, source: Source, *, fps: float | None = None, codec: str | None = None) -> Sink:
    """The sink for an output path: a video or an image file by its suffix, otherwise a folder.

    Args:
        path: the output.
        source: source of the frames; its own files are not overwritten.
        fps: frames per second of a video; None for the rate of the source.
        codec: as for `VideoSink`.
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
            raise StreamError(
                f"the output {path} is one image, but {source.name} has several; name a folder or a video"
            )
        return ImageSink(target)
    raise StreamError(
        f"the output {path} has an unknown suffix {suffix!r}. Videos: {', '.join(VIDEO_CODECS)}; images: "
        f"{', '.join(IMAGE_SUFFIXES)}; a name without a suffix, or ending in /, is a folder"
    )


def _check_writable(path: Path) -> None:
    """Create the folder of a file and check that it is writable, before any work is done. Raises: StreamError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with open(path, "ab"):
                pass
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise StreamError(
            f"cannot write {path}: {error.strerror}. Name an output in a folder that you can write to."
        ) from error


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
    """Fit a picture into `size_wh`: unchanged, with the last row or column repeated, or scaled with black borders."""
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

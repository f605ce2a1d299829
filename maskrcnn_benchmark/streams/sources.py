"""Where frames come from: a camera, a video file, image files."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from maskrcnn_benchmark.engine.predictor import as_picture

from .camera import CameraSource
from .capture import frames_per_second, is_image, natural_key, open_quietly
from .stream import IMAGE_SUFFIXES, Frame, StreamError

logger = logging.getLogger(__name__)

IMAGES_PER_SECOND = 2.0  # in a video made from image files


class Source(Protocol):
    """Delivers frames one by one.

    Attributes:
        name: name of the source in messages.
        live: frames arrive in real time; they are dropped if the pipeline is too slow.
        moving: consecutive frames belong to one scene, as in a video.
        fps: frames per second.
        length: number of frames; None if unknown.
        timeout: seconds without a frame after which a live source is considered dead.
        problems: messages about parts that could not be read and were skipped.
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
        """Message for the user if a live source has delivered nothing for `timeout` seconds."""

    def stop(self) -> None:
        """Make a `read` that waits in another thread return soon."""

    def close(self) -> None:
        """Release the source. Called when no thread reads any more."""


class VideoSource:
    """A video file; delivers every frame that can be decoded.

    Raises: StreamError if it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self.live, self.moving = False, True
        self.timeout = math.inf
        self.problems: list[str] = []
        self._capture = open_quietly(cv2.VideoCapture, self.name)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self.name} cannot be read as a video: it is damaged, incomplete, of a codec that this OpenCV "
                "lacks, or not a video. Try it in a player, or convert it: ffmpeg -i FILE -c:v libx264 out.mp4"
            )
        self.fps = frames_per_second(self._capture)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length: int | None = count if count > 0 else None
        self._index = 0

    def read(self) -> Frame | None:
        while self._capture.grab():
            received, image = self._capture.retrieve()
            if received and is_image(image):
                frame = Frame(image, self._index, self._index / self.fps, time.perf_counter())
                self._index += 1
                return frame
        self._compare_with_length()
        return None

    def _compare_with_length(self) -> None:
        if self._index == 0:
            raise StreamError(f"{self.name}: no frame can be decoded; the file is damaged or has no pictures.")
        # the headers of some formats contain an estimate
        if self.length is not None and self._index < self.length - max(2, self.length // 50):
            self.problems.append(
                f"{self.name}: {self.length - self._index} of {self.length} frames cannot be decoded; the file is "
                "damaged or incomplete"
            )

    def why_late(self) -> str:
        return f"{self.name} is not being read"

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self._capture.release()


class ImageSource:
    """Image files, one after the other. Files that cannot be read are reported and skipped.

    Raises: StreamError for an empty list.
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
    """Open the source that the user names.

    Args:
        specs: several images, or one of: number of a camera, device file, URL of a stream, video, image, folder of
            images, text file with the path of an image in each line.
        timeout: of a camera, in seconds.
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
        names = sorted((entry.name for entry in path.iterdir()), key=natural_key)
        images = [path / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
        return ImageSource(images, f"folder {spec}")
    if not path.is_file():
        raise StreamError(
            f"the source {spec!r} is neither the number of a camera nor an existing file or folder. Give 0 for the "
            "first camera, or the path of a video, an image, a folder of images, or a .txt file with a list of images."
        )
    if path.suffix.lower() == ".txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return ImageSource([path.parent / line.strip() for line in lines if line.strip()], f"list {spec}")
    return ImageSource([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)

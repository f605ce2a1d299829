"""Cameras, models and sinks that do what a test tells them to."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import torch

from maskrcnn_benchmark.streams.stream import Frame
from maskrcnn_benchmark.structures.bounding_box import BoxList


def image_of(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of one shade, which tells its number."""
    return np.full((height, width, 3), number % 256, dtype=np.uint8)


class FakeCapture:
    """Reads like a cv2.VideoCapture: `answers` one after the other, then for ever (False, None).

    An answer is (received, image), or an Event that the read waits for.
    """

    def __init__(self, answers, opened=True, fps=30.0):
        self.answers, self.opened, self.fps = list(answers), opened, fps
        self.released = False

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opened

    def get(self, what):
        return self.fps if what == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        assert not self.released, "read after release"
        answer = self.answers.pop(0) if self.answers else (False, None)
        if isinstance(answer, threading.Event):
            answer.wait(20)
            return False, None
        return answer

    def release(self):
        self.released = True


class FakeSource:
    """`count` frames, `pause` seconds apart."""

    def __init__(self, count, live=False, pause=0.0, error=None):
        self.count, self.live, self.pause, self.error = count, live, pause, error
        self.name, self.moving, self.fps, self.length, self.timeout = "frames", True, 25.0, count, 1.0
        self.problems: list[str] = []
        self.read_so_far = 0
        self.closed = self.stopped = False

    def read(self):
        assert not self.closed
        if self.stopped or self.read_so_far == self.count:
            if self.error and not self.stopped:
                raise self.error
            return None
        time.sleep(self.pause)
        index = self.read_so_far
        self.read_so_far += 1
        return Frame(image_of(index), index, index / self.fps, time.perf_counter())

    def why_late(self):
        return "the frames are late"

    def stop(self):
        self.stopped = True

    def close(self):
        self.closed = True


class FakePending:
    def __init__(self, boxes):
        self.boxes = boxes

    def wait(self):
        return [self.boxes]


class FakePredictor:
    """Finds one box in each frame, at x = the frame's shade."""

    def __init__(self, on_prepare=None, on_start=None):
        self.on_prepare, self.on_start = on_prepare, on_start
        self.started: list[int] = []

    def prepare(self, image, channel_order):
        assert channel_order == "BGR"
        if self.on_prepare:
            self.on_prepare(int(image[0, 0, 0]))
        return image

    def start(self, images):
        (image,) = images
        number = int(image[0, 0, 0])
        if self.on_start:
            self.on_start(number)
        self.started.append(number)
        return FakePending(BoxList(torch.tensor([[float(number), 0.0, 10.0, 10.0]]), (64, 48)))


class FakeSink:
    def __init__(self, on_write=None, on_close=None):
        self.on_write, self.on_close = on_write, on_close
        self.results = []
        self.closed = 0

    def write(self, result):
        if self.on_write:
            self.on_write(result)
        self.results.append(result)

    def close(self):
        self.closed += 1
        if self.on_close:
            self.on_close()


def draw(image, detections):
    return 255 - image

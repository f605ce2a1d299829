"""Frames through a model, with each step in a thread of its own, so that the model always has the next frame waiting.

    source -> prepare -> model -> draw -> sinks (in the caller's thread)

Between the steps are channels that hold a few frames: a step that is ahead waits, so memory is bounded. A live source
does not wait; of its frames the newest is kept, and those that nobody had time for are dropped. OpenCV, Pillow and
PyTorch release the interpreter while they work.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.engine.predictor import PendingDetections, Predictor, PreparedImage
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .sinks import Sink, WindowClosed
from .sources import Source
from .stream import Frame, Result, StreamError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Draw = Callable[[NDArray[np.uint8], BoxList], NDArray[np.uint8]]

_POLL = 0.1  # seconds between looks at whether the user has asked to stop
_GIVE_UP = 3.0  # seconds that a step may take to end when the pipeline does; a frozen driver takes for ever
_RATE_SPAN = 30  # frames over which the rate and the latency are averaged


@dataclass(frozen=True)
class PipelineReport:
    """frames: that went through. dropped: that a live source had, and nobody the time for. seconds: from the first
    frame's arrival at the sinks to the last's. latency: mean seconds from a frame's reading to its writing. stopped_by:
    the signal that ended it early, or "window"; "" where the source came to its end."""

    frames: int
    dropped: int
    seconds: float
    latency: float
    stopped_by: str

    @property
    def rate(self) -> float:
        """Frames per second; 0 for fewer than two."""
        return (self.frames - 1) / self.seconds if self.seconds > 0 and self.frames > 1 else 0.0


class Channel(Generic[Item]):
    """A queue of bounded length between two threads, that ends, and that can be cut off from either side.

    Args:
        size: items that it holds.
        newest: a full channel drops its oldest item instead of making the sender wait.
    Attributes:
        dropped: how many items that were.
    """

    def __init__(self, size: int, newest: bool = False) -> None:
        self._items: deque[Item] = deque()
        self._size, self._newest = size, newest
        self._ended = self._cut = False
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Waits for room; False when nobody will ever take it."""
        with self._changed:
            if self._newest and len(self._items) >= self._size:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._cut or len(self._items) < self._size)
            if not self._cut:
                self._items.append(item)
            self._changed.notify_all()
            return not self._cut

    def get(self, timeout: float | None = None) -> Item | None:
        """The oldest item; None after the last. Raises: TimeoutError when there is nothing for so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._cut or self._ended or bool(self._items), timeout):
                raise TimeoutError
            item = self._items.popleft() if self._items and not self._cut else None
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[Item]:
        while (item := self.get()) is not None:
            yield item

    def end(self) -> None:
        """No more items will come; those that are here can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cut(self) -> None:
        """Nothing goes in or out any more."""
        with self._changed:
            self._cut = True
            self._items.clear()
            self._changed.notify_all()


class Rate:
    """Frames per second and latency, over the last frames."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_RATE_SPAN)
        self._latencies: deque[float] = deque(maxlen=_RATE_SPAN)

    def add(self, captured: float) -> None:
        now = time.perf_counter()
        self._times.append(now)
        self._latencies.append(now - captured)

    @property
    def frames_per_second(self) -> float:
        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0

    @property
    def latency(self) -> float:
        """Mean, in seconds."""
        return sum(self._latencies) / len(self._latencies) if self._latencies else 0.0

    def __str__(self) -> str:
        return f"{self.frames_per_second:.1f} frames/s, {1000 * self.latency:.0f} ms"


class Pipeline:
    """Runs the frames of a source through a model into sinks.

    Args:
        predictor: prepares frames and starts the model.
        draw: called with a frame (BGR) and its detections, gives the picture; in one thread, frames in order.
        choose: called before that with the detections of each frame, gives those to show.
        sinks: get every result, in order, in the thread that calls `run`; they are closed at its end, in any case.
        depth: frames that each channel holds; 1 for live sources, whose frames grow old in it.
        on_result: called with each result and the current rate, before the sinks; may return another result.
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        draw: Draw,
        sinks: Sequence[Sink],
        *,
        choose: Callable[[BoxList], BoxList] = lambda detections: detections,
        depth: int = 4,
        on_result: Callable[[Result, Rate], Result] = lambda result, rate: result,
    ) -> None:
        self._source, self._predictor, self._sinks = source, predictor, sinks
        self._draw, self._choose, self._on_result = draw, choose, on_result
        depth = 1 if source.live else depth
        self._frames: Channel[Frame] = Channel(depth, newest=source.live)
        self._prepared: Channel[tuple[Frame, PreparedImage]] = Channel(depth)
        self._found: Channel[tuple[Frame, PendingDetections]] = Channel(depth)
        self._results: Channel[Result] = Channel(depth)
        self._errors: list[BaseException] = []
        self._stopped_by = ""
        self.rate = Rate()

    def run(self) -> PipelineReport:
        """Until the source ends, a window is closed, or a signal (Ctrl-C, SIGTERM) comes; what is open is closed then.

        Raises: the first error of any step or sink, after the frames before it have been written, where they can be.
        """
        steps = {
            "read": (self._read, self._frames),
            "prepare": (self._prepare, self._prepared),
            "model": (self._model, self._found),
            "draw": (self._render, self._results),
        }
        threads = [
            threading.Thread(target=self._step, args=step, name=name, daemon=True) for name, step in steps.items()
        ]
        frames, first, latencies = 0, 0.0, 0.0
        last = first
        with self._signals():
            try:
                for thread in threads:
                    thread.start()
                while (result := self._next_result()) is not None:
                    result = self._deliver(result)
                    last = time.perf_counter()
                    first = first or last
                    frames += 1
                    latencies += last - result.frame.captured
            except WindowClosed:
                self._stopped_by = "window"
            except Exception as error:
                self._errors.append(error)
            finally:
                self._shut_down(threads)
        if self._errors:
            raise self._errors[0]
        latency = latencies / frames if frames else 0.0
        return PipelineReport(frames, self._frames.dropped, last - first, latency, self._stopped_by)

    # The steps, each in its thread

    def _step(self, work: Callable[[], None], output: Channel[Any]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
        finally:
            output.end()

    def _read(self) -> None:
        try:
            while (frame := self._source.read()) is not None:
                if not self._frames.put(frame):
                    return
        finally:
            self._source.close()

    def _prepare(self) -> None:
        while (frame := self._newest_frame()) is not None:
            if not self._prepared.put((frame, self._predictor.prepare(frame.image, "BGR"))):
                return

    def _model(self) -> None:
        for frame, image in self._prepared:
            if not self._found.put((frame, self._predictor.start([image]))):
                return

    def _render(self) -> None:
        for frame, pending in self._found:
            detections = self._choose(pending.wait()[0])
            if not self._results.put(Result(frame, detections, self._draw(frame.image, detections))):
                return

    def _newest_frame(self) -> Frame | None:
        try:
            return self._frames.get(self._source.timeout if self._source.live else None)
        except TimeoutError:
            raise StreamError(self._source.why_late()) from None

    # The caller's thread

    def _next_result(self) -> Result | None:
        while not self._stopped_by:
            with contextlib.suppress(TimeoutError):
                return self._results.get(_POLL)
        return None

    def _deliver(self, result: Result) -> Result:
        self.rate.add(result.frame.captured)
        result = self._on_result(result, self.rate)
        for sink in self._sinks:
            sink.write(result)
        return result

    def _shut_down(self, threads: Sequence[threading.Thread]) -> None:
        self._source.stop()
        for channel in (self._frames, self._prepared, self._found, self._results):
            channel.cut()
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._errors.append(error)
        deadline = time.monotonic() + _GIVE_UP
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("the step %r of %s does not end; it is left behind", thread.name, self._source.name)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run in order, a second one at once; in the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: FrameType | None) -> None:
            self._stopped_by = signal.Signals(number).name
            for each, handler in previous.items():
                signal.signal(each, handler)

        for number in previous:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

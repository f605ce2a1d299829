"""Frames through a model, with each step in a thread of its own, so that the model always has the next frame waiting.

    source -> prepare -> model (in the caller's thread, with the window) -> draw -> write

Between the steps are channels that hold a few frames: a step that is ahead waits, so memory is bounded. A live source
does not wait; of its frames the newest is kept, and those that nobody had time for are dropped. OpenCV, Pillow and
PyTorch release the interpreter while they work.

On a CPU the model runs best in the thread that built it: OpenMP keeps a team of threads for each thread that computes,
and when all teams together are more threads than there are processors, they sleep between any two operations, which
made a model of many small ones a third slower. The other steps compute with one thread, and so have no team.
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
import torch
from numpy.typing import NDArray

from maskrcnn_benchmark.engine.predictor import PendingDetections, Predictor, PreparedImage
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .sinks import Sink, WindowClosed, WindowSink
from .sources import Source
from .stream import Frame, Result, StreamError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Draw = Callable[[NDArray[np.uint8], BoxList], NDArray[np.uint8]]

_POLL = 0.05  # seconds between looks at whether the user has asked to stop
_WINDOW_POLL = 0.005  # and at whether there is something to show
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
        sinks: get every result, in order, in one thread; they are closed at the end, in any case.
        window: gets results in the caller's thread: the newest, or every one where it holds each.
        depth: frames that each channel holds; 1 for live sources, whose frames grow old in it.
        on_result: called with each result and the current rate, before the sinks.
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        draw: Draw,
        sinks: Sequence[Sink],
        *,
        window: WindowSink | None = None,
        choose: Callable[[BoxList], BoxList] = lambda detections: detections,
        depth: int = 4,
        on_result: Callable[[Result, Rate], None] = lambda result, rate: None,
    ) -> None:
        self._source, self._predictor, self._sinks, self._window = source, predictor, sinks, window
        self._draw, self._choose, self._on_result = draw, choose, on_result
        depth = 1 if source.live else depth
        self._frames: Channel[Frame] = Channel(depth, newest=source.live)
        self._prepared: Channel[tuple[Frame, PreparedImage]] = Channel(depth)
        self._found: Channel[tuple[Frame, PendingDetections]] = Channel(depth)
        self._results: Channel[Result] = Channel(depth)
        self._shown: Channel[Result] = Channel(1, newest=window is not None and not window.hold)
        self._errors: list[BaseException] = []
        self._stopped_by = ""
        self._frames_written, self._first, self._last, self._latencies = 0, 0.0, 0.0, 0.0
        self.rate = Rate()

    def run(self) -> PipelineReport:
        """Until the source ends, a window is closed, or a signal (Ctrl-C, SIGTERM) comes; what is open is closed then.

        Raises: the first error of any step or sink, after the frames before it have been written, where they can be.
        """
        steps: list[tuple[Callable[[], None], Channel[Any] | None, Channel[Any]]] = [
            (self._read, None, self._frames),
            (self._prepare, self._frames, self._prepared),
            (self._render, self._found, self._results),
            (self._write, self._results, self._shown),
        ]
        threads = [
            threading.Thread(target=self._step, args=step, name=step[0].__name__.strip("_"), daemon=True)
            for step in steps
        ]
        computing = torch.get_num_threads()
        with self._signals():
            try:
                for thread in threads:
                    thread.start()
                try:
                    self._guarded(self._model, self._prepared, self._found)
                except WindowClosed:
                    raise
                except Exception as error:  # the frames before it are still on their way to the sinks
                    self._errors.append(error)
                while threads[-1].is_alive() and not self._stopped_by:
                    self._show(_POLL)
            except WindowClosed:
                self._stopped_by = "window"
            except Exception as error:
                self._errors.append(error)
            finally:
                self._shut_down(threads)
                torch.set_num_threads(computing)
        if self._errors:
            raise self._errors[0]
        latency = self._latencies / self._frames_written if self._frames_written else 0.0
        return PipelineReport(
            self._frames_written, self._frames.dropped, self._last - self._first, latency, self._stopped_by
        )

    # The steps

    def _step(self, work: Callable[[], None], source: Channel[Any] | None, output: Channel[Any]) -> None:
        torch.set_num_threads(1)  # of this thread
        try:
            self._guarded(work, source, output)
        except BaseException as error:
            self._errors.append(error)

    @staticmethod
    def _guarded(work: Callable[[], None], source: Channel[Any] | None, output: Channel[Any]) -> None:
        """However a step ends, those after it finish what is there, and those before it stop."""
        try:
            work()
        finally:
            output.end()
            if source is not None:
                source.cut()

    def _read(self) -> None:
        try:
            while (frame := self._source.read()) is not None:
                if not self._frames.put(frame):
                    return
        finally:
            self._source.close()

    def _prepare(self) -> None:
        while (frame := self._next_frame()) is not None:
            if not self._prepared.put((frame, self._predictor.prepare(frame.image, "BGR"))):
                return

    def _next_frame(self) -> Frame | None:
        try:
            return self._frames.get(self._source.timeout if self._source.live else None)
        except TimeoutError:
            raise StreamError(self._source.why_late()) from None

    def _model(self) -> None:
        """In the caller's thread, which looks after the window and the user's signals besides."""
        while not self._stopped_by:
            with contextlib.suppress(TimeoutError):
                item = self._prepared.get(_POLL if self._window is None else _WINDOW_POLL)
                if item is None or not self._found.put((item[0], self._predictor.start([item[1]]))):
                    return
            self._show(0)

    def _render(self) -> None:
        for frame, pending in self._found:
            detections = self._choose(pending.wait()[0])
            if not self._results.put(Result(frame, detections, self._draw(frame.image, detections))):
                return

    def _write(self) -> None:
        for result in self._results:
            self.rate.add(result.frame.captured)
            self._on_result(result, self.rate)
            for sink in self._sinks:
                sink.write(result)
            self._last = time.perf_counter()
            self._first = self._first or self._last
            self._latencies += self._last - result.frame.captured
            self._frames_written += 1
            if self._window is not None and not self._shown.put(result):
                return

    def _show(self, wait: float) -> None:
        """Put a result that is ready into the window; wait for one so many seconds."""
        if self._window is None:
            time.sleep(wait)
            return
        with contextlib.suppress(TimeoutError):
            result = self._shown.get(wait)
            if result is not None:
                self._window.write(result)

    # The end

    def _shut_down(self, threads: Sequence[threading.Thread]) -> None:
        self._source.stop()
        for channel in (self._frames, self._prepared, self._found, self._results, self._shown):
            channel.cut()
        threads[-1].join()  # a sink is not closed while it is being written to; a second Ctrl-C ends the wait
        for sink in (*self._sinks, *filter(None, [self._window])):
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
        """The first Ctrl-C or SIGTERM ends the run in order, a second one at once, with a file that may be cut off; in
        the main thread alone."""
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

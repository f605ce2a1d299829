"""Run frames through a model, with each step in its own thread, so that the model never waits for the other steps.

    source -> prepare -> model (in the caller's thread, with the window) -> draw -> write

The steps are connected by channels that hold a few frames. A step that is ahead waits, which bounds the memory. A live
source does not wait: the newest frame is kept, older ones are dropped. OpenCV, Pillow and PyTorch release Python's
global lock while they work.

On a CPU the model must run in the thread that built it. OpenMP keeps a team of threads for each thread that computes;
if the teams together have more threads than there are processors, their threads sleep between operations, which makes a
model of many small operations a third slower. The other steps therefore compute with one thread, without a team.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_benchmark.engine.predictor import PendingDetections, Predictor, PreparedImage
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .channel import Channel
from .rate import PipelineReport, Rate
from .sinks import Sink
from .sources import Source
from .stream import Frame, Result, StreamError
from .window import WindowClosed, WindowSink

logger = logging.getLogger(__name__)

Draw = Callable[[NDArray[np.uint8], BoxList], NDArray[np.uint8]]

_POLL = 0.05  # seconds between checks whether the user has asked to stop
_WINDOW_POLL = 0.005  # seconds between checks whether there is something to show
_GIVE_UP = 3.0  # seconds to wait for the end of each step; a frozen driver never ends


class Pipeline:
    """Runs the frames of a source through a model into sinks.

    Args:
        predictor: prepares frames and starts the model.
        draw: (frame in BGR, detections) -> picture; called in one thread, in the order of the frames.
        sinks: take every result in order, in one thread; they are closed at the end, also after an error.
        window: takes results in the caller's thread: every result if it holds each picture, else the newest.
        choose: detections of a frame -> those to show; called before `draw`.
        depth: number of frames per channel; always 1 for live sources, so that frames are shown without delay.
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
        """Run until the source ends, the window is closed or a signal (Ctrl-C, SIGTERM) arrives, then close everything.

        Raises: the first error of a step or sink, after the frames before it have been written if possible.
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
        num_threads = torch.get_num_threads()
        with self._signals():
            try:
                for thread in threads:
                    thread.start()
                try:
                    self._guarded(self._model, self._prepared, self._found)
                except WindowClosed:
                    raise
                except Exception as error:  # frames before it are still on their way to the sinks
                    self._errors.append(error)
                while threads[-1].is_alive() and not self._stopped_by:
                    self._show(_POLL)
            except WindowClosed:
                self._stopped_by = "window"
            except Exception as error:
                self._errors.append(error)
            finally:
                self._shut_down(threads)
                torch.set_num_threads(num_threads)
        if self._errors:
            raise self._errors[0]
        latency = self._latencies / self._frames_written if self._frames_written else 0.0
        return PipelineReport(
            self._frames_written, self._frames.dropped, self._last - self._first, latency, self._stopped_by
        )

    # The steps

    def _step(self, work: Callable[[], None], source: Channel[Any] | None, output: Channel[Any]) -> None:
        torch.set_num_threads(1)  # in this thread
        try:
            self._guarded(work, source, output)
        except BaseException as error:
            self._errors.append(error)

    @staticmethod
    def _guarded(work: Callable[[], None], source: Channel[Any] | None, output: Channel[Any]) -> None:
        """Run a step. When it ends or fails, later steps finish the frames they have, and earlier steps stop."""
        try:
            work()
        finally:
            output.end()
            if source is not None:
                source.close()

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
        """Run the model in the caller's thread, which also updates the window and checks for signals."""
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
        """Show a result in the window; wait up to `wait` seconds for one."""
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
            channel.close()
        threads[-1].join()  # sinks must not be closed during a write; a second Ctrl-C ends this wait
        for sink in (*self._sinks, *filter(None, [self._window])):
            try:
                sink.close()
            except Exception as error:
                self._errors.append(error)
        deadline = time.monotonic() + _GIVE_UP
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning(
                    "the step %r of %s does not end; its thread is abandoned", thread.name, self._source.name
                )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop in order at the first Ctrl-C or SIGTERM; a second one ends the process, and files may be incomplete.

        Signals are handled in the main thread only.
        """
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

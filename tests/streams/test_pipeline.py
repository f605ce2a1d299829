"""The pipeline on made-up sources, models and sinks: order, bounds, dropped frames, and every way to end."""

import os
import signal
import threading
import time

import pytest
import torch

from maskrcnn_benchmark.streams import pipeline as pipeline_module
from maskrcnn_benchmark.streams.channel import Channel
from maskrcnn_benchmark.streams.pipeline import Pipeline
from maskrcnn_benchmark.streams.rate import Rate
from maskrcnn_benchmark.streams.sources import CameraSource
from maskrcnn_benchmark.streams.stream import StreamError
from maskrcnn_benchmark.streams.window import WindowClosed
from tests.streams.fakes import FakeCapture, FakePredictor, FakeSink, FakeSource, draw, image_of


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch):
    monkeypatch.setattr(pipeline_module, "_GIVE_UP", 5.0)
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)


def test_every_frame_of_a_file_comes_out_in_order():
    source, sink = FakeSource(40), FakeSink()
    report = Pipeline(source, FakePredictor(), draw, [sink]).run()
    assert [result.frame.index for result in sink.results] == list(range(40))
    for number, result in enumerate(sink.results):
        assert result.detections.bbox[0, 0] == number
        assert (result.picture == 255 - number).all() and (result.frame.image == number).all()
    assert (report.frames, report.dropped, report.stopped_by) == (40, 0, "")
    assert report.rate > 0 and report.latency > 0
    assert sink.closed == 1 and source.closed


def test_nothing_at_all():
    sink = FakeSink()
    report = Pipeline(FakeSource(0), FakePredictor(), draw, [sink]).run()
    assert (report.frames, report.rate, report.latency, sink.closed) == (0, 0.0, 0.0, 1)


def test_the_model_works_while_frames_are_read_and_written():
    source = FakeSource(12)
    written = threading.Semaphore(0)

    def on_start(number):
        if number == 2:  # read on, and written, while the model has not ended with frame 2
            deadline = time.monotonic() + 5
            while source.read_so_far < 5 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert source.read_so_far >= 5
            assert written.acquire(timeout=5) and written.acquire(timeout=5)

    sink = FakeSink(on_write=lambda result: written.release())
    report = Pipeline(source, FakePredictor(on_start=on_start), draw, [sink]).run()
    assert report.frames == 12


def test_frames_that_wait_are_few():
    source, release = FakeSource(200), threading.Event()
    most = []

    def on_write(result):
        if not most:
            release.wait(0.5)
            most.append(source.read_so_far)

    Pipeline(source, FakePredictor(), draw, [FakeSink(on_write)], depth=2).run()
    assert most[0] <= 1 + 4 * 2 + 4  # the one that is written, four channels of two, one in the hands of each step


def test_a_live_source_drops_what_nobody_has_time_for():
    source, sink = FakeSource(60, live=True, pause=0.002), FakeSink()
    predictor = FakePredictor(on_start=lambda number: time.sleep(0.02))
    report = Pipeline(source, predictor, draw, [sink]).run()
    indices = [result.frame.index for result in sink.results]
    assert source.read_so_far == 60 and report.frames == len(indices) < 50
    assert indices == sorted(set(indices)) and indices[-1] == 59  # the newest is kept
    assert report.dropped == 60 - len(indices)


@pytest.mark.parametrize("step", ["read", "prepare", "start", "draw", "write", "close"])
def test_an_error_anywhere_closes_everything(step):
    error = StreamError(f"broken: {step}")

    def fail(*args):
        number = args[0] if args else 5
        number = number.frame.index if hasattr(number, "frame") else number
        if number == 5:
            raise error

    def failing_draw(image, detections):
        if step == "draw":
            fail(int(image[0, 0, 0]))
        return draw(image, detections)

    source = FakeSource(5 if step == "read" else 100, error=error if step == "read" else None)
    predictor = FakePredictor(fail if step == "prepare" else None, fail if step == "start" else None)
    sinks = [FakeSink(fail if step == "write" else None, fail if step == "close" else None), FakeSink()]
    with pytest.raises(StreamError, match=f"broken: {step}"):
        Pipeline(source, predictor, failing_draw, sinks).run()
    assert source.closed and [sink.closed for sink in sinks] == [1, 1]
    written = [result.frame.index for result in sinks[0].results]
    assert written == list(range(100 if step == "close" else 5))  # those before the error are out


def test_frames_on_their_way_to_a_slow_sink_survive_an_error_of_the_model():
    def fail(number):
        if number == 5:
            raise StreamError("broken: start")

    sink = FakeSink(lambda result: time.sleep(0.02))
    with pytest.raises(StreamError, match="broken: start"):
        Pipeline(FakeSource(100), FakePredictor(None, fail), draw, [sink]).run()
    assert [result.frame.index for result in sink.results] == list(range(5)) and sink.closed == 1


def test_a_frozen_camera_is_given_up(monkeypatch):
    monkeypatch.setattr(pipeline_module, "_GIVE_UP", 0.2)
    frozen = threading.Event()
    capture = FakeCapture([(True, image_of(1)), (True, image_of(2)), frozen])
    source, sink = CameraSource(0, timeout=0.4, open_capture=lambda address: capture), FakeSink()
    start = time.monotonic()
    with pytest.raises(StreamError, match="camera 0 has delivered nothing for 0.4 s: it is frozen"):
        Pipeline(source, FakePredictor(), draw, [sink]).run()
    assert time.monotonic() - start < 5
    assert sink.closed == 1 and sink.results
    assert not capture.released  # not during a read
    frozen.set()
    time.sleep(0.1)
    assert capture.released


def test_a_camera_that_delivers_broken_frames_alone():
    capture = FakeCapture([(True, image_of(1)), (True, None), (False, None)])
    source, sink = CameraSource(0, timeout=0.3, open_capture=lambda address: capture), FakeSink()
    with pytest.raises(StreamError, match=r"no complete frame for 0.3 s \(\d+ broken or empty ones\)"):
        Pipeline(source, FakePredictor(), draw, [sink]).run()
    assert capture.released and sink.closed == 1


@pytest.mark.parametrize("hold", [False, True])
def test_the_window_ends_it(hold):
    def close_window(result):
        assert threading.current_thread() is threading.main_thread()
        if result.frame.index >= 3:
            raise WindowClosed

    sink, window = FakeSink(), FakeSink(close_window)
    window.hold = hold
    report = Pipeline(FakeSource(1000, pause=0.001), FakePredictor(), draw, [sink], window=window).run()
    assert report.stopped_by == "window" and 3 < report.frames < 900
    assert (sink.closed, window.closed) == (1, 1)
    shown = [result.frame.index for result in window.results]
    assert shown == [0, 1, 2] if hold else shown == sorted(set(shown))


def test_a_window_sees_the_end():
    sink, window = FakeSink(), FakeSink()
    window.hold = True
    report = Pipeline(FakeSource(7), FakePredictor(), draw, [sink], window=window).run()
    assert report.frames == 7 and [result.frame.index for result in window.results] == list(range(7))


def test_the_model_runs_in_the_callers_thread_and_has_the_threads_to_itself():
    before, seen = torch.get_num_threads(), {}

    def note(step):
        seen[step] = (threading.current_thread() is threading.main_thread(), torch.get_num_threads())

    def noting_draw(image, detections):
        note("draw")
        return draw(image, detections)

    predictor = FakePredictor(lambda number: note("prepare"), lambda number: note("model"))
    Pipeline(FakeSource(5), predictor, noting_draw, [FakeSink(lambda result: note("write"))]).run()
    assert seen == {"prepare": (False, 1), "model": (True, before), "draw": (False, 1), "write": (False, 1)}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number):
    before = signal.getsignal(number)

    def interrupt(result):
        if result.frame.index == 4:
            os.kill(os.getpid(), number)

    source, sink = FakeSource(10_000, pause=0.001), FakeSink(interrupt)
    report = Pipeline(source, FakePredictor(), draw, [sink]).run()
    assert report.stopped_by == number.name
    assert 5 <= report.frames < 100 and sink.closed == 1 and source.closed
    assert signal.getsignal(number) is before


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the shell that runs the tests in its background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_wait(interruptible):
    before = interruptible

    def interrupt_twice(result):
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 20
        while signal.getsignal(signal.SIGINT) is not before and time.monotonic() < deadline:
            time.sleep(0.01)  # two signals that nobody has handled in between count as one
        os.kill(os.getpid(), signal.SIGINT)
        disk.wait(20)

    disk, sink = threading.Event(), FakeSink(interrupt_twice)  # a disk that hangs
    with pytest.raises(KeyboardInterrupt):
        Pipeline(FakeSource(100), FakePredictor(), draw, [sink]).run()
    assert sink.closed == 0 and not disk.is_set()  # nothing is closed while it is being written to
    disk.set()


def test_in_another_thread_signals_are_left_alone():
    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(Pipeline(FakeSource(5), FakePredictor(), draw, [FakeSink()]).run())
    )
    thread.start()
    thread.join(10)
    assert reports[0].frames == 5


def test_choosing_and_changing_results():
    seen = []

    def on_result(result, rate):
        assert isinstance(rate, Rate)
        seen.append(str(rate))

    sink = FakeSink()
    Pipeline(FakeSource(3), FakePredictor(), draw, [sink], choose=lambda found: found[:0], on_result=on_result).run()
    assert all(len(result.detections) == 0 for result in sink.results)
    assert len(seen) == 3 and "frames/s" in seen[-1] and "ms" in seen[-1]


def test_a_channel():
    channel = Channel(2)
    assert channel.put(1) and channel.put(2)
    with pytest.raises(TimeoutError):
        Channel(1).get(0.01)
    assert channel.get() == 1
    channel.end()
    assert list(channel) == [2] and channel.get() is None
    newest = Channel(2, newest=True)
    for number in range(5):
        assert newest.put(number)
    newest.end()
    assert list(newest) == [3, 4] and newest.dropped == 3
    full = Channel(1)
    full.put(1)
    outcome = []
    sender = threading.Thread(target=lambda: outcome.append(full.put(2)))
    sender.start()
    full.close()
    sender.join(5)
    assert outcome == [False] and full.get() is None


def test_a_rate(monkeypatch):
    clock = iter([10.0, 10.5, 11.0])
    monkeypatch.setattr(pipeline_module.time, "perf_counter", lambda: next(clock))
    rate = Rate()
    assert str(rate) == "0.0 frames/s, 0 ms"
    for captured in (9.9, 10.4, 10.9):
        rate.add(captured)
    assert str(rate) == "2.0 frames/s, 100 ms"

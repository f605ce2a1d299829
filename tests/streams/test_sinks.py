"""Files that are whole when they are closed, and every reason why they cannot be written."""

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.streams import sinks, window
from maskrcnn_benchmark.streams.sinks import (
    FolderSink,
    ImageSink,
    JsonSink,
    VideoSink,
    open_sink,
)
from maskrcnn_benchmark.streams.sources import ImageSource, VideoSource
from maskrcnn_benchmark.streams.stream import Frame, Result, StreamError
from maskrcnn_benchmark.streams.window import WindowClosed, WindowSink, why_no_window
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.streams.fakes import FakeSource, image_of
from tests.streams.test_sources import write_video

ROOT = Path(__file__).resolve().parents[2]


def result_of(picture, index=0, seconds=None, name="", detections=None):
    height, width = picture.shape[:2]
    if detections is None:
        detections = BoxList([], (width, height))
        detections.add_field(fields.SCORES, torch.zeros(0))
    frame = Frame(np.zeros_like(picture), index, index / 25 if seconds is None else seconds, time.perf_counter(), name)
    return Result(frame, detections, picture)


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        received, frame = capture.read()
        if not received:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov", ".webm"])
def test_a_video_has_every_picture(tmp_path, suffix):
    sink = VideoSink(tmp_path / "new" / f"a{suffix}", fps=12.5)
    for number in range(10):
        sink.write(result_of(image_of(20 * number), number))
    sink.close()
    frames, fps = read_video(tmp_path / "new" / f"a{suffix}")
    assert len(frames) == 10 and fps == pytest.approx(12.5)
    for number, frame in enumerate(frames):
        assert frame.shape == (48, 64, 3)
        assert abs(frame.mean() - 20 * number) < 4


def test_pictures_of_other_sizes_are_fitted_in(tmp_path):
    sink = VideoSink(tmp_path / "a.avi", fps=25)
    sink.write(result_of(image_of(200, width=63, height=47)))  # codecs want even sizes
    sink.write(result_of(image_of(200, width=128, height=48)))
    sink.write(result_of(image_of(200, width=10, height=20)))
    sink.close()
    (odd, wide, tall), _ = read_video(tmp_path / "a.avi")
    assert odd.shape == (48, 64, 3) and odd.min() > 190
    assert wide[:10].max() < 12 and wide[-10:].max() < 12 and wide[16:32].min() > 188
    assert tall[:, :15].max() < 12 and tall[:, -15:].max() < 12 and tall[4:-4, 24:40].min() > 188


def test_a_live_video_plays_as_fast_as_what_it_shows(tmp_path):
    sink = VideoSink(tmp_path / "a.avi", fps=10, real_time=True)
    for index, seconds in enumerate([0.0, 0.02, 0.35, 0.4, 1.0]):
        sink.write(result_of(image_of(40 + 40 * index), index, seconds))
    sink.close()
    frames, _ = read_video(tmp_path / "a.avi")
    shades = [round((frame.mean() - 40) / 40) for frame in frames]
    assert shades == [0, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4]


def test_a_video_without_frames_is_no_file(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4", fps=25)
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_codecs_and_kinds_that_are_not_known(tmp_path):
    source = FakeSource(3)
    with pytest.raises(StreamError, match=r"cannot write \.mp4 files with codec 'ZZZZ'\. Codecs of OpenCV's wheels"):
        VideoSink(tmp_path / "a.mp4", 25, "ZZZZ")
    with pytest.raises(StreamError, match="--codec is 'h264 ultra'; a codec has four letters"):
        VideoSink(tmp_path / "a.mp4", 25, "h264 ultra")
    with pytest.raises(StreamError, match=r"unknown suffix '\.xyz'\. Videos: \.mp4"):
        open_sink(str(tmp_path / "a.xyz"), source)
    with pytest.raises(StreamError, match="is one image, but frames has several"):
        open_sink(str(tmp_path / "a.png"), source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "b.png", "folder/", "deep/er/a.avi"])
def test_where_nothing_can_be_written(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    source = FakeSource(1)
    with pytest.raises(StreamError, match=r"cannot write .*: (Not a directory|File exists)\. Name an output"):
        open_sink(f"{tmp_path}/file/{name}", source)
    with pytest.raises(StreamError, match=r"cannot write /proc/nothing/"):
        open_sink(f"/proc/nothing/{name}", source)
    with pytest.raises(StreamError, match="cannot write"):
        JsonSink(tmp_path / "file" / "a.json", "source", {})


def test_a_size_that_the_codec_refuses(tmp_path, monkeypatch):
    sink = VideoSink(tmp_path / "a.mp4", 25)

    class Closed:
        def isOpened(self):  # noqa: N802
            return False

    monkeypatch.setattr(sinks.cv2, "VideoWriter", lambda *args: Closed())
    monkeypatch.setattr(Closed, "fourcc", staticmethod(lambda *letters: 0), raising=False)
    monkeypatch.setattr(sinks.cv2.VideoWriter, "fourcc", lambda *letters: 0, raising=False)
    with pytest.raises(StreamError, match="cannot be written with codec 'mp4v' at 64 x 48 pixels and 25 frames"):
        sink.write(result_of(image_of(1)))
    sink.close()


@pytest.mark.slow
def test_a_full_disk_is_noticed(tmp_path):
    """A process that may write 60 kB to a file, as on a disk that is full then."""
    code = f"""
import resource, sys
import numpy as np
from maskrcnn_benchmark.streams.sinks import FolderSink, VideoSink
from maskrcnn_benchmark.streams.stream import StreamError
from tests.streams.test_sinks import result_of
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
rng = np.random.default_rng(0)
for sink in (VideoSink({str(tmp_path / "a.avi")!r}, 25), FolderSink({str(tmp_path / "folder")!r})):
    try:
        for number in range(40):
            picture = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            sink.write(result_of(picture, number, name=f"{{number}}.png"))
        sink.close()
    except StreamError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    first, second = run.stdout.splitlines()
    assert "a.avi has " in first and "of the 40 frames that were written. Is the disk full?" in first
    assert "cannot write" in second and "Is the disk full?" in second


def test_a_folder_of_pictures(tmp_path):
    sink = FolderSink(tmp_path / "out")
    for index, name in enumerate(["a.png", "b.jpg", "A.png", "a.png", "", ""]):
        sink.write(result_of(image_of(10 * index + 100), index, name=name))
    sink.close()
    files = {path.name: cv2.imread(str(path)) for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["000004.jpg", "000005.jpg", "A_2.png", "a.png", "a_3.png", "b.jpg"]
    assert (files["a.png"] == 100).all() and (files["a_3.png"] == 130).all()
    assert abs(files["000005.jpg"].mean() - 150) < 2


def test_one_image(tmp_path):
    source = ImageSource([tmp_path / "in.png"])
    sink = open_sink(str(tmp_path / "out.png"), source)
    assert isinstance(sink, ImageSink)
    sink.write(result_of(image_of(77)))
    sink.close()
    assert (cv2.imread(str(tmp_path / "out.png")) == 77).all()


def test_a_source_is_not_overwritten(tmp_path):
    video = write_video(tmp_path / "a.avi", count=3)
    with pytest.raises(StreamError, match="would overwrite its own source"):
        open_sink(str(tmp_path / "x" / ".." / "a.avi"), VideoSource(video))
    assert isinstance(open_sink(str(tmp_path), VideoSource(video)), FolderSink)
    Image.fromarray(image_of(1)).save(tmp_path / "a.png")
    images = ImageSource([tmp_path / "a.png"])
    for target in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(StreamError, match="would overwrite its own source"):
            open_sink(str(target), images)
    assert isinstance(open_sink(str(tmp_path / "a.mp4"), images), VideoSink)


def test_results_as_json(tmp_path):
    detections = BoxList([[10.0, 5.0, 30.0, 25.0]], (64, 48), offset=0)
    detections.add_field(fields.SCORES, torch.tensor([0.9]))
    detections.add_field(fields.LABELS, torch.tensor([2]))
    detections.add_field(fields.MASK, torch.ones(1, 1, 28, 28))
    detections.add_field(fields.mask_fields("amodal").mask, torch.zeros(1, 1, 28, 28))
    points = torch.arange(51.0).reshape(1, 17, 3)
    detections.add_field(fields.KEYPOINTS, PersonKeypoints(points, (64, 48)))
    sink = JsonSink(tmp_path / "a.json", "video.mp4", {0: "__background__", 2: "car"})
    sink.write(result_of(image_of(0), 0, 0.0, detections=detections))
    sink.write(result_of(image_of(0), 1, 0.04, name="b.png"))
    sink.close()
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["source"] == "video.mp4" and content["categories"] == {"0": "__background__", "2": "car"}
    first, second = content["frames"]
    assert (first["frame"], first["image"], first["width"], first["height"]) == (0, None, 64, 48)
    (found,) = first["detections"]
    assert found["bbox"] == [10.0, 5.0, 20.0, 20.0] and found["score"] == 0.9
    assert (found["label"], found["category"]) == (2, "car")
    assert found["segmentations"] == {"amodal": {"size": [48, 64], "counts": "PP3"}}, "3072 pixels of 0"
    assert found["segmentation"]["size"] == [48, 64] and found["keypoints"] == list(range(51))
    assert second == {"frame": 1, "seconds": 0.04, "image": "b.png", "width": 64, "height": 48, "detections": []}


def test_json_without_frames_is_whole(tmp_path):
    JsonSink(tmp_path / "a.json", "0", {}).close()
    assert json.loads((tmp_path / "a.json").read_text()) == {"source": "0", "categories": {}, "frames": []}


def test_why_there_is_no_window(monkeypatch):
    headless = "  GUI:                           NONE\n"
    monkeypatch.setattr(sinks.cv2, "getBuildInformation", lambda: headless)
    assert "opencv-python-headless). Use --no-display with --output" in why_no_window()
    with pytest.raises(StreamError, match="this OpenCV cannot open windows"):
        WindowSink("title")
    monkeypatch.setattr(sinks.cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert why_no_window().startswith("there is no screen (DISPLAY and WAYLAND_DISPLAY are not set)")
    monkeypatch.setenv("DISPLAY", ":0")
    assert why_no_window() == ""


class FakeScreen:
    """OpenCV's windows: what was shown, and the keys that the user presses."""

    WND_PROP_VISIBLE = 4

    def __init__(self, monkeypatch, keys):
        self.keys, self.shown, self.visible, self.destroyed = list(keys), [], 1.0, False
        monkeypatch.setattr(window, "why_no_window", lambda: "")
        for name in ("imshow", "waitKey", "getWindowProperty", "destroyAllWindows"):
            monkeypatch.setattr(sinks.cv2, name, getattr(self, name))

    def imshow(self, title, picture):
        self.shown.append(picture)

    def waitKey(self, delay):  # noqa: N802
        return self.keys.pop(0) if self.keys else -1

    def getWindowProperty(self, title, what):  # noqa: N802
        return self.visible

    def destroyAllWindows(self):  # noqa: N802
        self.destroyed = True


def test_a_window_until_a_key_or_its_end(monkeypatch):
    screen = FakeScreen(monkeypatch, [-1, ord("q"), -1])
    window = WindowSink("title", caption=lambda: "12 frames/s")
    plain = image_of(100)
    window.write(result_of(plain))
    assert (plain == 100).all() and (screen.shown[0] != 100).any()  # the caption is on the window's copy
    with pytest.raises(WindowClosed):
        window.write(result_of(plain))
    window.write(result_of(plain))
    screen.visible = 0.0
    with pytest.raises(WindowClosed):
        window.write(result_of(plain))
    window.close()
    assert screen.destroyed and len(screen.shown) == 3


def test_a_window_of_images_waits_for_a_key(monkeypatch):
    screen = FakeScreen(monkeypatch, [-1, -1, -1, ord("n"), 27])
    window = WindowSink("title", hold=True)
    window.write(result_of(image_of(1)))
    assert screen.keys == [27]
    with pytest.raises(WindowClosed):
        window.write(result_of(image_of(2)))

"""Cameras that do not open, videos that are damaged, files that are no images, and the same when all is well."""

import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.streams import sources
from maskrcnn_benchmark.streams.sources import CameraSource, ImageSource, VideoSource, open_source
from maskrcnn_benchmark.streams.stream import StreamError
from tests.streams.fakes import FakeCapture, image_of


def write_video(path, count=30, codec="MJPG", size=(64, 48), fps=20.0):
    """Frames that differ much from each other; shade 8 * number at the left."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for number in range(count):
        frame = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        frame[:, : size[0] // 2] = 8 * number
        writer.write(frame)
    writer.release()
    return path


def frames_of(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def test_a_video_gives_every_frame_with_its_time(tmp_path):
    source = VideoSource(write_video(tmp_path / "a.avi"))
    assert (source.live, source.moving, source.length, source.fps) == (False, True, 30, 20.0)
    frames = frames_of(source)
    assert [frame.index for frame in frames] == list(range(30)) and source.problems == []
    for frame in frames:
        assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
        assert abs(frame.image[:, :24].mean() - 8 * frame.index) < 3
        assert frame.seconds == pytest.approx(frame.index / 20)


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "mp4v")])
def test_a_damaged_video_gives_what_can_be_read_and_says_so(tmp_path, suffix, codec):
    whole = write_video(tmp_path / f"whole{suffix}", codec=codec).read_bytes()
    third = len(whole) // 3
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(whole[:third] + bytes(third) + whole[2 * third :])
    source = VideoSource(damaged)
    frames = frames_of(source)
    assert 5 < len(frames) < 28
    assert source.problems == [
        f"{damaged}: {30 - len(frames)} of 30 frames cannot be decoded; the file is damaged or incomplete"
    ]


def test_a_video_that_is_cut_off(tmp_path):
    whole = write_video(tmp_path / "whole.avi").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    source = VideoSource(cut)
    frames = frames_of(source)
    assert 10 < len(frames) < 20 and "incomplete" in source.problems[0]


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(StreamError, match=r"a\.mp4 cannot be read as a video: it is damaged, incomplete, of a codec"):
        open_source([str(path)])


def test_a_video_without_pictures(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", count=3)

    class Blank:
        def __init__(self, name): ...
        def isOpened(self):  # noqa: N802
            return True

        def get(self, what):
            return {cv2.CAP_PROP_FPS: float("nan"), cv2.CAP_PROP_FRAME_COUNT: 3}[what]

        def grab(self):
            return False

        def release(self): ...

    monkeypatch.setattr(sources.cv2, "VideoCapture", Blank)
    source = open_source([str(path)])
    assert source.fps == 25
    with pytest.raises(StreamError, match="no frame can be decoded"):
        source.read()


def test_images_in_a_folder_in_their_natural_order(tmp_path):
    for number in (10, 9, 1):
        Image.fromarray(image_of(number)).save(tmp_path / f"{number}.PNG")
    (tmp_path / "notes.md").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = np.dstack([image_of(200)[..., 0], image_of(100)[..., 0], image_of(50)[..., 0]])
    Image.fromarray(colours).save(tmp_path / "turned.jpg", exif=exif)
    source = open_source([str(tmp_path)])
    assert (source.live, source.moving, source.length) == (False, False, 4)
    frames = frames_of(source)
    assert [frame.name for frame in frames] == ["1.PNG", "9.PNG", "10.PNG", "turned.jpg"]
    assert frames[1].image[0, 0, 0] == 9
    blue, green, red = frames[3].image[5, 5].astype(int)
    assert frames[3].image.shape == (64, 48, 3) and red > green > blue


def test_lists_of_images(tmp_path):
    for number in range(3):
        Image.fromarray(image_of(number)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in (2, 0)]
    assert [frame.name for frame in frames_of(open_source(paths))] == ["2.png", "0.png"]
    (tmp_path / "list.txt").write_text(f"1.png\n\n{tmp_path}/2.png\n")
    source = open_source([str(tmp_path / "list.txt")])
    assert [frame.name for frame in frames_of(source)] == ["1.png", "2.png"]
    single = open_source([paths[0]])
    assert single.length == 1 and single.name == paths[0]


def test_images_that_cannot_be_read_are_passed_over(tmp_path, caplog):
    Image.fromarray(image_of(1)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    source = open_source([str(tmp_path / name) for name in ("b.png", "a.png", "c.png")])
    assert [frame.name for frame in frames_of(source)] == ["a.png"]
    assert len(source.problems) == 2
    assert "b.png cannot be read" in source.problems[0] and "c.png does not exist" in source.problems[1]
    assert "b.png cannot be read" in caplog.text
    with pytest.raises(StreamError, match="none of the images can be read"):
        frames_of(ImageSource([tmp_path / "b.png", tmp_path / "c.png"]))


def test_no_such_source(tmp_path):
    with pytest.raises(StreamError, match="neither the number of a camera nor an existing file or folder"):
        open_source([str(tmp_path / "nothing.mp4")])
    with pytest.raises(StreamError, match=r"there are no images; looked for \.bmp"):
        open_source([str(tmp_path)])
    with pytest.raises(StreamError, match="no source is given"):
        open_source([])


def test_a_camera_that_is_not_there():
    with pytest.raises(StreamError, match=r"camera 97 cannot be opened\. Is it connected.*This machine"):
        open_source(["97"])
    with pytest.raises(StreamError, match="rtsp://127.0.0.1:9/none cannot be opened|did not open within"):
        open_source(["rtsp://127.0.0.1:9/none"], timeout=10)


def test_a_camera_that_hangs_or_fails_while_it_opens():
    release = threading.Event()

    def hang(address):
        release.wait(20)
        return FakeCapture([])

    with pytest.raises(StreamError, match="camera 0 did not open within 0.1 s"):
        CameraSource(0, timeout=0.1, open_capture=hang)
    release.set()

    def fail(address):
        raise RuntimeError("driver says no")

    with pytest.raises(StreamError, match="camera 1 cannot be opened: driver says no"):
        CameraSource(1, open_capture=fail)


def test_a_camera_passes_over_broken_frames():
    good = (True, image_of(7))
    capture = FakeCapture([good, (False, None), (True, None), (True, np.zeros((0, 0, 3))), (True, np.zeros(5)), good])
    source = CameraSource(0, open_capture=lambda address: capture)
    assert (source.live, source.length, source.fps) == (True, None, 30.0)
    first, second = source.read(), source.read()
    assert (first.index, second.index, first.seconds) == (0, 1, 0.0)
    assert second.seconds > 0 and second.captured > first.captured
    source.stop()
    assert source.read() is None
    source.close()
    assert capture.released


def test_a_stream_by_its_url_is_live(tmp_path):
    path = write_video(tmp_path / "a.avi", count=5)
    source = open_source([f"file://{path}"])
    assert source.live and source.read().image.shape == (48, 64, 3)
    source.close()

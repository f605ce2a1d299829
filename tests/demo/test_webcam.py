"""The demo as a user runs it, without a screen: what goes in comes out annotated, or the message says why not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import webcam
from predictor import COCODemo

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.streams import sinks, sources
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.streams.fakes import FakeCapture
from tests.streams.test_sinks import FakeScreen, read_video

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--min-image-size", "48", "--confidence-threshold", "0.3"]


@pytest.fixture
def run(model_files, capsys):
    """`webcam.main` with the small model; the status and what was printed."""

    def run(*arguments, no_display=True):
        config, weights = (str(path) for path in model_files)
        base = ["--config-file", config, "--weights", weights, *(["--no-display"] if no_display else []), *SMALL]
        status = webcam.main([*base, *map(str, arguments)])
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def known(monkeypatch, people):
    """Replaces what the model finds by the people that were drawn: one box each, at 0.9, with their masks."""

    def truth(self, images):
        (image,) = images
        shade = image.pixels.mean()
        distances = [abs(shade - self.prepare(picture, "BGR").pixels.mean()) for picture, _ in people]
        annotations = people[int(np.argmin(distances))][1]
        boxes = torch.tensor([annotation["bbox"] for annotation in annotations])
        found = BoxList(boxes, (256, 192), mode="xywh", offset=0).convert("xyxy")
        found.add_field(fields.SCORES, torch.full((len(boxes),), 0.9))
        found.add_field(fields.LABELS, torch.ones(len(boxes), dtype=torch.int64))
        found.add_field(fields.MASK, torch.ones(len(boxes), 1, 28, 28))

        class Pending:
            def wait(self):
                return [found]

        return Pending()

    monkeypatch.setattr("maskrcnn_benchmark.engine.predictor.Predictor.start", truth)


def test_a_video_becomes_an_annotated_video(run, known, video, people, tmp_path):
    output = tmp_path / "out" / "annotated.mp4"
    status, printed = run("--source", video, "--output", output, "--json", tmp_path / "out.json")
    assert status == 0 and "10 frames" in printed and f"Written: {output}" in printed
    before, _ = read_video(video)
    after, fps = read_video(output)
    assert len(after) == len(before) == 10 and fps == 20.0
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    for number, (plain, annotated) in enumerate(zip(before, after, strict=True)):
        assert annotated.shape == plain.shape == (192, 256, 3)
        detections = frames[number]["detections"]
        truth = people[number // 3][1]
        assert [found["category"] for found in detections] == ["drawn person"] * len(truth)
        covered = np.zeros((192, 256), dtype=int)
        for person in truth:
            x, y, w, h = (int(round(side)) for side in person["bbox"])
            covered[y : y + h, x : x + w] += 1
        difference = np.abs(annotated.astype(int) - plain).max(axis=2)
        away = cv2.dilate((covered > 0).astype(np.uint8), np.ones((25, 25))) == 0
        for person in truth:  # labels stand there, and may be wider than their box
            top = int(person["bbox"][1])
            away[max(0, top - 30) : top + 30] = False
        assert away.sum() > 1000 and difference[away].mean() < 5  # codecs are not exact
        # An independent look at the tint: inside one box, away from its lines, colours move to one point by 45 %.
        x, y, w, h = (int(round(side)) for side in max(truth, key=lambda person: person["area"])["bbox"])
        inner = np.zeros((192, 256), dtype=bool)
        inner[y + h // 2 : y + h - 6, x + 6 : x + w - 6] = True
        inner &= covered == 1
        assert inner.sum() > 100 and difference[inner].mean() > 15
        for channel in range(3):
            slope, _ = np.polyfit(plain[inner][:, channel].astype(float), annotated[inner][:, channel].astype(float), 1)
            assert 0.45 < slope < 0.65


def test_the_pixels_of_an_annotated_image(run, known, people, tmp_path):
    """Without a codec between: frames, tints and untouched pixels, by a rendering of its own."""
    image, truth = people[1]
    cv2.imwrite(str(tmp_path / "in.png"), image)
    assert run("--source", tmp_path / "in.png", "--output", tmp_path / "out.png")[0] == 0
    drawn = cv2.imread(str(tmp_path / "out.png")).astype(int)
    covers = []
    for person in truth:
        x, y, w, h = person["bbox"]
        left, top, right, bottom = (int(round(side)) for side in (x, y, x + w, y + h))
        covers.append((max(0, left), max(0, top), min(255, right - 1), min(191, bottom - 1)))
    depth = np.zeros((192, 256), dtype=int)
    for left, top, right, bottom in covers:
        depth[top : bottom + 1, left : right + 1] += 1
    left, top, right, bottom = covers[-1]  # of equal scores, the last is on top
    colour = drawn[bottom - 8, left] if left > 0 else drawn[bottom - 8, right]
    assert colour.max() - colour.min() > 150  # a strong colour
    rows, columns = np.arange(top + 40, bottom - 6), np.arange(left + 6, right - 6)
    alone = np.ix_(rows[(depth[rows] == 1).any(axis=1)], columns)
    one = depth[alone] == 1
    expected = 0.55 * image[alone] + 0.45 * colour
    exact = (np.abs(drawn[alone] - expected) <= 0.51).all(axis=2)
    assert one.sum() > 1000 and exact[one].mean() > 0.95  # the rest is a label, and lines of other boxes
    untouched = depth == 0
    untouched[: max(person[1] for person in covers) + 12] = False  # labels
    assert (drawn[untouched] == image[untouched]).all()


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_the_model_itself_on_a_video(run, video, tmp_path, suffix):
    status, _ = run("--source", video, "--output", tmp_path / f"out{suffix}")
    frames, _ = read_video(tmp_path / f"out{suffix}")
    assert status == 0 and len(frames) == 10 and frames[0].shape == (192, 256, 3)


def test_the_same_from_a_video_as_from_the_demo_class(run, model_files, video, tmp_path):
    status, _ = run("--source", video, "--output", tmp_path / "pictures/", "INPUT.MAX_SIZE_TEST", "64")
    assert status == 0
    cfg = load_config(model_files[0], ["MODEL.WEIGHT", str(model_files[1]), "INPUT.MAX_SIZE_TEST", 64])
    demo = COCODemo(cfg, confidence_threshold=0.3, min_image_size=48)
    frames, _ = read_video(video)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == [f"{number:06d}.jpg" for number in range(10)]
    first = cv2.imread(str(pictures[0]))
    detections = demo.select_top_predictions(demo.compute_prediction(frames[0]))
    detections.add_field(fields.IDENTITIES, torch.arange(len(detections)))
    assert np.abs(first.astype(int) - demo.draw(frames[0], detections)).mean() < 4  # JPEG
    assert np.abs(first.astype(int) - frames[0]).mean() > 12


def test_images_lists_and_folders(run, people, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (image, _) in enumerate(people[:3]):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    status, _ = run("--source", folder, "--output", tmp_path / "all")
    assert status == 0 and sorted(path.name for path in (tmp_path / "all").iterdir()) == ["0.png", "1.png", "2.png"]
    for number, (image, _) in enumerate(people[:3]):
        drawn = cv2.imread(str(tmp_path / "all" / f"{number}.png"))
        assert drawn.shape == image.shape and (drawn != image).any()
    status, _ = run("--output", tmp_path / "some.avi", "--source", folder / "2.png", folder / "0.png", "SEED", "1",
                    "INPUT.MAX_SIZE_TEST", "64")  # fmt: skip
    frames, fps = read_video(tmp_path / "some.avi")
    assert status == 0 and len(frames) == 2 and fps == 2.0
    status, _ = run("--source", folder / "1.png", "--output", tmp_path / "one.jpg")
    assert status == 0 and cv2.imread(str(tmp_path / "one.jpg")).shape == (192, 256, 3)
    (tmp_path / "list.txt").write_text("in/1.png\nin/0.png\n")
    status, _ = run("--source", tmp_path / "list.txt", "--json", tmp_path / "list.json")
    frames = json.loads((tmp_path / "list.json").read_text())["frames"]
    assert status == 0 and [frame["image"] for frame in frames] == ["1.png", "0.png"]


def test_heat_maps(run, video, tmp_path):
    status, _ = run("--source", video, "--output", tmp_path / "a.avi", "--show-mask-heatmaps", "--masks-per-dim", "3")
    assert status == 0 and len(read_video(tmp_path / "a.avi")[0]) == 10
    status, printed = run("--source", video, "--output", tmp_path / "b.avi", "--show-mask-heatmaps",
                          "MODEL.MASK_ON", "False", "MODEL.REFINE_ON", "False")  # fmt: skip
    assert status == 1 and "heat maps of masks need a model with masks" in printed


def test_a_live_camera(run, people, tmp_path, monkeypatch):
    """Frames carry the rate; the video lasts as long as the camera ran."""
    opened = []

    class Camera(FakeCapture):
        def __init__(self, address):
            super().__init__([], fps=10.0)
            self.start = time.monotonic()
            opened.append(self)

        def read(self):
            time.sleep(0.03)
            if time.monotonic() - self.start > 4:
                return False, None
            return True, people[0][0].copy()

    monkeypatch.setattr(sources.CameraSource.__init__, "__defaults__", (5.0, Camera))
    status, printed = run("--source", "0", "--output", tmp_path / "live.avi", "--timeout", "0.5")
    assert status == 1 and "camera 0 has delivered no complete frame for 0.5 s" in printed  # unplugged
    frames, fps = read_video(tmp_path / "live.avi")
    assert fps == 10.0 and 5 <= len(frames) <= 45
    corner = frames[-1][-10:, :20].astype(int)
    assert corner.min() < 40 and corner.max() > 150  # white on black
    assert opened[0].released


def test_a_camera_that_freezes_leaves_a_playable_file(run, people, tmp_path, monkeypatch):
    """Its driver does not return from a read; between its frames come broken ones, which are passed over."""
    thawed = threading.Event()
    delivered = []

    class Camera(FakeCapture):
        def __init__(self, address):
            super().__init__([], fps=10.0)

        def read(self):
            if len(delivered) == 12:
                thawed.wait(60)
            time.sleep(0.05)
            delivered.append(None)
            return [(True, people[0][0].copy()), (False, None), (True, np.zeros((0, 0, 3), np.uint8))][
                len(delivered) % 3
            ]

    monkeypatch.setattr(sources.CameraSource.__init__, "__defaults__", (5.0, Camera))
    monkeypatch.setattr("maskrcnn_benchmark.streams.pipeline._GIVE_UP", 0.2)
    try:
        status, printed = run("--source", "0", "--output", tmp_path / "live.mp4", "--json", tmp_path / "live.json",
                              "--timeout", "3")  # fmt: skip
    finally:
        thawed.set()
    assert status == 1 and "camera 0 has delivered nothing for 3 s: it is frozen" in printed
    assert "Traceback" not in printed
    frames, _ = read_video(tmp_path / "live.mp4")
    assert frames and frames[0].shape == (192, 256, 3)
    assert 1 <= len(json.loads((tmp_path / "live.json").read_text())["frames"]) <= 4


def test_images_that_are_broken_are_reported(run, people, tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), people[0][0])
    (tmp_path / "bad.png").write_bytes(b"no image")
    status, printed = run("--source", tmp_path / "bad.png", tmp_path / "good.png", "--output", tmp_path / "out")
    assert status == 1 and "bad.png cannot be read" in printed and "1 frame, latency" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_a_damaged_video_is_reported(run, video, tmp_path):
    run("--source", video, "--output", tmp_path / "whole.avi")
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    status, printed = run("--source", tmp_path / "cut.avi", "--output", tmp_path / "out.mp4")
    assert status == 1 and "the file is damaged or incomplete" in printed
    assert 2 <= len(read_video(tmp_path / "out.mp4")[0]) <= 7


FAILURES = {
    "no camera": (["--source", "97", "--output", "{}/a.mp4"], "camera 97 cannot be opened"),
    "no file": (["--source", "{}/none.mp4", "--output", "{}/a.mp4"], "neither the number of a camera nor an existing"),
    "no video": (["--source", "{}/text.mp4", "--output", "{}/a.mp4"], "cannot be read as a video"),
    "kind": (["--source", "{video}", "--output", "{}/a.xyz"], "unknown suffix '.xyz'"),
    "codec": (["--source", "{video}", "--output", "{}/a.mp4", "--codec", "ZZZZ"], "with codec 'ZZZZ'"),
    "place": (["--source", "{video}", "--output", "{}/text.mp4/a.mp4"], "cannot write"),
    "json": (["--source", "{video}", "--json", "{}/text.mp4/a.json"], "cannot write"),
    "itself": (["--source", "{video}", "--output", "{video}"], "would overwrite its own source"),
    "nothing": (["--source", "{video}"], "there would be no output"),
    "weights": (["--source", "{video}", "--output", "{}/a.mp4", "--weights", "{}/none.pth"], "no weights file"),
    "key": (["--source", "{video}", "--output", "{}/a.mp4", "MODEL.WIGHT", "a"], "MODEL.WIGHT"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_goes_wrong_at_the_start_is_said(run, video, tmp_path, case):
    (tmp_path / "text.mp4").write_text("no video")
    arguments, message = FAILURES[case]
    status, printed = run(*(argument.format(tmp_path, video=video) for argument in arguments))
    assert status == 1 and message in printed and "Traceback" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]  # and nothing else is left


def test_without_a_screen(run, video, tmp_path, monkeypatch):
    monkeypatch.setattr(webcam, "why_no_window", lambda: "this OpenCV cannot open windows. Use --no-display")
    status, printed = run("--source", video, no_display=False)
    assert status == 1 and "cannot open windows. Use --no-display" in printed
    status, printed = run("--source", video, "--output", tmp_path / "a.avi", no_display=False)
    assert status == 0 and "No window is opened: this OpenCV cannot open windows." in printed


def test_with_a_screen(run, video, monkeypatch):
    monkeypatch.setattr(webcam, "why_no_window", lambda: "")
    screen = FakeScreen(monkeypatch, [-1, ord("q")])
    status, printed = run("--source", video, no_display=False)
    assert status == 0 and len(screen.shown) == 2 and screen.destroyed
    assert "stopped by window" in printed
    assert screen.shown[0].shape == (192, 256, 3)


def test_images_on_a_screen_wait_for_a_key_each(run, people, tmp_path, monkeypatch):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), people[number][0])
    monkeypatch.setattr(webcam, "why_no_window", lambda: "")
    screen = FakeScreen(monkeypatch, [-1, -1, ord(" "), -1, ord(" "), ord(" ")])
    status, printed = run("--source", tmp_path, no_display=False)
    assert status == 0 and len(screen.shown) == 3 and screen.keys == [] and "3 frames" in printed


def test_arguments(capsys):
    base = ["--config-file", "a.yml"]
    args = webcam.parse_arguments([*base, "--source", "a.png", "b.png", "MODEL.DEVICE", "cpu"])
    assert args.source == ["a.png", "b.png"] and args.opts == ["MODEL.DEVICE", "cpu"]
    args = webcam.parse_arguments([*base, "MODEL.DEVICE", "cpu"])
    assert args.source == ["0"] and args.opts == ["MODEL.DEVICE", "cpu"]
    assert (args.confidence_threshold, args.min_image_size, args.masks_per_dim) == (0.7, None, 2)
    with pytest.raises(SystemExit):
        webcam.parse_arguments([*base, "MODEL.DEVICE", "cpu", "--no-display"])
    assert "--no-display: flags go before the first KEY VALUE pair" in capsys.readouterr().err
    for flag, value, message in (
        ("--confidence-threshold", "1.5", "'1.5' is not a number from 0 to 1"),
        ("--confidence-threshold", "high", "'high' is not a number from 0 to 1"),
        ("--min-image-size", "0", "'0' is not a whole number from 1"),
        ("--masks-per-dim", "2.5", "'2.5' is not a whole number from 1"),
        ("--fps", "0", "'0' is not a number above 0"),
        ("--timeout", "nan", "'nan' is not a number above 0"),
    ):
        with pytest.raises(SystemExit):
            webcam.parse_arguments([*base, flag, value])
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_a_playable_file(model_files, video, tmp_path, number, status):
    """In a process of its own, on a video that would take minutes."""
    long = tmp_path / "long.avi"
    frames, _ = read_video(video)
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (256, 192))
    for index in range(3000):
        writer.write(frames[index % 10])
    writer.release()
    config, weights = model_files
    command = [
        sys.executable, "demo/webcam.py", "--config-file", config, "--weights", weights, "--source", long,
        "--output", tmp_path / "out.mp4", "--json", tmp_path / "out.json", "--no-display", *SMALL,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not ((tmp_path / "out.json").exists() and (tmp_path / "out.json").stat().st_size > 10_000):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, printed
    assert f"stopped by {number.name}" in printed
    written = json.loads((tmp_path / "out.json").read_text())["frames"]
    played, fps = read_video(tmp_path / "out.mp4")
    assert fps == 20.0 and 3 < len(played) == len(written) < 3000


@pytest.mark.slow
def test_help_of_the_script():
    shown = subprocess.run(
        [sys.executable, "demo/webcam.py", "--help"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for flag in ("--config-file", "--confidence-threshold", "--min-image-size", "--show-mask-heatmaps", "--source"):
        assert flag in shown


def test_the_sinks_are_closed_when_the_model_cannot_be_loaded(run, video, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(sinks.VideoSink, "close", lambda self: closed.append(self))
    monkeypatch.setattr(sources.VideoSource, "close", lambda self: closed.append(self))
    status, _ = run("--source", video, "--output", tmp_path / "a.mp4", "--weights", tmp_path / "none.pth")
    assert status == 1 and len(closed) == 2

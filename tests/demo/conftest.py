"""demo/ on the path, as Python puts it there for a script; a model that was never trained; a video of drawn people."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn_benchmark.data.synthetic_people import SceneSettings, render_scene
from tests.small_model import write_small_model

DEMO = Path(__file__).resolve().parents[2] / "demo"
if str(DEMO) not in sys.path:
    sys.path.insert(0, str(DEMO))

SIZE = (256, 192)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """Paths of a config and of weights."""
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def people():
    """Images (192, 256, 3) BGR of people, and for each the annotations of a COCO file."""
    rng = np.random.default_rng(3)
    scenes = [render_scene(SceneSettings(width=SIZE[0], height=SIZE[1], max_people=2), rng) for _ in range(4)]
    return [(np.ascontiguousarray(image[..., ::-1]), annotations) for image, annotations in scenes]


@pytest.fixture(scope="session")
def video(people, tmp_path_factory):
    """Ten frames: each scene for some of them."""
    path = tmp_path_factory.mktemp("video") / "people.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, SIZE)
    for number in range(10):
        writer.write(people[number // 3][0])
    writer.release()
    return path

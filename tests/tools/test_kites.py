"""A skeleton of five points, as a new user brings it: one JSON per split and no edit of the package (KEYPOINTS.md)."""

import json

import cv2
import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data.build import build_dataset
from maskrcnn_benchmark.engine.predictor import Predictor
from maskrcnn_benchmark.structures.fields import KEYPOINTS
from tests.data.kites import KITE, write_kites
from tests.tools.runs import CONFIG, TINY, load_tool

NAMES = KITE["keypoints"]
LIMBS = tuple((start - 1, end - 1) for start, end in KITE["skeleton"])


@pytest.fixture()
def options(tmp_path, monkeypatch):
    """KEY, VALUE, ... of a run on kites that are registered."""
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    folder = write_kites(tmp_path / "kites", train=6, val=3)
    for split in ("train", "val"):
        DatasetCatalog.register(f"kites_{split}", folder / f"{split}.json", folder / split)
    data = ["DATASETS.TRAIN", "('kites_train',)", "DATASETS.TEST", "('kites_val',)"]
    return [*TINY, *data, "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", "5", "OUTPUT_DIR", str(tmp_path / "out")]


def side_of(points, name):
    """Above 0 on one side of the kite's axis from nose to tail, below 0 on the other."""
    nose, tail, point = (points[NAMES.index(each), :2] for each in ("nose", "tail", name))
    along, to_point = tail - nose, point - nose
    return along[0] * to_point[1] - along[1] * to_point[0]


def test_a_flip_swaps_port_and_starboard(options):
    cfg = load_config(CONFIG, [*options, "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "1.0"])
    (mirrored,) = build_dataset(cfg, ["kites_train"], is_train=True)
    cfg = load_config(CONFIG, [*options, "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "0.0"])
    (straight,) = build_dataset(cfg, ["kites_train"], is_train=True)
    for index in range(len(straight)):
        one, other = (data[index][1].get_field(KEYPOINTS) for data in (straight, mirrored))
        width = one.size[0] - cfg.MODEL.BOX_OFFSET
        for before, after in zip(one.keypoints.double().numpy(), other.keypoints.double().numpy(), strict=True):
            for name, source in zip(NAMES, ["nose", "starboard", "tail", "port", "knot"], strict=True):
                x, y, visibility = before[NAMES.index(source)]
                np.testing.assert_allclose(after[NAMES.index(name)], [width - x, y, visibility], atol=1e-3)
            # a mirrored kite that is not renamed would have port to starboard
            assert side_of(before, "port") > 0 > side_of(before, "starboard")
            assert side_of(after, "port") > 0 > side_of(after, "starboard")


@pytest.mark.slow
def test_trained_tested_and_drawn(options, tmp_path, capsys):
    assert load_tool("train_net").main(["--config-file", str(CONFIG), *options]) == 0
    output = tmp_path / "out"
    results = output / "inference" / "kites_val"
    found = json.loads((results / "keypoints.json").read_text())
    assert found and all(len(entry["keypoints"]) == 15 for entry in found)
    assert "sigma" not in (results / "results.txt").read_text(), "the file has sigmas"
    assert len(list((results / "pictures").glob("*.png"))) == 2
    spec = torch.load(output / "model_final.pth", weights_only=True)["keypoint_spec"]
    assert spec["names"] == NAMES and spec["flip_pairs"] == [[1, 3]] and spec["sigmas"] == KITE["sigmas"]

    # the demo's way, without any annotation file: everything comes from the checkpoint
    for split in ("train", "val"):
        (tmp_path / "kites" / f"{split}.json").unlink()
    predictor = Predictor.from_config_file(output / "config.yml", ["MODEL.ROI_HEADS.SCORE_THRESH", 0.0])
    image = cv2.imread(str(tmp_path / "kites" / "val" / "1.png"))
    keypoints = predictor(image, "BGR").get_field(KEYPOINTS)
    assert keypoints.spec.names == tuple(NAMES) and keypoints.spec.skeleton == LIMBS
    assert keypoints.spec.flip_inds == (0, 3, 2, 1, 4) and keypoints.spec.colors[1] == (230, 40, 40)
    capsys.readouterr()
    assert load_tool("inspect_weights").main([str(output / "model_final.pth")]) == 0
    assert "keypoints   5 keypoints (nose, port, tail, starboard, knot)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_of_other_keypoints_is_refused(options, tmp_path, capsys):
    assert load_tool("train_net").main(["--config-file", str(CONFIG), *options, "SOLVER.MAX_ITER", "1"]) == 0
    file = tmp_path / "kites" / "val.json"
    content = json.loads(file.read_text())
    content["categories"] = [{**KITE, "keypoints": NAMES[::-1]}]
    file.write_text(json.dumps(content))
    capsys.readouterr()
    assert load_tool("test_net").main(["--config-file", str(CONFIG), *options]) == 1
    printed = "".join(capsys.readouterr())
    assert (
        "the weights were trained on 5 keypoints (nose, " in printed and "kites_val has 5 keypoints (knot, " in printed
    )

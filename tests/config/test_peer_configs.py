"""The configs of torchvision's and Detectron2's models: each builds, and has the conventions of its project."""

from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.layers.boxes import HALF_OPEN
from maskrcnn_benchmark.modeling.detector.check import find_config_problems
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for folder in ("torchvision", "detectron2") for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_builds(path):
    cfg = load_config(path)
    assert find_config_problems(cfg) == []
    assert cfg.MODEL.BOX_OFFSET == HALF_OPEN and cfg.MODEL.RPN.ANCHOR_OFFSET == 0
    assert cfg.MODEL.RPN.STRADDLE_THRESH == -1 and not cfg.MODEL.RPN.FPN_POST_NMS_PER_BATCH
    assert cfg.MODEL.MASK_ON is path.stem.startswith("mask")
    assert cfg.MODEL.KEYPOINT_ON is path.stem.startswith("keypoint")
    assert cfg.MODEL.RESNETS.NORM_EPS == 1e-5
    assert ("R_101" in path.stem) is cfg.MODEL.BACKBONE.CONV_BODY.startswith("R-101")
    if path.parent.name == "detectron2":
        assert (90000 if path.stem.endswith("1x") else 270000) == cfg.SOLVER.MAX_ITER
        assert cfg.MODEL.ROI_BOX_HEAD.POOLER_ALIGNED and cfg.MODEL.RPN.RANK_BY == "logits"


def test_detectron2_anchors_are_exact_and_centred_on_the_corner_of_the_cell():
    cfg = load_config(CONFIGS / "detectron2" / "faster_rcnn_R_50_FPN_1x.yaml")
    cells = list(AnchorGenerator.from_cfg(cfg).cell_anchors)
    for size, anchors in zip((32, 64, 128, 256, 512), cells, strict=True):
        root = 2**0.5
        sides = torch.tensor([[size * root, size / root], [size, size], [size / root, size * root]])
        torch.testing.assert_close(anchors, torch.cat([-sides / 2, sides / 2], dim=1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RPN.ANCHOR_ROUNDING", "up", "expected one of '', 'none', 'base', 'corners'"),
        ("MODEL.RPN.RANK_BY", "score", "expected one of 'logits', 'probabilities'"),
        ("MODEL.RPN.LOSS_NORMALIZER", "mean", "expected one of 'sampled', 'batch_size'"),
        ("MODEL.RPN.SMOOTH_L1_BETA", -1.0, "expected at least 0"),
        ("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", -1.0, "expected at least 0"),
        ("MODEL.ROI_HEADS.MIN_SIZE", -1.0, "expected at least 0"),
        ("MODEL.RESNETS.NORM_EPS", -0.5, "expected 0 or more, or -1"),
    ],
)
def test_a_wrong_value_is_reported(key, value, message):
    cfg = load_config(CONFIGS / "torchvision" / "fasterrcnn_resnet50_fpn.yaml", [key, value])
    (problem,) = find_config_problems(cfg)
    assert key in problem and message in problem


@pytest.mark.parametrize(
    ("key", "config", "message"),
    [
        ("MODEL.ROI_MASK_HEAD.PASTE", "maskrcnn", "expected one of 'box', 'pixels'"),
        ("MODEL.ROI_KEYPOINT_HEAD.LOSS_NORMALIZER", "keypointrcnn", "expected one of 'visible', 'batch_size'"),
    ],
)
def test_a_wrong_value_of_a_head_is_reported(key, config, message):
    cfg = load_config(CONFIGS / "torchvision" / f"{config}_resnet50_fpn.yaml", [key, "x"])
    problems = find_config_problems(cfg)
    assert problems and all(key in problem and message in problem for problem in problems)

"""The command that says what a weights file holds."""

import pytest
import torch
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import Conventions, describe_config, recognise
from tests.modeling.state_dict_names.models import CONFIGS
from tools.inspect_weights import main


def test_a_file_of_torchvision(tmp_path, capsys):
    torch.save(keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "kp.pth")
    assert main([str(tmp_path / "kp.pth")]) == 0
    printed = capsys.readouterr().out
    assert "family      torchvision\n" in printed
    assert "classes     2, with the background" in printed
    assert "configs/" in printed
    for line in ("MODEL.BACKBONE.CONV_BODY 'R-50-FPN'", "MODEL.KEYPOINT_ON True", "MODEL.RESNETS.STRIDE_IN_1X1 False"):
        assert line in printed
    assert "rpn.head.conv.0.0.bias" in printed and "256 -> rpn.head.conv.bias" in printed


def test_a_checkpoint_of_this_package(tmp_path, capsys):
    cfg = load_config(CONFIGS / "quick" / "hrnet_refine_people.yaml", ["MODEL.WEIGHT", "", "OUTPUT_DIR", ""])
    content = {"model": build_detection_model(cfg).state_dict(), "iteration": 3, "categories": {1: "person"}}
    torch.save(content, tmp_path / "model.pth")
    assert main([str(tmp_path / "model.pth"), "--summary"]) == 0
    printed = capsys.readouterr().out
    assert "family      maskrcnn_benchmark" in printed and "also holds  iteration, categories" in printed
    assert "with the background: person" in printed
    assert "MODEL.REFINE_ON True" in printed and "HRNET-HR" in printed
    assert "backbone.body.conv1.weight" not in printed


def test_unknown_names(tmp_path, capsys):
    torch.save({"a.b": torch.ones(2, 3)}, tmp_path / "x.pth")
    assert main([str(tmp_path / "x.pth")]) == 0
    printed = capsys.readouterr().out
    assert "family      unknown; known are maskrcnn_benchmark, " in printed
    assert "config      not known from the names" in printed and "a.b  2x3" in printed


def test_a_missing_file_is_a_message(tmp_path, caplog, capsys):
    assert main([str(tmp_path / "no.pth")]) == 1
    assert "there is no weights file" in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("e2e_mask_rcnn_R_101_FPN_1x.yaml", ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5]),
        ("e2e_faster_rcnn_R_50_C4_1x.yaml", []),
        ("e2e_mask_rcnn_X_101_32x8d_FPN_1x.yaml", ["MODEL.RESNETS.STAGE_WITH_DCN", (False, False, True, True)]),
        ("retinanet/retinanet_R-50-FPN_1x.yaml", []),
    ],
)
def test_the_described_config_builds_the_same_model(config, opts):
    cfg = load_config(CONFIGS / config, ["MODEL.WEIGHT", "", *opts])
    with torch.device("meta"):
        state = build_detection_model(cfg).state_dict()
    keys = describe_config(recognise(state).convert(state, Conventions()))
    words = [word for pair in keys.items() for word in pair]
    with torch.device("meta"):
        again = build_detection_model(load_config(CONFIGS / config, ["MODEL.WEIGHT", "", *words])).state_dict()
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in state.items()}
    assert keys["MODEL.BACKBONE.CONV_BODY"] == cfg.MODEL.BACKBONE.CONV_BODY

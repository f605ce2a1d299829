"""The command that writes weights in other formats."""

import pickle

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import load_state_dict
from maskrcnn_benchmark.utils.checkpoint import Checkpointer
from maskrcnn_benchmark.utils.safetensors_file import read_safetensors
from tests.modeling.state_dict_names.models import CONFIGS, deterministic, same_weights
from tools.convert_weights import main

FASTER = CONFIGS / "e2e_faster_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture(scope="module")
def torchvision_state():
    return deterministic(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), 9)


def read(path):
    return torch.load(path, weights_only=True)


def test_torchvision_to_us_and_back_is_exact(tmp_path, torchvision_state, capsys):
    torch.save(torchvision_state, tmp_path / "theirs.pth")
    assert main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")]) == 0
    assert "theirs.pth: weights of torchvision" in capsys.readouterr().out
    assert "rpn.head.conv.weight" in read(tmp_path / "ours.pth")["model"]
    assert main([str(tmp_path / "ours.pth"), str(tmp_path / "back.pth"), "--to", "torchvision"]) == 0
    same_weights(read(tmp_path / "back.pth"), torchvision_state)


def test_safetensors_have_the_same_weights(tmp_path, torchvision_state):
    torch.save(torchvision_state, tmp_path / "theirs.pth")
    assert main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]) == 0
    assert "rpn.head.conv.weight" in read_safetensors(tmp_path / "ours.safetensors")
    assert main([str(tmp_path / "ours.safetensors"), str(tmp_path / "back.safetensors"), "--to", "torchvision"]) == 0
    same_weights(read_safetensors(tmp_path / "back.safetensors"), torchvision_state)


def test_the_written_file_gives_the_same_model_as_the_original(tmp_path, torchvision_state):
    torch.save(torchvision_state, tmp_path / "theirs.pth")
    main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")])
    cfg = load_config(FASTER, ["MODEL.WEIGHT", "", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 91])
    models = [build_detection_model(cfg) for _ in range(2)]
    for model, state in zip(models, (torchvision_state, read(tmp_path / "ours.pth")["model"]), strict=True):
        assert load_state_dict(model, state).complete
    same_weights(models[1].state_dict(), models[0].state_dict())


def test_a_model_trained_here_goes_to_torchvision_with_its_config(tmp_path):
    """BGR of 0 to 255 and an epsilon of 0, as config.yml says, become RGB, a deviation and 1e-5."""
    cfg = load_config(FASTER, ["MODEL.WEIGHT", "", "MODEL.RESNETS.STRIDE_IN_1X1", False])
    (tmp_path / "config.yml").write_text(cfg.dump())
    model = build_detection_model(cfg)
    Checkpointer(model, save_dir=tmp_path).save("model_final")
    assert main([str(tmp_path / "model_final.pth"), str(tmp_path / "tv.pth"), "--to", "torchvision"]) == 0
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)
    theirs.load_state_dict(read(tmp_path / "tv.pth"))  # strict: all names and shapes are torchvision's
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    expected = model.backbone.body.stem.conv1.weight.flip(1) * 255 * std
    torch.testing.assert_close(theirs.backbone.body.conv1.weight, expected)
    variance = theirs.backbone.body.bn1.running_var
    torch.testing.assert_close(variance + 1e-5, model.backbone.body.stem.bn1.running_var)


def test_a_model_with_torchvisions_conventions_goes_back_without_a_difference(tmp_path, torchvision_state):
    cfg = load_config(CONFIGS / "torchvision" / "fasterrcnn_resnet50_fpn.yaml", ["MODEL.WEIGHT", ""])
    (tmp_path / "config.yml").write_text(cfg.dump())
    model = build_detection_model(cfg)
    report = load_state_dict(model, torchvision_state, cfg)
    assert report.complete and not report.notes  # the conventions are equal, so nothing is converted
    Checkpointer(model, save_dir=tmp_path).save("model_final")
    assert main([str(tmp_path / "model_final.pth"), str(tmp_path / "back.pth"), "--to", "torchvision"]) == 0
    counters = {name for name in torchvision_state if name.endswith("num_batches_tracked")}  # frozen norms have none
    expected = {name: value for name, value in torchvision_state.items() if name not in counters}
    same_weights(read(tmp_path / "back.pth"), expected)


def test_detectron2_reads_a_pickle_of_arrays(tmp_path, torchvision_state):
    torch.save(torchvision_state, tmp_path / "theirs.pth")
    assert main([str(tmp_path / "theirs.pth"), str(tmp_path / "d2.pkl"), "--to", "detectron2"]) == 0
    content = pickle.loads((tmp_path / "d2.pkl").read_bytes())
    scores = content["model"]["roi_heads.box_predictor.cls_score.bias"]
    expected = torchvision_state["roi_heads.box_predictor.cls_score.bias"]
    assert torch.equal(torch.from_numpy(scores), expected.roll(-1))
    assert main([str(tmp_path / "d2.pkl"), str(tmp_path / "back.pth"), "--to", "torchvision"]) == 0
    back = read(tmp_path / "back.pth")
    assert torch.equal(back["roi_heads.box_predictor.cls_score.bias"], expected)
    assert back["roi_heads.box_predictor.bbox_pred.weight"][:4].eq(0).all()  # the background's, which Detectron2 lacks


def test_the_names_of_the_classes_stay(tmp_path):
    model = build_detection_model(load_config(FASTER, ["MODEL.WEIGHT", ""]))
    torch.save({"model": model.state_dict(), "categories": {1: "cat"}, "optimizer": {}}, tmp_path / "ours.pth")
    assert main([str(tmp_path / "ours.pth"), str(tmp_path / "copy.pth")]) == 0
    copy = read(tmp_path / "copy.pth")
    assert copy["categories"] == {1: "cat"} and "optimizer" not in copy
    same_weights(copy["model"], model.state_dict())


@pytest.mark.parametrize(
    ("state", "to", "output", "message"),
    [
        ({"a.b": torch.ones(1)}, "detectron2", "x.pth", "its names belong to no known family"),
        (
            {"backbone.neck.fpn_conv.0.weight": torch.ones(1)},
            "torchvision",
            "x.pth",
            "have no tensor for backbone.neck",
        ),
        ({"backbone.neck.fpn_conv.0.weight": torch.ones(1)}, "torchvision", "x.pkl", "are written as .pth"),
    ],
)
def test_errors_are_messages(tmp_path, caplog, capsys, state, to, output, message):
    torch.save(state, tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / output), "--to", to]) == 1
    assert message in caplog.text + capsys.readouterr().out
    assert not (tmp_path / output).exists()

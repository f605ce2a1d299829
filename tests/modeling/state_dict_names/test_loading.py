"""What is said of files that do not fit: other norms, unknown names, prefixes of wrappers."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import (
    WEIGHT_FAMILIES,
    Converted,
    WeightFamily,
    load_state_dict,
    recognise,
    rename_c2_blobs,
    tensors_of,
)
from maskrcnn_benchmark.utils.checkpoint import CheckpointError
from tests.modeling.state_dict_names.models import CONFIGS, deterministic

FPN = CONFIGS / "e2e_faster_rcnn_R_50_FPN_1x.yaml"
HRNET = CONFIGS / "quick" / "hrnet_refine_people.yaml"
NO_WEIGHT = ["MODEL.WEIGHT", ""]


def hrnet_cfg(norm):
    return load_config(HRNET, [*NO_WEIGHT, "MODEL.HRNET.NORM", norm, "OUTPUT_DIR", ""])


def body_state(norm="BN"):
    """An ImageNet file of HRNet: the body without a prefix, and a classifier."""
    body = build_detection_model(hrnet_cfg(norm)).backbone.body
    return deterministic({**body.state_dict(), "classifier.weight": torch.empty(1000, 8)}, 4)


def caffe2_body(norm="bn"):
    arrays = {
        "conv1_w": np.ones((64, 3, 7, 7), "f4"),
        "res_conv1_bn_s": np.ones(64, "f4"),
        "res_conv1_bn_b": np.ones(64, "f4"),
    }
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=2):
        width = 64 * 2 ** (stage - 2)
        for block in range(blocks):
            kernels = {
                "branch2a": (width, inputs, 1, 1),
                "branch2b": (width, width, 3, 3),
                "branch2c": (4 * width, width, 1, 1),
            }
            if block == 0:
                kernels["branch1"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
            for branch, shape in kernels.items():
                stem = f"res{stage}_{block}_{branch}"
                arrays[f"{stem}_w"] = np.full(shape, stage, "f4")
                arrays |= {f"{stem}_{norm}_{entry}": np.ones(shape[0], "f4") for entry in "sb"}
    return tensors_of(arrays)


# ---- deformable convolution ----


def test_an_imagenet_body_fills_the_kernels_of_deformable_convolutions():
    cfg = load_config(FPN, [*NO_WEIGHT, "MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)])
    model = build_detection_model(cfg)
    report = load_state_dict(model, caffe2_body(), cfg)
    assert report.family == "Detectron (Caffe2)"
    kernels = [name for name in report.loaded if name.endswith(".conv2.conv.weight")]
    assert len(kernels) == 4 + 6 + 3
    assert model.backbone.body.layer3[2].conv2.conv.weight.eq(4).all()
    assert not any(name.startswith("backbone.body.") and ".offset." not in name for name in report.missing)


# ---- norms ----


def test_batch_norms_into_group_norms_are_said(caplog):
    cfg = hrnet_cfg("GN")
    report = load_state_dict(build_detection_model(cfg), body_state(), cfg)
    assert report.family == "HRNet (official or timm)"
    assert "backbone.body.bn1" in report.statistics_unused
    (warning,) = report.warnings
    assert "weights of batch norms were loaded into" in warning and "Set MODEL.HRNET.NORM" in warning
    with caplog.at_level(logging.WARNING):
        report.log(logging.getLogger("test"), "hrnet.pth")
    assert warning in caplog.text


def test_group_norms_into_batch_norms_are_said():
    cfg = hrnet_cfg("BN")
    report = load_state_dict(build_detection_model(cfg), body_state("GN"), cfg)
    assert "backbone.body.bn1" in report.statistics_missing
    assert any("set MODEL.HRNET.NORM (or MODEL.RESNETS.NORM) to GN" in warning for warning in report.warnings)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_equal_norms_give_no_warning(norm):
    cfg = hrnet_cfg(norm)
    state = body_state()
    model = build_detection_model(cfg)
    report = load_state_dict(model, state, cfg)
    assert not report.warnings and report.unused == ["classifier.weight"]
    assert torch.equal(model.backbone.body.bn1.running_var, state["bn1.running_var"])  # 1e-5 in both


# ---- prefixes ----


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model.", "_orig_mod.", "state_dict."])
def test_prefixes_of_wrappers(prefix):
    state = {f"{prefix}{name}": value for name, value in body_state().items()}
    if "model." in prefix:  # the official segmentation files
        state["loss.criterion.weight"] = torch.ones(19)
    cfg = hrnet_cfg("BN")
    report = load_state_dict(build_detection_model(cfg), state, cfg)
    assert report.family == "HRNet (official or timm)"
    assert not any(name.startswith("backbone.body.") for name in report.missing)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state": state},
        lambda state: {"model_ema": {"state_dict": state}},
        lambda state: {"epoch": 1, "state_dict_ema": {f"model.{name}": value for name, value in state.items()}},
    ],
)
def test_files_of_training_scripts(tmp_path, wrap):
    state = body_state()
    torch.save(wrap(state), tmp_path / "hrnet.pth")
    cfg = hrnet_cfg("BN")
    model = build_detection_model(cfg)
    DetectronCheckpointer(cfg, model).load(tmp_path / "hrnet.pth")
    assert torch.equal(model.backbone.body.conv1.weight, state["conv1.weight"])


# ---- unknown names ----


def unknown_state(share_of_body=0.0):
    model = build_detection_model(load_config(FPN, NO_WEIGHT))
    state = {name: value for name, value in model.state_dict().items() if ".anchor_generator." not in name}
    body = [name for name in state if name.startswith("backbone.body.")]
    kept = set(body[: int(len(body) * share_of_body)])
    return {
        name.removeprefix("backbone.body.stem.") if name in kept else f"their.{name}": value
        for name, value in state.items()
    }


def test_a_file_of_unknown_names_is_refused_with_names(tmp_path):
    torch.save({**unknown_state(), "rpn.head.conv.bias": torch.ones(256)}, tmp_path / "other.pth")
    cfg = load_config(FPN, NO_WEIGHT)
    with pytest.raises(
        CheckpointError, match=r"other.pth is refused: its names belong to no known family .*their\.back"
    ):
        DetectronCheckpointer(cfg, build_detection_model(cfg)).load(tmp_path / "other.pth")


def test_the_refusal_can_be_turned_off(tmp_path, caplog):
    torch.save({**unknown_state(), "rpn.head.conv.bias": torch.full((256,), 5.0)}, tmp_path / "other.pth")
    cfg = load_config(FPN, [*NO_WEIGHT, "MODEL.WEIGHT_LEAST_SHARE", 0.0])
    model = build_detection_model(cfg)
    with caplog.at_level(logging.INFO):
        DetectronCheckpointer(cfg, model).load(tmp_path / "other.pth")
    assert model.rpn.head.conv.bias.eq(5).all()
    assert "other.pth: weights of no known family" in caplog.text
    assert "it fits only in part" in caplog.text and "their.backbone.body.stem.conv1.weight" in caplog.text


def test_a_body_of_unknown_names_that_fits_is_loaded(tmp_path):
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4)

    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": Body()}), "heads": nn.Linear(100, 100)})
    torch.save({**Body().state_dict(), "fc.weight": torch.ones(2, 8)}, tmp_path / "body.pth")
    DetectronCheckpointer(load_config(), model).load(tmp_path / "body.pth")


def test_a_family_of_the_users_own():
    class Mine(WeightFamily):
        name = "mine"

        def recognise(self, state):
            return float(any(name.startswith("their.") for name in state))

        def convert(self, state, model):
            converted = Converted()
            for name, tensor in state.items():
                converted.add(name.removeprefix("their."), name, tensor)
            return converted

    WEIGHT_FAMILIES.register("mine", Mine)
    try:
        cfg = load_config(FPN, NO_WEIGHT)
        report = load_state_dict(build_detection_model(cfg), unknown_state(), cfg)
        assert report.family == "mine" and report.complete
        assert report.renamed["rpn.head.conv.bias"] == "their.rpn.head.conv.bias"
    finally:
        del WEIGHT_FAMILIES["mine"]


def test_a_known_file_of_another_architecture_is_said():
    state = {
        "proposal_generator.rpn_head.conv.weight": torch.ones(256, 256, 3, 3),
        "sem_seg_head.p2.weight": torch.ones(2),
    }
    cfg = load_config(FPN, NO_WEIGHT)
    report = load_state_dict(build_detection_model(cfg), state, cfg)
    assert any("Detectron2 has no name like sem_seg_head.p2.weight" in warning for warning in report.warnings)


# ---- Caffe2 ----


def test_caffe2_says_its_stride_and_its_pixels():
    cfg = load_config(FPN, [*NO_WEIGHT, "MODEL.RESNETS.STRIDE_IN_1X1", False, "INPUT.FORMAT", "RGB255"])
    model = build_detection_model(cfg)
    state = caffe2_body()
    state["conv1_w"] = torch.arange(3.0)[None, :, None, None].expand(64, 3, 7, 7).clone()
    report = load_state_dict(model, state, cfg)
    assert any("set STRIDE_IN_1X1 to True" in warning for warning in report.warnings)
    assert model.backbone.body.stem.conv1.weight[0, :, 0, 0].tolist() == [2, 1, 0]


def test_caffe2_group_norm_heads_and_retinanet():
    names = ["head_conv2_w", "head_conv2_gn_s", "retnet_cls_conv_n1_fpn3_w", "fpn_6_w"]
    renamed = rename_c2_blobs({name: np.ones(2, "f4") for name in names})
    assert list(renamed) == [
        "roi_heads.box.feature_extractor.xconvs.3.weight",
        "roi_heads.box.feature_extractor.xconvs.4.weight",
        "rpn.head.cls_tower.2.weight",
        "backbone.fpn.top_blocks.p6.weight",
    ]
    blobs = {"retnet_cls_conv_n0_fpn3_w": np.ones(2, "f4"), "retnet_bbox_pred_fpn3_b": np.arange(36, dtype="f4")}
    deltas = rename_c2_blobs(blobs)["rpn.head.bbox_pred.bias"].view(3, 3, 4)  # ratio, size
    torch.testing.assert_close(deltas.transpose(0, 1).flatten(), torch.arange(36.0))


def test_caffe2_is_not_taken_for_another_family():
    assert recognise(caffe2_body()).name == "Detectron (Caffe2)"
    assert recognise(caffe2_body("gn")).name == "Detectron (Caffe2)"
    assert recognise({}) is None

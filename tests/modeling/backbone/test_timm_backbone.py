"""Models of timm as bodies of a feature pyramid."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import ConfigError, get_cfg, load_config
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.detector import build_detection_model, find_config_problems
from tests.modeling.tiny import tiny_batch

timm = pytest.importorskip("timm")

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs" / "timm").glob("*.yaml"))


def timm_cfg(name, *opts):
    cfg = get_cfg()
    common = ["MODEL.BACKBONE.CONV_BODY", "timm-FPN", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 12]
    cfg.merge_from_list([*common, "MODEL.TIMM.NAME", name, *opts])
    return cfg


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_channels_and_strides_come_from_the_model(name):
    backbone = build_backbone(timm_cfg(name))
    assert backbone.out_channels == 12 and backbone.strides == (4, 8, 16, 32, 64)
    with torch.no_grad():
        outputs = backbone.eval()(torch.randn(1, 3, 97, 131))
    assert len(outputs) == 5 and all(output.shape[:2] == (1, 12) for output in outputs)
    heights = [output.shape[2] for output in outputs]
    assert all(
        97 // stride <= height <= -(-97 // stride) for height, stride in zip(heights, (4, 8, 16, 32), strict=False)
    )


def test_other_maps_of_the_model():
    backbone = build_backbone(timm_cfg("resnet18", "MODEL.TIMM.OUT_INDICES", (2, 3)))
    assert backbone.strides == (8, 16, 32)


def test_frozen_parts_and_norms():
    backbone = build_backbone(timm_cfg("resnet18", "MODEL.TIMM.FROZEN", ("conv1", "bn1", "layer1")))
    assert not any(
        p.requires_grad for part in ("conv1", "layer1") for p in backbone.body.get_submodule(part).parameters()
    )
    assert all(p.requires_grad for p in backbone.body.layer2.parameters())
    assert isinstance(backbone.body.layer2[0].bn1, nn.BatchNorm2d)
    assert not isinstance(backbone.body.layer1[0].bn1, nn.BatchNorm2d)
    with pytest.raises(ConfigError, match="FROZEN names stem, but the parts of resnet18 are: conv1, bn1, "):
        build_backbone(timm_cfg("resnet18", "MODEL.TIMM.FROZEN", ("conv1", "stem")))
    frozen = build_backbone(timm_cfg("resnet18", "MODEL.TIMM.FREEZE_NORMS", True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert all(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_train_and_detect(path):
    small = ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.TIMM.FROZEN", (), "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3]
    cfg = load_config(path, [*small, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16], checks=[find_config_problems])
    assert not cfg.MODEL.TIMM.PRETRAINED
    model = build_detection_model(cfg)
    images, targets = tiny_batch()
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.backbone.parameters())
    assert len(model.eval()(images)) == 2


def test_checking_a_config_downloads_nothing(monkeypatch):
    asked = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: asked.append(k["pretrained"]) or create(*a, **k))
    cfg = load_config(CONFIGS[0], ["MODEL.TIMM.PRETRAINED", True, "MODEL.TIMM.NAME", "resnet18"])
    assert find_config_problems(cfg) == [] and asked == [False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"MODEL.TIMM.NAME is 'resnet19', which timm does not have"),
        ("vit_tiny_patch16_224", r"has maps of strides \[16, 16, 16, 16\]; a pyramid needs 4, 8, 16"),
        ("swin_tiny_patch4_window7_224", r"has maps \(N, H, W, C\); choose a model with \(N, C, H, W\)"),
    ],
)
def test_models_that_do_not_fit_are_explained(name, message):
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        build_backbone(timm_cfg(name))


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        build_backbone(timm_cfg("resnet18"))

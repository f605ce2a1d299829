"""The backbone and the norm in docs/EXTENDING.md train as they stand there."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.layers.norm import NORMS
from maskrcnn_benchmark.modeling.detector import build_detection_model, find_config_problems
from maskrcnn_benchmark.modeling.registry import BACKBONES
from tests.docs.test_extending import ROOT, code
from tests.modeling.tiny import tiny_batch


@pytest.fixture
def registries():
    """Both registries as they were before the test."""
    before = dict(BACKBONES), dict(NORMS)
    yield
    for registry, entries in zip((BACKBONES, NORMS), before, strict=True):
        registry.clear()
        registry.update(entries)


def test_a_backbone_and_a_norm_of_your_own(tmp_path, monkeypatch, registries):
    pytest.importorskip("timm")
    (tmp_path / "regnet.py").write_text(code("regnet.py"))
    monkeypatch.syspath_prepend(tmp_path)
    options = [
        *("IMPORTS", "('regnet',)", "MODEL.BACKBONE.CONV_BODY", "RegNet-FPN", "MODEL.FPN.NORM", "IN"),
        *("MODEL.RPN.ANCHOR_STRIDE", (), "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (), "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3),
        *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16),
    ]
    cfg = load_config(ROOT / "configs" / "e2e_faster_rcnn_R_50_FPN_1x.yaml", options, checks=[find_config_problems])
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    assert model.backbone.strides == (4, 8, 16, 32, 64)
    assert any(isinstance(module, nn.InstanceNorm2d) for module in model.backbone.fpn.modules())
    losses = model(*tiny_batch())
    assert all(loss.isfinite() for loss in losses.values())

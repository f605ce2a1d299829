"""Detectors of mmdetection: order of classes in versions 1 and 2, HRFPN and FPN."""

import pytest
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import load_state_dict
from tests.modeling.state_dict_names.models import CONFIGS, deterministic

NO_WEIGHT = ["MODEL.WEIGHT", ""]
OURS_TO_THEIRS = (
    ("backbone.neck.reduction_conv.0", "neck.reduction_conv.conv"),
    *((f"backbone.neck.fpn_conv.{level}", f"neck.fpn_convs.{level}.conv") for level in range(5)),
    *((f"backbone.fpn.fpn_inner{level}", f"neck.lateral_convs.{level - 1}.conv") for level in range(1, 5)),
    *((f"backbone.fpn.fpn_layer{level}", f"neck.fpn_convs.{level - 1}.conv") for level in range(1, 5)),
    ("backbone.body.stem", "backbone"),
    ("backbone.body", "backbone"),
    ("rpn.head.conv", "rpn_head.rpn_conv"),
    ("rpn.head.cls_logits", "rpn_head.rpn_cls"),
    ("rpn.head.bbox_pred", "rpn_head.rpn_reg"),
    ("roi_heads.box.feature_extractor.fc6", "roi_head.bbox_head.shared_fcs.0"),
    ("roi_heads.box.feature_extractor.fc7", "roi_head.bbox_head.shared_fcs.1"),
    ("roi_heads.box.predictor.cls_score", "roi_head.bbox_head.fc_cls"),
    ("roi_heads.box.predictor.bbox_pred", "roi_head.bbox_head.fc_reg"),
    *(
        (f"roi_heads.mask.feature_extractor.mask_fcn{number}", f"roi_head.mask_head.convs.{number - 1}.conv")
        for number in range(1, 5)
    ),
    ("roi_heads.mask.predictor.conv5_mask", "roi_head.mask_head.upsample"),
    ("roi_heads.mask.predictor.mask_fcn_logits", "roi_head.mask_head.conv_logits"),
)


def their_name(name):
    ours, theirs = next(pair for pair in OURS_TO_THEIRS if name.startswith(f"{pair[0]}."))
    return theirs + name[len(ours) :]


def their_rows(name, value):
    if "cls_score" in name:
        return value.roll(-1, 0)
    if "box.predictor.bbox_pred" in name:
        return value[4:]
    return value[1:] if "mask_fcn_logits" in name else value


@pytest.mark.parametrize("config", ["hrnet/mask_rcnn_hrnet_w18_1x.yaml", "e2e_mask_rcnn_R_50_FPN_1x.yaml"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_parameter_arrives(config, version):
    cfg = load_config(CONFIGS / config, NO_WEIGHT)
    model = build_detection_model(cfg)
    own = {name: value for name, value in model.state_dict().items() if ".anchor_generator." not in name}
    expected = deterministic(own, 6)
    for name in expected:
        if "box.predictor.bbox_pred" in name:
            expected[name][:4] = 0
        if "mask_fcn_logits" in name:
            expected[name][:1] = 0
    if version == 2:
        file = {their_name(name): their_rows(name, value) for name, value in expected.items()}
    else:
        file = {their_name(name).removeprefix("roi_head."): value for name, value in expected.items()}
    report = load_state_dict(model, file)
    assert report.family == "mmdetection"
    assert report.complete and not report.unused and not report.warnings
    loaded = model.state_dict()
    for name, value in expected.items():
        tolerance = 2e-5 if name.endswith("running_var") else 0  # an epsilon of 0 in ResNets here
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=tolerance, msg=name)


def test_timm_names_are_those_of_hrnet():
    timm = pytest.importorskip("timm")
    cfg = load_config(CONFIGS / "hrnet/faster_rcnn_hrnet_w18_1x.yaml", NO_WEIGHT)
    model = build_detection_model(cfg)
    state = deterministic(timm.create_model("hrnet_w18").state_dict(), 2)
    report = load_state_dict(model, state, cfg)
    assert report.family == "HRNet (official or timm)" and not report.warnings
    body = model.backbone.body.state_dict()
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    for name, value in body.items():
        assert torch.equal(value, state[name]), name

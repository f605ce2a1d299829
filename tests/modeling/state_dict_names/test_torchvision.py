"""Detectors and classifiers of torchvision load completely, and go back without a difference."""

import re

import pytest
import torch
from torchvision.models import resnet18, resnet50
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import Conventions, load_state_dict, recognise
from tests.modeling.state_dict_names.models import CONFIGS, deterministic, same_weights

RGB = [
    "MODEL.RESNETS.STRIDE_IN_1X1", False, "INPUT.TO_BGR255", False, "INPUT.PIXEL_MEAN", [0.485, 0.456, 0.406],
    "INPUT.PIXEL_STD", [0.229, 0.224, 0.225], "MODEL.WEIGHT", "",
]  # fmt: skip
DETECTORS = {
    "faster": (fasterrcnn_resnet50_fpn, "e2e_faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", 91]),
    "mask": (maskrcnn_resnet50_fpn, "e2e_mask_rcnn_R_50_FPN_1x.yaml", ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", 91]),
    "keypoint": (keypointrcnn_resnet50_fpn, "e2e_keypoint_rcnn_R_50_FPN_1x.yaml", []),
}
NEW_TO_OURS = (  # an independent mapping: substitutions in the order of the list
    (r"^backbone\.body\.(conv1|bn1)\.", r"backbone.body.stem.\1."),
    (
        r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.",
        lambda match: f"backbone.fpn.fpn_{match[1]}{int(match[2]) + 1}.",
    ),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"^roi_heads\.box_head\.", "roi_heads.box.feature_extractor."),
    (r"^roi_heads\.(box|mask|keypoint)_predictor\.", r"roi_heads.\1.predictor."),
    (
        r"^roi_heads\.mask_head\.(\d)\.0\.",
        lambda match: f"roi_heads.mask.feature_extractor.mask_fcn{int(match[1]) + 1}.",
    ),
    (
        r"^roi_heads\.keypoint_head\.(\d+)\.",
        lambda match: f"roi_heads.keypoint.feature_extractor.conv_fcn{int(match[1]) // 2 + 1}.",
    ),
)
NEW_TO_OLD = (
    (r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}."),
)


def substitute(name, substitutions):
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def torchvision_state(kind, seed=0):
    return deterministic(DETECTORS[kind][0](weights=None, weights_backbone=None).state_dict(), seed)


def our_cfg(kind, *opts):
    _, config, own_opts = DETECTORS[kind]
    return load_config(CONFIGS / config, [*RGB, *own_opts, *opts])


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("age", ["new", "old"])
def test_every_parameter_of_a_detector_arrives(kind, age):
    state = torchvision_state(kind)
    file = state if age == "new" else {substitute(name, NEW_TO_OLD): value for name, value in state.items()}
    cfg = our_cfg(kind)
    model = build_detection_model(cfg)
    report = load_state_dict(model, file, cfg)
    assert report.family == "torchvision"
    assert report.complete and not report.unused and not report.warnings
    own = model.state_dict()
    expected = {substitute(name, NEW_TO_OURS): value for name, value in state.items()}
    for name, value in own.items():
        if ".anchor_generator." in name:
            continue
        if name.endswith("running_var"):  # the file's epsilon is 1e-5, the model's is 0
            torch.testing.assert_close(value, expected[name] + 1e-5, rtol=1e-6, atol=0)
        else:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("kind", DETECTORS)
def test_names_go_back_to_torchvisions(kind):
    state = torchvision_state(kind)
    family = recognise(state)
    converted = family.convert(state, Conventions())
    assert not converted.unknown
    same_weights(family.export(converted.weights, Conventions()), state)


def test_retinanet_loses_its_unused_class_and_gets_it_back():
    state = deterministic(retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), 0)
    family = recognise(state)
    converted = family.convert(state, Conventions())
    assert family.name == "torchvision" and not converted.unknown
    scores = state["head.classification_head.cls_logits.weight"]  # 9 anchors of 91 classes
    expected = scores.view(9, 91, 256, 3, 3)[:, 1:].reshape(9 * 90, 256, 3, 3)
    assert torch.equal(converted.weights["rpn.head.cls_logits.weight"], expected)
    tower = converted.weights["rpn.head.bbox_tower.6.bias"]
    assert torch.equal(tower, state["head.regression_head.conv.3.0.bias"])
    back = family.export(converted.weights, Conventions())
    for name in ("weight", "bias"):
        name = f"head.classification_head.cls_logits.{name}"
        rows, original = back.pop(name).unflatten(0, (9, 91)), state.pop(name).unflatten(0, (9, 91))
        assert torch.equal(rows[:, 1:], original[:, 1:])
        assert rows[:, 0].max() <= 0 and (rows[:, 0].sum() == 0 or rows[:, 0].max() < -50)
    same_weights(back, state)


def test_frozen_detectors_keep_the_models_epsilon_and_say_so():
    state = {name: value for name, value in torchvision_state("faster").items() if "num_batches" not in name}
    converted = recognise(state).convert(state, Conventions())
    assert converted.conventions.norm_eps is None
    assert "epsilon" in converted.notes[0]


def test_a_stride_that_contradicts_is_named():
    cfg = our_cfg("faster", "MODEL.RESNETS.STRIDE_IN_1X1", True)
    report = load_state_dict(build_detection_model(cfg), torchvision_state("faster"), cfg)
    assert any("set STRIDE_IN_1X1 to False" in warning for warning in report.warnings)


def test_an_imagenet_body_in_bgr_gives_the_same_features():
    """The default config reads BGR of 0 to 255; the converted stem makes the same of it as torchvision's of RGB."""
    state = deterministic(resnet50(weights=None).state_dict(), 3)
    cfg = load_config(CONFIGS / "e2e_faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.WEIGHT", ""])
    model = build_detection_model(cfg)
    report = load_state_dict(model, state, cfg)
    assert report.family == "torchvision or timm, ImageNet ResNet"
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    rgb = torch.rand(1, 3, 32, 32)
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    expected = torch.conv2d(rgb / std, state["conv1.weight"], stride=2, padding=3)
    actual = torch.conv2d(rgb.flip(1) * 255, model.backbone.body.stem.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert "RGB in the file, BGR in the model" in "\n".join(report.notes)


def test_without_a_config_the_stem_is_kept():
    state = deterministic(resnet50(weights=None).state_dict(), 3)
    model = build_detection_model(our_cfg("faster"))
    load_state_dict(model, state)
    assert torch.equal(model.backbone.body.stem.conv1.weight, state["conv1.weight"])


def test_a_network_without_bottlenecks_is_recognised_too():
    assert recognise(resnet18(weights=None).state_dict()).name.startswith("torchvision")

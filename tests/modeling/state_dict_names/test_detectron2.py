"""Files of Detectron2, whose names are listed here from its module tree, load completely and go back."""

import pickle

import pytest
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import Conventions, convert_file, load_state_dict, recognise
from tests.modeling.state_dict_names.models import CONFIGS, deterministic, same_weights

NORM = ("weight", "bias", "running_mean", "running_var")


def conv_norm(name, out_channels, in_channels, kernel):
    shapes = {f"{name}.weight": (out_channels, in_channels, kernel, kernel)}
    return shapes | {f"{name}.norm.{entry}": (out_channels,) for entry in NORM}


def conv(name, out_channels, in_channels, kernel):
    return {f"{name}.weight": (out_channels, in_channels, kernel, kernel), f"{name}.bias": (out_channels,)}


def linear(name, out_features, in_features):
    return {f"{name}.weight": (out_features, in_features), f"{name}.bias": (out_features,)}


def stage(name, blocks, in_channels, width):
    shapes = {}
    for block in range(blocks):
        inputs = in_channels if block == 0 else 4 * width
        if block == 0:
            shapes |= conv_norm(f"{name}.0.shortcut", 4 * width, inputs, 1)
        shapes |= conv_norm(f"{name}.{block}.conv1", width, inputs, 1)
        shapes |= conv_norm(f"{name}.{block}.conv2", width, width, 3)
        shapes |= conv_norm(f"{name}.{block}.conv3", 4 * width, width, 1)
    return shapes


def resnet50(prefix, stages=4):
    shapes = conv_norm(f"{prefix}stem.conv1", 64, 3, 7)
    for index, (blocks, inputs) in enumerate([(3, 64), (4, 256), (6, 512), (3, 1024)][:stages]):
        shapes |= stage(f"{prefix}res{index + 2}", blocks, inputs, 64 * 2**index)
    return shapes


def rpn(channels, anchors):
    return {
        **conv("proposal_generator.rpn_head.conv", channels, channels, 3),
        **conv("proposal_generator.rpn_head.objectness_logits", anchors, channels, 1),
        **conv("proposal_generator.rpn_head.anchor_deltas", 4 * anchors, channels, 1),
    }


def box_predictor(classes, width):
    name = "roi_heads.box_predictor"
    return linear(f"{name}.cls_score", classes + 1, width) | linear(f"{name}.bbox_pred", 4 * classes, width)


def fpn_shapes(classes):
    shapes = resnet50("backbone.bottom_up.")
    for level, channels in enumerate((256, 512, 1024, 2048), start=2):
        shapes |= conv(f"backbone.fpn_lateral{level}", 256, channels, 1)
        shapes |= conv(f"backbone.fpn_output{level}", 256, 256, 3)
    shapes |= rpn(256, 3) | linear("roi_heads.box_head.fc1", 1024, 256 * 49)
    return shapes | linear("roi_heads.box_head.fc2", 1024, 1024) | box_predictor(classes, 1024)


def mask_shapes():
    shapes = fpn_shapes(80)
    for number in (1, 2, 3, 4):
        shapes |= conv(f"roi_heads.mask_head.mask_fcn{number}", 256, 256, 3)
    return shapes | conv("roi_heads.mask_head.deconv", 256, 256, 2) | conv("roi_heads.mask_head.predictor", 80, 256, 1)


def keypoint_shapes():
    shapes = fpn_shapes(1)
    for number in range(1, 9):
        shapes |= conv(f"roi_heads.keypoint_head.conv_fcn{number}", 512, 256 if number == 1 else 512, 3)
    name = "roi_heads.keypoint_head.score_lowres"
    return shapes | {f"{name}.weight": (512, 17, 4, 4), f"{name}.bias": (17,)}


def c4_shapes():
    shapes = resnet50("backbone.", stages=3) | rpn(1024, 15) | stage("roi_heads.res5", 3, 1024, 512)
    return shapes | box_predictor(80, 2048)


def mask_c4_shapes():
    shapes = c4_shapes() | {
        "roi_heads.mask_head.deconv.weight": (2048, 256, 2, 2),
        "roi_heads.mask_head.deconv.bias": (256,),
    }
    return shapes | conv("roi_heads.mask_head.predictor", 80, 256, 1)


MODELS = {
    "mask_c4": (mask_c4_shapes, "e2e_mask_rcnn_R_50_C4_1x.yaml"),
    "mask": (mask_shapes, "e2e_mask_rcnn_R_50_FPN_1x.yaml"),
    "keypoint": (keypoint_shapes, "e2e_keypoint_rcnn_R_50_FPN_1x.yaml"),
    "c4": (c4_shapes, "e2e_faster_rcnn_R_50_C4_1x.yaml"),
}


def detectron2_state(kind):
    return deterministic({name: torch.empty(shape) for name, shape in MODELS[kind][0]().items()}, seed=5)


def cfg_of(kind, *opts):
    return load_config(CONFIGS / MODELS[kind][1], ["MODEL.WEIGHT", "", *opts])


def expected_value(name, theirs):
    """The tensor here, from the names and the order of Detectron2, by other code than the package's."""
    head = "roi_heads.box.feature_extractor.head."
    name = name.removeprefix("backbone.body.").removeprefix(head)
    if "layer" in name and "fpn_layer" not in name or name.startswith("stem."):
        source = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        for number in "123":
            source = source.replace(f".bn{number}.", f".conv{number}.norm.")
        stage_number = source[5]
        prefix = "backbone.bottom_up." if "backbone.bottom_up.stem.conv1.weight" in theirs else "backbone."
        if source.startswith("layer"):
            source = f"res{int(stage_number) + 1}{source[6:]}"
            prefix = "roi_heads." if f"roi_heads.{source}" in theirs else prefix
        value = theirs[prefix + source]
        return value + 1e-5 if name.endswith("running_var") else value
    last = name.rpartition(".")[2]
    for ours, source in {
        "backbone.fpn.fpn_inner": "backbone.fpn_lateral",
        "backbone.fpn.fpn_layer": "backbone.fpn_output",
    }.items():
        if name.startswith(ours):
            return theirs[f"{source}{int(name[len(ours)]) + 1}.{last}"]
    names = {
        "rpn.head.conv": "proposal_generator.rpn_head.conv",
        "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
        "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box.feature_extractor.fc6": "roi_heads.box_head.fc1",
        "roi_heads.box.feature_extractor.fc7": "roi_heads.box_head.fc2",
        "roi_heads.box.predictor.cls_score": "roi_heads.box_predictor.cls_score",
        "roi_heads.box.predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask.predictor.conv5_mask": "roi_heads.mask_head.deconv",
        "roi_heads.mask.predictor.mask_fcn_logits": "roi_heads.mask_head.predictor",
        "roi_heads.keypoint.predictor.kps_score_lowres": "roi_heads.keypoint_head.score_lowres",
    }
    module = name.rpartition(".")[0]
    source = names.get(module, module.replace(".feature_extractor", "_head"))
    value = theirs[f"{source}.{last}"]
    zeros = torch.zeros(4, *value.shape[1:])
    if module.endswith("cls_score"):
        return torch.cat([value[-1:], value[:-1]])
    if module.endswith("box.predictor.bbox_pred"):
        return torch.cat([zeros, value])
    if module.endswith("mask_fcn_logits"):
        return torch.cat([zeros[:1], value])
    num_anchors = len(theirs["proposal_generator.rpn_head.objectness_logits.bias"])
    if module in ("rpn.head.cls_logits", "rpn.head.bbox_pred") and num_anchors == 15:
        per_anchor = len(value) // 15
        order = [size * 3 + ratio for ratio in range(3) for size in range(5)]  # there the ratio changes fastest
        return torch.cat([value[anchor * per_anchor : (anchor + 1) * per_anchor] for anchor in order])
    return value


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_arrives(kind):
    state, cfg = detectron2_state(kind), cfg_of(kind)
    model = build_detection_model(cfg)
    report = load_state_dict(model, state, cfg)
    assert report.family == "Detectron2"
    assert report.complete and not report.unused and not report.warnings
    for name, value in model.state_dict().items():
        if ".anchor_generator." not in name:
            torch.testing.assert_close(value, expected_value(name, state), rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind):
    state = detectron2_state(kind)
    ours = convert_file(state, "maskrcnn_benchmark")
    assert ours.source == "Detectron2"
    same_weights(convert_file(ours.weights, "detectron2").weights, state)


def test_a_model_trained_here_goes_to_detectron2():
    """With an epsilon of 0 here; Detectron2 has 1e-5. No row for the background remains."""
    model = build_detection_model(cfg_of("mask"))
    exported = convert_file(model.state_dict(), "detectron2").weights
    assert {name: tuple(value.shape) for name, value in exported.items()} == mask_shapes()
    own = model.roi_heads.box.predictor.cls_score.weight
    assert torch.equal(exported["roi_heads.box_predictor.cls_score.weight"][-1], own[0])
    variance = exported["backbone.bottom_up.res2.0.conv1.norm.running_var"]
    torch.testing.assert_close(variance, torch.full((64,), 1 - 1e-5))


def test_a_file_of_the_model_zoo_says_its_channels(tmp_path):
    """NumPy arrays in a pickle, with buffers of pixel values and anchors as in older versions."""
    state = detectron2_state("keypoint")
    extra = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]), "pixel_std": torch.tensor([58.395, 57.12, 57.375])}
    extra = {name: value.view(3, 1, 1) for name, value in extra.items()}
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3, 4)}
    arrays = {name: value.numpy() for name, value in {**state, **extra, **anchors}.items()}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    model = build_detection_model(cfg_of("keypoint"))
    DetectronCheckpointer(cfg_of("keypoint"), model).load(tmp_path / "model_final.pkl")
    std = torch.tensor([57.375, 57.12, 58.395])[:, None, None]
    expected = state["backbone.bottom_up.stem.conv1.weight"].flip(1) / std
    torch.testing.assert_close(model.backbone.body.stem.conv1.weight, expected)


def test_the_order_of_channels_can_be_given():
    state, cfg = detectron2_state("keypoint"), cfg_of("keypoint")
    model = build_detection_model(cfg)
    load_state_dict(model, state, cfg, pixel_order="RGB")
    expected = state["backbone.bottom_up.stem.conv1.weight"].flip(1)
    assert torch.equal(model.backbone.body.stem.conv1.weight, expected)


def test_imagenet_bodies_go_where_the_model_has_the_last_stage():
    state = deterministic({name: torch.empty(shape) for name, shape in resnet50("").items()}, 1)
    for kind in ("mask", "c4"):
        cfg = cfg_of(kind)
        model = build_detection_model(cfg)
        report = load_state_dict(model, state, cfg)
        assert report.family == "Detectron2" and not report.unused
        assert not any("layer" in name and "fpn" not in name for name in report.missing)


def test_group_norm_and_deformable_layers():
    block = "backbone.bottom_up.res3.0"
    shapes = {f"{block}.conv2.weight": (4, 4, 3, 3), f"{block}.conv2_offset.weight": (18, 4, 3, 3)}
    for name in ("roi_heads.box_head.conv2", "roi_heads.mask_head.mask_fcn1", "backbone.fpn_output3"):
        shapes |= {f"{name}.weight": (4, 4, 3, 3), f"{name}.norm.weight": (4,), f"{name}.norm.bias": (4,)}
    state = deterministic({name: torch.empty(shape) for name, shape in shapes.items()}, 2)
    converted = recognise(state).convert(state, Conventions())
    assert not converted.unknown
    assert converted.sources == {
        "backbone.body.layer2.0.conv2.conv.weight": f"{block}.conv2.weight",
        "backbone.body.layer2.0.conv2.offset.weight": f"{block}.conv2_offset.weight",
        **{
            f"{ours}.{index}.{entry}": f"{theirs}{norm}.{entry}"
            for theirs, ours, first in (
                ("roi_heads.box_head.conv2", "roi_heads.box.feature_extractor.xconvs", 3),
                ("roi_heads.mask_head.mask_fcn1", "roi_heads.mask.feature_extractor.mask_fcn1", 0),
                ("backbone.fpn_output3", "backbone.fpn.fpn_layer2", 0),
            )
            for index, norm, entries in ((first, "", ("weight",)), (first + 1, ".norm", ("weight", "bias")))
            for entry in entries
        },
    }
    same_weights(convert_file(converted.weights, "detectron2").weights, state)


def test_retinanet():
    shapes = (
        resnet50("backbone.bottom_up.") | conv("head.cls_score", 9 * 80, 256, 3) | conv("head.bbox_pred", 36, 256, 3)
    )
    for index in (0, 2, 4, 6):
        shapes |= conv(f"head.cls_subnet.{index}", 256, 256, 3) | conv(f"head.bbox_subnet.{index}", 256, 256, 3)
    for level, channels in enumerate((512, 1024, 2048), start=3):
        shapes |= conv(f"backbone.fpn_lateral{level}", 256, channels, 1) | conv(
            f"backbone.fpn_output{level}", 256, 256, 3
        )
    shapes |= conv("backbone.top_block.p6", 256, 2048, 3) | conv("backbone.top_block.p7", 256, 256, 3)
    state = deterministic({name: torch.empty(shape) for name, shape in shapes.items()}, 3)
    converted = recognise(state).convert(state, Conventions())
    assert not converted.unknown
    there, here = state["head.bbox_pred.bias"].view(9, 4), converted.weights["rpn.head.bbox_pred.bias"].view(9, 4)
    assert all(torch.equal(here[3 * ratio + size], there[3 * size + ratio]) for ratio in range(3) for size in range(3))
    same_weights(convert_file(convert_file(state, "maskrcnn_benchmark").weights, "detectron2").weights, state)

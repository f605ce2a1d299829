"""Names of weights in files of other projects lead to the tensors of the models here."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d
from maskrcnn_benchmark.modeling.state_dict_names import NAME_RULES, load_c2_format, load_state_dict, rename_c2_blobs
from tests.contracts.contract import read_contract


def tree(**children):
    return nn.Sequential(OrderedDict(children))


def resnet_like(last_stage_in_head):
    stem = tree(conv1=nn.Conv2d(3, 4, 3, bias=False), bn1=FrozenBatchNorm2d(4))
    layer4 = tree(conv1=nn.Conv2d(4, 4, 1, bias=False))
    body = {"stem": stem, "layer1": tree(conv1=nn.Conv2d(4, 4, 1, bias=False))}
    if not last_stage_in_head:
        body["layer4"] = layer4
    model = {"backbone": tree(body=tree(**body))}
    if last_stage_in_head:
        box = tree(feature_extractor=tree(head=tree(layer4=layer4)))
        mask = tree(feature_extractor=tree(head=tree(layer4=tree(conv1=nn.Conv2d(4, 4, 1, bias=False)))))
        model["roi_heads"] = tree(box=box, mask=mask)
    return tree(**model)


# ---- prefixes ----


def test_the_last_stage_goes_where_the_model_has_it():
    state = {"layer4.conv1.weight": torch.full((4, 4, 1, 1), 2.0), "conv1.weight": torch.full((4, 3, 3, 3), 3.0)}
    in_body, in_heads = resnet_like(False), resnet_like(True)
    assert load_state_dict(in_body, state).renamed == {
        "backbone.body.layer4.conv1.weight": "layer4.conv1.weight",
        "backbone.body.stem.conv1.weight": "conv1.weight",
    }
    report = load_state_dict(in_heads, state)
    heads = [f"roi_heads.{head}.feature_extractor.head.layer4.conv1.weight" for head in ("box", "mask")]
    assert [report.renamed[name] for name in heads] == ["layer4.conv1.weight"] * 2
    assert all(in_heads.state_dict()[name].eq(2).all() for name in heads)
    assert in_heads.backbone.body.stem.conv1.weight.eq(3).all()


def test_names_of_the_mmdetection_family():
    neck = tree(
        reduction_conv=nn.Sequential(nn.Conv2d(8, 2, 1)), fpn_conv=nn.ModuleList([nn.Conv2d(2, 2, 3) for _ in range(5)])
    )
    model = tree(backbone=tree(body=tree(conv1=nn.Conv2d(3, 4, 3)), neck=neck))
    state = {
        "backbone.conv1.weight": torch.ones(4, 3, 3, 3),
        "neck.reduction_conv.conv.bias": torch.ones(2),
        "neck.fpn_convs.3.conv.bias": torch.ones(2),
    }
    assert sorted(load_state_dict(model, state).renamed) == [
        "backbone.body.conv1.weight",
        "backbone.neck.fpn_conv.3.bias",
        "backbone.neck.reduction_conv.0.bias",
    ]


def test_the_forks_epsilon_is_honoured_directly_and_through_a_rule():
    body = {"bn1." + name: torch.full((4,), value) for name, value in
            {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 0.0, "eps": 0.25}.items()}  # fmt: skip
    for state in (body, {f"backbone.body.{name}": value for name, value in body.items()}):
        model = tree(backbone=tree(body=tree(bn1=FrozenBatchNorm2d(4))))
        report = load_state_dict(model, state)
        assert not report.unused
        out = model.backbone.body.bn1(torch.ones(1, 4, 1, 1))
        torch.testing.assert_close(out, torch.full((1, 4, 1, 1), 2.0))  # 1 / sqrt(0 + 0.25)


def test_the_forks_epsilon_is_not_reported_where_no_norm_reads_it():
    model = tree(backbone=tree(body=tree(bn1=nn.BatchNorm2d(4))))
    state = {f"bn1.{name}": torch.ones(4) for name in ("weight", "bias", "running_mean", "running_var", "eps")}
    report = load_state_dict(model, state)
    assert report.complete and not report.unused


# ---- Caffe2 ----


def test_a_detectron_file_is_read_with_the_names_here(tmp_path):
    blobs = {"conv1_w": np.full((2, 3, 7, 7), 3.0, np.float32), "fc6_w": np.ones((2, 2), np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol=2))
    weights = load_c2_format(tmp_path / "R-50.pkl")
    assert list(weights) == ["stem.conv1.weight", "roi_heads.box.feature_extractor.fc6.weight"]
    assert weights["stem.conv1.weight"].eq(3).all()


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("res_conv1_bn_s", "stem.bn1.weight"),
        ("res_conv1_bn_b", "stem.bn1.bias"),
        ("conv1_gn_s", "stem.bn1.weight"),
        ("res2_0_branch1_w", "layer1.0.downsample.0.weight"),
        ("res2_0_branch1_bn_b", "layer1.0.downsample.1.bias"),
        ("res4_22_branch2a_w", "layer3.22.conv1.weight"),
        ("res4_22_branch2b_bn_s", "layer3.22.bn2.weight"),
        ("res5_2_branch2c_gn_b", "layer4.2.bn3.bias"),
        ("fpn_inner_res5_2_sum_w", "backbone.fpn.fpn_inner4.weight"),
        ("fpn_inner_res4_22_sum_lateral_b", "backbone.fpn.fpn_inner3.bias"),
        ("fpn_inner_res2_2_sum_lateral_w", "backbone.fpn.fpn_inner1.weight"),
        ("fpn_res2_2_sum_w", "backbone.fpn.fpn_layer1.weight"),
        ("fpn_res5_2_sum_b", "backbone.fpn.fpn_layer4.bias"),
        ("conv_rpn_fpn2_w", "rpn.head.conv.weight"),
        ("conv_rpn_w", "rpn.head.conv.weight"),
        ("rpn_cls_logits_fpn2_b", "rpn.head.cls_logits.bias"),
        ("rpn_bbox_pred_w", "rpn.head.bbox_pred.weight"),
        ("fc6_w", "roi_heads.box.feature_extractor.fc6.weight"),
        ("fc7_b", "roi_heads.box.feature_extractor.fc7.bias"),
        ("cls_score_w", "roi_heads.box.predictor.cls_score.weight"),
        ("bbox_pred_b", "roi_heads.box.predictor.bbox_pred.bias"),
        ("_[mask]_fcn3_w", "roi_heads.mask.feature_extractor.mask_fcn3.weight"),
        ("conv5_mask_w", "roi_heads.mask.predictor.conv5_mask.weight"),
        ("mask_fcn_logits_b", "roi_heads.mask.predictor.mask_fcn_logits.bias"),
        ("conv_fcn8_w", "roi_heads.keypoint.feature_extractor.conv_fcn8.weight"),
        ("kps_score_lowres_w", "roi_heads.keypoint.predictor.kps_score_lowres.weight"),
        ("fc1000_w", "fc1000_w"),
    ],
)
def test_blobs_get_our_names(blob, name):
    array = np.arange(3, dtype=np.float32)
    renamed = rename_c2_blobs({blob: array})
    assert next(iter(renamed)) == name
    torch.testing.assert_close(renamed[name], torch.arange(3.0))


def test_blobs_that_are_no_weights_are_left_out():
    blobs = {"conv1_w_momentum": np.ones(2, "f4"), "kps_score_w": np.ones(2, "f4"), "lr": np.ones(1, "f4"), "cfg": "x"}
    assert rename_c2_blobs(blobs) == {}


def test_an_affine_layer_becomes_a_batch_norm_that_does_the_same():
    renamed = rename_c2_blobs({"res_conv1_bn_s": np.full(2, 3.0, "f4"), "res_conv1_bn_b": np.ones(2, "f4")})
    assert renamed["stem.bn1.running_mean"].tolist() == [0, 0]
    assert renamed["stem.bn1.running_var"].tolist() == [1, 1]
    assert "stem.bn1.running_mean" not in rename_c2_blobs({"conv1_gn_s": np.ones(2, "f4")})


def test_with_group_norm_convolution_and_norm_are_a_sequence():
    blobs = {
        f"{name}_{end}": np.ones(1, "f4")
        for name in ("_[mask]_fcn1", "fpn_res2_2_sum")
        for end in ("w", "gn_s", "gn_b")
    }
    assert sorted(rename_c2_blobs(blobs)) == [
        "backbone.fpn.fpn_layer1.0.weight",
        "backbone.fpn.fpn_layer1.1.bias",
        "backbone.fpn.fpn_layer1.1.weight",
        "roi_heads.mask.feature_extractor.mask_fcn1.0.weight",
        "roi_heads.mask.feature_extractor.mask_fcn1.1.bias",
        "roi_heads.mask.feature_extractor.mask_fcn1.1.weight",
    ]


# ---- whole models: every tensor of a released model has its blob ----


def detectron_names(parts, *, blocks=(3, 4, 6, 3), fpn=True):
    """Names of the blobs in Detectron's file of a model, from its naming scheme."""
    names = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b"]
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            for branch in ["branch1"] * (block == 0) + ["branch2a", "branch2b", "branch2c"]:
                stem = f"res{stage}_{block}_{branch}"
                names += [f"{stem}_w", f"{stem}_bn_s", f"{stem}_bn_b"]
    layers = []
    if fpn:
        for stage, count in enumerate(blocks, start=2):
            sum_name = f"res{stage}_{count - 1}_sum"
            layers += [f"fpn_inner_{sum_name}" + ("_lateral" if stage < 5 else ""), f"fpn_{sum_name}"]
    layers += [f"{name}_fpn2" if fpn else name for name in ("conv_rpn", "rpn_cls_logits", "rpn_bbox_pred")]
    layers += ["cls_score", "bbox_pred"] + (["fc6", "fc7"] if fpn else [])
    if "mask" in parts:
        layers += [f"_[mask]_fcn{number}" for number in (1, 2, 3, 4)] + ["conv5_mask", "mask_fcn_logits"]
    if "keypoint" in parts:
        layers += [f"conv_fcn{number}" for number in range(1, 9)] + ["kps_score_lowres", "kps_score"]
    return names + [f"{layer}_{ending}" for layer in layers for ending in ("w", "b")]


@pytest.mark.parametrize(
    ("contract", "parts", "fpn"),
    [
        ("e2e_mask_rcnn_R_50_FPN_1x", ("mask",), True),
        ("e2e_keypoint_rcnn_R_50_FPN_1x", ("keypoint",), True),
        ("e2e_faster_rcnn_R_50_C4_1x", (), False),
    ],
)
def test_blobs_of_a_released_model_cover_it(contract, parts, fpn):
    expected = {name for name in read_contract(contract).shapes if ".cell_anchors." not in name}
    blobs = {name: np.zeros(1, np.float32) for name in detectron_names(parts, fpn=fpn)}
    blobs.update({f"{name}_momentum": np.zeros(1, np.float32) for name in list(blobs)})
    named = set(rename_c2_blobs(blobs))

    placed = set()
    for name in named:
        targets = {
            rule.target + name[len(rule.source) :] for rule in NAME_RULES.prefixes if name.startswith(rule.source)
        }
        placed |= {name} & expected or targets & expected
        assert name in expected or targets & expected, name
    assert placed == expected


def test_statistics_beside_an_affine_layer_are_left_out():
    blobs = {f"res_conv1_bn_{entry}": np.full(2, 3.0, "f4") for entry in ("s", "b", "rm", "riv")}
    renamed = rename_c2_blobs(blobs)
    assert sorted(renamed) == [f"stem.bn1.{entry}" for entry in ("bias", "running_mean", "running_var", "weight")]
    assert renamed["stem.bn1.running_mean"].eq(0).all() and renamed["stem.bn1.running_var"].eq(1).all()

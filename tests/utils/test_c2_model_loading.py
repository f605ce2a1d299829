"""Detectron's pickles: what is in them, and what must not be."""

import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.utils.c2_model_loading import (
    RefusedPickleError,
    load_c2_format,
    read_pickle_of_arrays,
    rename_c2_blobs,
)
from maskrcnn_benchmark.utils.model_serialization import PREFIX_RULES
from tests.contracts.contract import read_contract


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i8", "u1", "?"])
def test_arrays_and_containers_come_back(tmp_path, dtype, protocol):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    content = {
        "a": array,
        "fortran": np.asfortranarray(array),
        "scalar": np.float32(2.5),
        "nested": collections.OrderedDict(x=[1, (2.0, "text", None, True)]),
        "empty": np.zeros((0, 3), np.float32),
    }
    if protocol == 5:
        content.pop("fortran")  # NumPy hands out-of-band buffers to this protocol, which Detectron never wrote
        content.pop("a")
        content.pop("empty")
    read = read_pickle_of_arrays(write(tmp_path / "x.pkl", content, protocol))
    assert list(read) == list(content)
    assert read["nested"] == {"x": [1, (2.0, "text", None, True)]}
    assert read["scalar"] == 2.5
    for name in set(content) & {"a", "fortran", "empty"}:
        assert read[name].shape == content[name].shape
        np.testing.assert_array_equal(read[name], content[name])


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Python 2 wrote the numbers of an array, and all text, as byte strings; built here opcode by opcode."""
    numbers = np.array([1.5, -2.0], "<f4").tobytes()
    short = lambda text: b"U" + struct.pack("<B", len(text)) + text  # noqa: E731  SHORT_BINSTRING
    dtype = (
        b"cnumpy\ndtype\n("
        + short(b"f4")
        + b"K\x00K\x01tR(K\x03"
        + short(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR(K\x01(K\x02t"
        + dtype + b"\x89" + short(numbers) + b"tb"
    )  # fmt: skip
    path = tmp_path / "py2.pkl"
    path.write_bytes(b"\x80\x02}" + short(b"fc6_w") + array + b"s.")
    pickletools.dis(path.read_bytes(), out=io.StringIO())  # it is a well-formed pickle
    read = read_pickle_of_arrays(path)
    assert list(read) == ["fc6_w"]
    np.testing.assert_array_equal(read["fc6_w"], np.array([1.5, -2.0], np.float32))


class Runs:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Runs(os.system, "touch {marker}"),
        Runs(eval, "open({marker!r}, 'w')"),
        Runs(getattr, "x", "upper"),
        Runs(np.load, "{marker}"),
        Runs(io.open, "{marker}", "w"),
        Runs(np.fromfile, "{marker}"),
        collections.Counter("aab"),
        slice(1, 2),
        torch.ones(2),
    ],
    ids=lambda payload: type(payload).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_refused_and_does_not_run(tmp_path, payload, protocol):
    marker = tmp_path / "ran"
    if isinstance(payload, Runs):
        function, args = payload.call
        payload = Runs(function, *(a.format(marker=str(marker)) if isinstance(a, str) else a for a in args))
    path = write(tmp_path / "evil.pkl", {"blobs": {"fc6_w": payload}}, protocol)
    with pytest.raises(RefusedPickleError, match=r"evil.pkl is not read: it asks for \S+\. A .pkl is admitted if"):
        load_c2_format(path)
    assert not marker.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = write(tmp_path / "objects.pkl", {"a": np.array([{}, None], dtype=object)})
    with pytest.raises(RefusedPickleError, match="array of dtype object; expected numbers"):
        read_pickle_of_arrays(path)


def test_a_state_that_lies_about_an_array_is_refused(tmp_path):
    honest = pickle.dumps(np.zeros(4, np.float32), protocol=2)
    path = tmp_path / "short.pkl"
    path.write_bytes(honest.replace(b"K\x04\x85", b"K\x40\x85"))  # claims 64 numbers, holds 4
    with pytest.raises(RefusedPickleError, match="cannot reshape"):
        read_pickle_of_arrays(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02}q\x00", b"\x80\x02cos\nsystem\n", b"P1\n."])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(RefusedPickleError, match="bad.pkl is not read"):
        read_pickle_of_arrays(path)


def test_a_pickle_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no named arrays"):
        load_c2_format(write(tmp_path / "x.pkl", {"blobs": {"lr": 0.1}}))
    with pytest.raises(ValueError, match="holds no named arrays"):
        load_c2_format(write(tmp_path / "x.pkl", [1, 2]))


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
        targets = {rule.target + name[len(rule.source) :] for rule in PREFIX_RULES if name.startswith(rule.source)}
        placed |= {name} & expected or targets & expected
        assert name in expected or targets & expected, name
    assert placed == expected

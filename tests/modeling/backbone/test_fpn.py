"""The feature pyramid against torchvision's."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool as ReferenceMaxPool
from torchvision.ops.feature_pyramid_network import LastLevelP6P7 as ReferenceP6P7

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from maskrcnn_benchmark.modeling.make_layers import norm_factory

CHANNELS = (4, 6, 8)


def body_features(*sizes_hw: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, channels, *size) for channels, size in zip(CHANNELS, sizes_hw, strict=True)]


def our_key(key: str) -> str:
    if not key.startswith(("inner_blocks", "layer_blocks")):
        return key.replace("extra_blocks", "top_blocks")
    kind, level, _, name = key.split(".")
    return f"fpn_{kind.removesuffix('_blocks')}{int(level) + 1}.{name}"


@pytest.mark.parametrize("top", ["none", "pool", "from body", "from pyramid"])
@pytest.mark.parametrize("sizes_hw", [[(24, 32), (12, 16), (6, 8)], [(25, 33), (13, 17), (7, 9)]])
def test_outputs_equal_torchvisions(top, sizes_hw):
    ours, theirs = {
        "none": (None, None),
        "pool": (LastLevelMaxPool(), ReferenceMaxPool()),
        "from body": (LastLevelP6P7(8, 5), ReferenceP6P7(8, 5)),
        "from pyramid": (LastLevelP6P7(5, 5, from_body=False), ReferenceP6P7(5, 5)),
    }[top]
    reference = FeaturePyramidNetwork(list(CHANNELS), 5, extra_blocks=theirs)
    fpn = FPN(CHANNELS, 5, top_blocks=ours)
    fpn.load_state_dict({our_key(key): value for key, value in reference.state_dict().items()})
    features = body_features(*sizes_hw)
    outputs = fpn(features)
    expected = list(reference(OrderedDict(enumerate(features))).values())
    assert len(outputs) == len(expected) == 3 + (ours.num_levels if ours else 0)
    for output, reference_output in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference_output, rtol=1e-4, atol=1e-5)


def test_norm_and_relu_follow_each_convolution():
    fpn = FPN(CHANNELS, 8, norm=norm_factory("GN"), relu=True)
    assert [type(layer) for layer in fpn.fpn_inner1] == [nn.Conv2d, nn.GroupNorm, nn.ReLU]
    assert fpn.fpn_layer3[0].bias is None
    outputs = fpn(body_features((9, 11), (5, 6), (3, 3)))
    assert all((output >= 0).all() for output in outputs)
    sum(output.sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in fpn.parameters())


def test_inputs_are_left_as_they_were():
    features = body_features((8, 8), (4, 4), (2, 2))
    copies = [level.clone() for level in features]
    FPN(CHANNELS, 5)(features)
    assert all(torch.equal(level, copy) for level, copy in zip(features, copies, strict=True))


def test_start_values_are_caffe2s_xavier():
    conv = FPN((64, 64), 64).fpn_layer1
    bound = (3 / (64 * 9)) ** 0.5  # uniform with variance 1 / fan_in
    assert conv.bias.eq(0).all() and 0.99 * bound < conv.weight.abs().max() <= bound


def test_config():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16, "MODEL.FPN.USE_GN", True, "MODEL.FPN.USE_RELU", True]
    )
    fpn = FPN.from_cfg(cfg, CHANNELS)
    assert fpn.out_channels == 16 and isinstance(fpn.fpn_layer2[1], nn.GroupNorm)
    cfg.merge_from_list(["MODEL.FPN.NORM", "BN"])
    assert isinstance(FPN.from_cfg(cfg, CHANNELS).fpn_layer2[1], nn.BatchNorm2d)


def test_weights_are_named_after_the_level():
    fpn = FPN(CHANNELS, 5, first_level=2, top_blocks=LastLevelP6P7(8, 5))
    names = {key.split(".")[0] for key in fpn.state_dict()}
    assert names == {*(f"fpn_{kind}{level}" for kind in ("inner", "layer") for level in (2, 3, 4)), "top_blocks"}
    assert len(fpn(body_features((9, 11), (5, 6), (3, 3)))) == 5

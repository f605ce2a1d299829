"""Constructors of layers: shapes, keys, start values."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.modeling.make_layers import conv_with_kaiming_uniform, make_conv3x3, make_fc, norm_factory
from maskrcnn_benchmark.utils.problems import ConfigError, collect_config_problems


def keys(module: nn.Module) -> list[str]:
    return list(module.state_dict())


def test_bare_layers_keep_the_plain_names():
    assert keys(make_conv3x3(4, 8)) == keys(make_fc(4, 8)) == ["weight", "bias"]
    assert keys(conv_with_kaiming_uniform()(4, 8, 1)) == ["weight", "bias"]


@pytest.mark.parametrize("make", [make_conv3x3, make_fc, lambda *args, norm: conv_with_kaiming_uniform(norm)(*args, 1)])
def test_a_layer_before_a_norm_has_no_bias(make):
    assert keys(make(4, 8, norm=norm_factory("GN"))) == ["0.weight", "1.weight", "1.bias"]


def test_relu_comes_last():
    conv = make_conv3x3(4, 8, norm=norm_factory("BN"), relu=True)
    assert [type(layer) for layer in conv] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(layer) for layer in conv_with_kaiming_uniform(relu=True)(4, 8, 3)] == [nn.Conv2d, nn.ReLU]


@pytest.mark.parametrize(
    ("stride", "dilation", "size_hw"), [(1, 1, (9, 12)), (1, 3, (9, 12)), (2, 1, (5, 6)), (2, 2, (5, 6))]
)
def test_convolutions_keep_the_size_but_for_the_stride(stride, dilation, size_hw):
    images = torch.randn(2, 4, 9, 12)
    assert make_conv3x3(4, 8, stride=stride, dilation=dilation)(images).shape == (2, 8, *size_hw)
    assert conv_with_kaiming_uniform()(4, 8, 5, stride, dilation)(images).shape == (2, 8, *size_hw)


def test_start_values():
    inputs, outputs = 64, 96
    relu_conv, plain_conv = make_conv3x3(inputs, outputs), make_conv3x3(inputs, outputs, kaiming_init=False)
    expected = {relu_conv: (2 / (9 * outputs)) ** 0.5, plain_conv: 0.01}
    expected[conv_with_kaiming_uniform()(inputs, outputs, 3)] = (1 / (9 * inputs)) ** 0.5
    expected[make_fc(inputs, outputs)] = (1 / inputs) ** 0.5
    for layer, deviation in expected.items():
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert layer.bias.eq(0).all()


def test_fc_with_group_norm_takes_vectors():
    out = make_fc(6, 64, norm=norm_factory("GN"))(torch.randn(5, 6))
    assert out.shape == (5, 64) and out[:, :2].mean(dim=1).abs().max() < 1e-5  # two channels a group


def test_norm_factory_reads_the_group_norm_node():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.GROUP_NORM.DIM_PER_GP", 4, "MODEL.GROUP_NORM.EPSILON", 1e-3])
    norm = norm_factory("GN", cfg.MODEL.GROUP_NORM)(24)
    assert norm.num_groups == 6 and norm.eps == 1e-3
    assert norm_factory("BN", cfg.MODEL.GROUP_NORM)(24).eps == 1e-5  # the key is of group norms alone
    assert norm_factory("FrozenBN", eps=0.0)(24).eps == 0.0
    assert norm_factory("") is None


def test_an_unknown_norm_is_a_problem_of_its_key():
    with pytest.raises(ConfigError, match=r"^MODEL.FPN.NORM is 'Instance'; expected one of '', 'FrozenBN', 'BN', "):
        norm_factory("Instance", key="MODEL.FPN.NORM")
    with pytest.raises(ConfigError, match=r"^MODEL.HRNET.NORM is ''; expected one of 'FrozenBN', 'BN', "):
        norm_factory("", key="MODEL.HRNET.NORM", required=True)
    with collect_config_problems() as problems:
        factory = norm_factory("Instance")
    assert len(problems) == 1 and factory is not None and isinstance(factory(8), nn.Identity)

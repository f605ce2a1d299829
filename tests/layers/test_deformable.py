"""Deformable convolution against the plain one, and against a shift that can be done by hand."""

import pytest
import torch
import torch.nn.functional as F

from maskrcnn_benchmark.layers import (
    DeformConv,
    DFConv2d,
    ModulatedDeformConv,
    ModulatedDeformConvPack,
    deform_conv,
    modulated_deform_conv,
)


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_starts_as_a_plain_convolution(modulated, factor):
    layer = DFConv2d(4, 6, stride=2, dilation=2, groups=2, with_modulated_dcn=modulated, deformable_groups=2)
    images = torch.randn(2, 4, 9, 7)
    expected = factor * F.conv2d(images, layer.conv.weight, stride=2, padding=2, dilation=2, groups=2)
    torch.testing.assert_close(layer(images), expected)


def test_an_offset_of_one_cell_is_a_shift():
    layer = DFConv2d(2, 3, with_modulated_dcn=False)
    with torch.no_grad():
        layer.offset.bias[1::2] = 1.0  # (y, x) in turn: every sample one cell to the right
    images = torch.randn(1, 2, 5, 8)
    shifted = F.pad(images, (0, 1))[..., 1:]
    expected = F.conv2d(shifted, layer.conv.weight, padding=1)
    # Away from the left edge, where the padding of the shifted image differs.
    torch.testing.assert_close(layer(images)[..., 1:], expected[..., 1:])


def test_keys_and_gradients():
    layer = DFConv2d(2, 3, with_modulated_dcn=True)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {"offset.weight": (27, 2, 3, 3), "offset.bias": (27,), "conv.weight": (3, 2, 3, 3)}
    layer(torch.randn(1, 2, 6, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 deformable groups do not divide 4 input channels"):
        DFConv2d(4, 4, deformable_groups=3)


def test_functions_are_plain_convolutions_without_offsets():
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(2, 4, 7, 9, generator=generator), torch.randn(6, 2, 3, 3, generator=generator)
    settings = {"stride": 2, "padding": (1, 2), "dilation": 1, "groups": 2}
    expected = F.conv2d(features, weight, **settings)
    offset = torch.zeros(2, 2 * 2 * 9, *expected.shape[2:])
    found = deform_conv(features, offset, weight, 2, (1, 2), 1, 2, 2)
    torch.testing.assert_close(found, expected)
    bias, mask = torch.randn(6, generator=generator), torch.full((2, 18, *expected.shape[2:]), 0.25)
    modulated = modulated_deform_conv(features, offset, mask, weight, bias, deformable_groups=2, **settings)
    torch.testing.assert_close(modulated, 0.25 * expected + bias[:, None, None])


def test_layers_have_upstreams_parameters_and_reach_all_of_them():
    plain = DeformConv(4, 6, 3, padding=1, deformable_groups=2)
    weighted = ModulatedDeformConv(4, 6, 3, padding=1, groups=2)
    pack = ModulatedDeformConvPack(4, 6, 3, padding=1)
    layers = (plain, weighted, pack)
    shapes = [{name: tuple(value.shape) for name, value in layer.state_dict().items()} for layer in layers]
    assert shapes == [
        {"weight": (6, 4, 3, 3)},
        {"weight": (6, 2, 3, 3), "bias": (6,)},
        {
            "weight": (6, 4, 3, 3),
            "bias": (6,),
            "conv_offset_mask.weight": (27, 4, 3, 3),
            "conv_offset_mask.bias": (27,),
        },
    ]
    features = torch.randn(1, 4, 5, 6)
    offset = 0.3 * torch.randn(1, 18, 5, 6)
    torch.testing.assert_close(pack(features), 0.5 * F.conv2d(features, pack.weight, padding=1))
    outputs = [
        plain(features, offset.repeat(1, 2, 1, 1)),
        weighted(features, offset, torch.rand(1, 9, 5, 6)),
        pack(features),
    ]
    sum(output.square().sum() for output in outputs).backward()
    for layer in layers:
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in layer.parameters())
    assert "kernel_size=(3, 3)" in repr(plain)


def test_shapes_that_do_not_fit_are_refused():
    features, weight = torch.zeros(1, 4, 5, 5), torch.zeros(6, 4, 3, 3)
    with pytest.raises(ValueError, match="offset has 9 channels; a 3x3 kernel with 1 deformable groups needs 18"):
        deform_conv(features, torch.zeros(1, 9, 3, 3), weight)
    with pytest.raises(ValueError, match="mask has 18 channels"):
        modulated_deform_conv(features, torch.zeros(1, 18, 3, 3), torch.zeros(1, 18, 3, 3), weight)
    with pytest.raises(ValueError, match="do not fit 2 groups"):
        deform_conv(features, torch.zeros(1, 18, 3, 3), weight, groups=2)
    with pytest.raises(ValueError, match="3 groups have to divide 4 input"):
        ModulatedDeformConv(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="DeformConv has no bias"):
        DeformConv(4, 6, 3, bias=True)

"""Deformable convolution against the plain one, and against a shift that can be done by hand."""

import pytest
import torch
import torch.nn.functional as F

from maskrcnn_benchmark.layers.deform_conv import DFConv2d


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_starts_as_a_plain_convolution(modulated, factor):
    layer = DFConv2d(4, 6, stride=2, dilation=2, groups=2, modulated=modulated, deformable_groups=2)
    images = torch.randn(2, 4, 9, 7)
    expected = factor * F.conv2d(images, layer.conv.weight, stride=2, padding=2, dilation=2, groups=2)
    torch.testing.assert_close(layer(images), expected)


def test_an_offset_of_one_cell_is_a_shift():
    layer = DFConv2d(2, 3, modulated=False)
    with torch.no_grad():
        layer.offset.bias[1::2] = 1.0  # (y, x) in turn: every sample one cell to the right
    images = torch.randn(1, 2, 5, 8)
    shifted = F.pad(images, (0, 1))[..., 1:]
    expected = F.conv2d(shifted, layer.conv.weight, padding=1)
    # Away from the left edge, where the padding of the shifted image differs.
    torch.testing.assert_close(layer(images)[..., 1:], expected[..., 1:])


def test_keys_and_gradients():
    layer = DFConv2d(2, 3, modulated=True)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {"offset.weight": (27, 2, 3, 3), "offset.bias": (27,), "conv.weight": (3, 2, 3, 3)}
    layer(torch.randn(1, 2, 6, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 deformable groups do not divide 4 input channels"):
        DFConv2d(4, 4, deformable_groups=3)

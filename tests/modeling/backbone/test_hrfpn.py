"""HRFPN against its definition: enlarge, concatenate, reduce, pool, convolve."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.modeling.backbone.hrfpn import HRFPN
from maskrcnn_benchmark.modeling.make_layers import norm_factory

CHANNELS = (3, 5, 7, 9)


def branches(height: int, width: int) -> list[Tensor]:
    return [
        torch.randn(2, channels, -(-height // 2**level), -(-width // 2**level))
        for level, channels in enumerate(CHANNELS)
    ]


def reference(neck: HRFPN, features: list[Tensor], pool) -> list[Tensor]:
    size = features[0].shape[-2:]
    enlarged = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in features]
    reduced = neck.reduction_conv(torch.cat(enlarged, dim=1))
    return [conv(pool(reduced, 2**level)) for level, conv in enumerate(neck.fpn_conv)]


@pytest.mark.parametrize(("pooling", "pool"), [("AVG", F.avg_pool2d), ("MAX", F.max_pool2d)])
@pytest.mark.parametrize("norm", ["", "GN"])
def test_outputs_equal_the_definition(pooling, pool, norm):
    neck = HRFPN(CHANNELS, 8, pooling=pooling, norm=norm_factory(norm))
    nn.init.normal_(neck.reduction_conv[0 if not norm else 1].bias)
    features = branches(32, 48)
    for output, expected in zip(neck(features), reference(neck, features, pool), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size_hw", [(25, 33), (1, 1), (3, 50)])
def test_any_size_gives_levels_that_halve_and_are_never_empty(size_hw):
    neck = HRFPN(CHANNELS, 8)
    features = branches(*size_hw)
    copies = [level.clone() for level in features]
    outputs = neck(features)
    sizes = [tuple(max(1, side // 2**level) for side in size_hw) for level in range(5)]
    assert [tuple(output.shape) for output in outputs] == [(2, 8, *size) for size in sizes]
    assert all(torch.equal(level, copy) for level, copy in zip(features, copies, strict=True))
    # A map that is smaller than the window is pooled whole: a constant map stays constant.
    constant = [torch.ones_like(level) for level in features]
    level_means = [conv.weight.data.zero_() for conv in neck.fpn_conv]
    for weight in level_means:
        weight[range(8), range(8), 1, 1] = 1.0
    expected = neck.reduction_conv[0].weight.sum(dim=(1, 2, 3)).view(1, 8, 1, 1)
    for output in neck(constant):
        torch.testing.assert_close(output, expected.expand_as(output))


@pytest.mark.parametrize(("pooling", "pool"), [("AVG", F.avg_pool2d), ("MAX", F.max_pool2d)])
def test_levels_are_the_finest_map_pooled_by_powers_of_two_as_in_the_fork(pooling, pool):
    """At 800 x 1344 the finest map has 200 x 336 cells, and P6 12 x 21: the last row of cells is left out."""
    neck = HRFPN(CHANNELS, 8, pooling=pooling)
    features = branches(50, 84)
    finest = neck._reduce(features)
    outputs = neck(features)
    assert [tuple(output.shape[2:]) for output in outputs] == [(50, 84), (25, 42), (12, 21), (6, 10), (3, 5)]
    for level, (output, conv) in enumerate(zip(outputs, neck.fpn_conv, strict=True)):
        torch.testing.assert_close(output, conv(pool(finest, 2**level, 2**level)))


def test_gradients():
    neck = HRFPN(CHANNELS, 4, num_outs=3).double()
    features = [level.double().requires_grad_() for level in branches(8, 12)]
    factors = [torch.randn_like(output) for output in neck(features)]

    def gradients(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        total = sum((output * factor).sum() for output, factor in zip(outputs, factors, strict=True))
        return torch.autograd.grad(total, [*features, *neck.parameters()])

    for ours, expected in zip(
        gradients(neck(features)), gradients(reference(neck, features, F.avg_pool2d)), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_keys():
    shapes = {key: tuple(value.shape) for key, value in HRFPN(CHANNELS, 8, num_outs=2).state_dict().items()}
    assert shapes == {
        "reduction_conv.0.weight": (8, 24, 1, 1),
        "reduction_conv.0.bias": (8,),
        "fpn_conv.0.weight": (8, 8, 3, 3),
        "fpn_conv.0.bias": (8,),
        "fpn_conv.1.weight": (8, 8, 3, 3),
        "fpn_conv.1.bias": (8,),
    }


def test_config():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NECK.IN_CHANNELS", CHANNELS, "MODEL.NECK.POOLING", " avg", "MODEL.NECK.NORM", "BN"])
    neck = HRFPN.from_cfg(cfg, CHANNELS)  # the fork's default is written with a space
    assert isinstance(neck.reduction_conv[1], nn.BatchNorm2d) and len(neck.fpn_conv) == 5
    with pytest.raises(
        ValueError, match=r"NECK.IN_CHANNELS is \(3, 5, 7, 9\), the body's branches have \(1, 2, 3, 4\)"
    ):
        HRFPN.from_cfg(cfg, (1, 2, 3, 4))
    cfg.merge_from_list(["MODEL.NECK.POOLING", "SUM"])
    with pytest.raises(ValueError, match="NECK.POOLING is 'SUM'; expected one of 'AVG', 'MAX'"):
        HRFPN.from_cfg(cfg, CHANNELS)

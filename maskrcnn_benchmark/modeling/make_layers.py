"""Small constructors that bodies, necks and heads share: a convolution or a linear layer, its start values, its norm.

Where there is a norm or a ReLU the result is a Sequential, so its keys are `0.weight` (layer) and `1.weight` (norm); a
bare layer keeps `weight` and `bias`. The published checkpoints are laid out so. A layer before a norm has no bias.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from maskrcnn_benchmark.layers.norm import NormFactory, group_norm, make_norm

__all__ = [
    "NormFactory",
    "conv_with_kaiming_uniform",
    "group_norm",
    "init_for_relu",
    "make_conv3x3",
    "make_fc",
    "norm_factory",
]


def norm_factory(name: str, group_norm_node: Any = None, *, eps: float | None = None) -> NormFactory | None:
    """A constructor of norm layers by name; None for the empty name, which means no norm.

    Args:
        name: FrozenBN, BN, SyncBN, GN or "".
        group_norm_node: `cfg.MODEL.GROUP_NORM`; without it GN has 32 groups.
        eps: of the layers; by default GROUP_NORM.EPSILON for GN and 1e-5 for the others.
    """
    if not name:
        return None
    settings: dict[str, Any] = {} if eps is None else {"eps": eps}
    if name == "GN" and group_norm_node is not None:
        settings = {
            "num_groups": group_norm_node.NUM_GROUPS,
            "dim_per_group": group_norm_node.DIM_PER_GP,
            "eps": group_norm_node.EPSILON,
            **settings,
        }
    make_norm(name, 64)  # an unknown name fails here, where the key that named it is still in the traceback
    return partial(make_norm, name, **settings)


def init_for_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Start values for a layer before a ReLU (He et al. 2015), by the fan out; a bias starts at zero."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def make_conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    dilation: int = 1,
    stride: int = 1,
    norm: NormFactory | None = None,
    relu: bool = False,
    kaiming_init: bool = True,
) -> nn.Module:
    """3x3 convolution that keeps the size (at stride 1), with optional norm and ReLU.

    `kaiming_init` draws the weights for a ReLU after it (He et al. 2015); else they are normal with deviation 0.01.
    """
    conv = nn.Conv2d(
        in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=norm is None
    )
    if kaiming_init:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(conv.weight, std=0.01)
    return _with_norm_and_relu(conv, norm, relu)


def make_fc(in_features: int, out_features: int, *, norm: NormFactory | None = None) -> nn.Module:
    """Linear layer with Caffe2's Xavier start values, with an optional norm that accepts (R, C): group norm does."""
    linear = nn.Linear(in_features, out_features, bias=norm is None)
    nn.init.kaiming_uniform_(linear.weight, a=1)
    return _with_norm_and_relu(linear, norm, relu=False)


def conv_with_kaiming_uniform(norm: NormFactory | None = None, relu: bool = False) -> Callable[..., nn.Module]:
    """A constructor (in_channels, out_channels, kernel_size, stride=1, dilation=1) of size-keeping convolutions with
    Caffe2's Xavier start values (uniform, variance 1 / fan_in: for layers without a ReLU), as feature pyramids use."""

    def make_conv(
        in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
    ) -> nn.Module:
        padding = dilation * (kernel_size - 1) // 2
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=norm is None
        )
        nn.init.kaiming_uniform_(conv.weight, a=1)
        return _with_norm_and_relu(conv, norm, relu)

    return make_conv


def _with_norm_and_relu(layer: nn.Conv2d | nn.Linear, norm: NormFactory | None, relu: bool) -> nn.Module:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    out_channels = layer.weight.shape[0]
    tail = ([norm(out_channels)] if norm is not None else []) + ([nn.ReLU(inplace=True)] if relu else [])
    return nn.Sequential(layer, *tail) if tail else layer

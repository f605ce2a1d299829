"""Constructors that bodies, necks and heads share: a convolution or a linear layer with its initial values and norm.

A layer with a norm or a ReLU becomes a Sequential, with the state-dict keys `0.weight` (layer) and `1.weight` (norm).
Without them it keeps the keys `weight` and `bias`. Published checkpoints have these keys. A layer with a norm has no
bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from maskrcnn_benchmark.layers.norm import NORMS, NormFactory, group_norm, make_norm
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = [
    "NormFactory",
    "conv_with_kaiming_uniform",
    "group_norm",
    "init_for_relu",
    "make_conv3x3",
    "make_fc",
    "norm_eps",
    "norm_factory",
]


def norm_factory(
    name: str,
    group_norm_node: CfgNode | None = None,
    *,
    eps: float | None = None,
    key: str = "NORM",
    required: bool = False,
) -> NormFactory | None:
    """A constructor of norm layers by name; None for the empty name, which means no norm.

    Args:
        name: a name in NORMS, such as FrozenBN, BN, SyncBN, GN or LN; or "".
        group_norm_node: `cfg.MODEL.GROUP_NORM`; without it GN has 32 groups.
        eps: of the layers; by default GROUP_NORM.EPSILON for GN and 1e-5 for the others.
        key: config key that holds the name, for the message.
        required: refuse the empty name.
    Raises: ConfigError for an unknown name.
    """
    choices = [known for known in NORMS if known or not required]
    if name not in choices:
        config_problem(f"{key} is {name!r}; expected one of {', '.join(map(repr, choices))}.")
        return partial(make_norm, "")  # problems are being collected: go on without norms
    if not name:
        return None
    settings: dict[str, Any] = (
        {}
        if group_norm_node is None
        else {
            "num_groups": group_norm_node.NUM_GROUPS,
            "dim_per_group": group_norm_node.DIM_PER_GP,
        }
    )
    if eps is not None:
        settings["eps"] = eps
    elif name == "GN" and group_norm_node is not None:
        settings["eps"] = group_norm_node.EPSILON
    return partial(make_norm, name, **settings)


def norm_eps(cfg: CfgNode, section: str) -> float | None:
    """MODEL.<section>.NORM_EPS; None for -1, which means the usual epsilon of the norm."""
    eps: float = cfg.MODEL[section].NORM_EPS
    if eps < 0 and eps != -1:
        config_problem(f"MODEL.{section}.NORM_EPS is {eps}; expected 0 or more, or -1 for the usual value of the norm.")
    return None if eps < 0 else eps


def init_for_relu(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialise a layer that a ReLU follows: normal weights by fan out (He et al. 2015), zero bias."""
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

    Weights are normal: with `kaiming_init` scaled for a ReLU after the layer (He et al. 2015), else with a standard
    deviation of 0.01.
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
    """Linear layer with Caffe2's Xavier initialisation and an optional norm, which must accept (R, C), as GN and LN."""
    linear = nn.Linear(in_features, out_features, bias=norm is None)
    nn.init.kaiming_uniform_(linear.weight, a=1)
    return _with_norm_and_relu(linear, norm, relu=False)


def conv_with_kaiming_uniform(norm: NormFactory | None = None, relu: bool = False) -> Callable[..., nn.Module]:
    """A constructor of convolutions that keep the size (at stride 1), for feature pyramids.

    Weights have Caffe2's Xavier initialisation: uniform with variance 1 / fan_in, for layers without a ReLU.

    Returns: a function (in_channels, out_channels, kernel_size, stride=1, dilation=1) -> nn.Module.
    """

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

"""Deformable convolution on torchvision's operator: functions, layers, and one that predicts its own offsets.

Offsets are in cells of the input, (dy, dx) per sample of the kernel. torchvision is imported at the first use, since
the rest of `layers` works without it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


def deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:
    """Convolve at positions that are moved by offsets.

    Args:
        features: (N, C, H, W).
        offset: (N, 2 * deformable_groups * kh * kw, H_out, W_out).
        weight: (C_out, C / groups, kh, kw).
        stride, padding, dilation: as `torch.nn.functional.conv2d`.
        im2col_step: accepted for upstream's signature, and not used.
    Returns: (N, C_out, H_out, W_out).
    Raises: ValueError if groups or deformable_groups do not fit the shapes.
    Source: Dai et al. 2017, Deformable Convolutional Networks.
    """
    return _deform_conv2d(features, offset, None, weight, None, stride, padding, dilation, groups, deformable_groups)


def modulated_deform_conv(
    features: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """`deform_conv` whose samples are also weighted: `mask` is (N, deformable_groups * kh * kw, H_out, W_out).

    Source: Zhu et al. 2019, Deformable ConvNets v2.
    """
    return _deform_conv2d(features, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups)


def _deform_conv2d(
    features: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    deformable_groups: int,
) -> Tensor:
    """torchvision's operator, which takes both numbers of groups from the shapes; they are compared here."""
    from torchvision.ops import deform_conv2d

    samples = deformable_groups * weight.shape[2] * weight.shape[3]
    if features.shape[1] != groups * weight.shape[1]:
        raise ValueError(
            f"features of {features.shape[1]} channels and a weight {tuple(weight.shape)} do not fit {groups} groups"
        )
    for name, given, expected in (
        ("offset", offset, 2 * samples),
        *([("mask", mask, samples)] if mask is not None else []),
    ):
        if given.shape[1] != expected:
            raise ValueError(
                f"{name} has {given.shape[1]} channels; a {weight.shape[2]}x{weight.shape[3]} kernel with "
                f"{deformable_groups} deformable groups needs {expected}"
            )
    convolved: Tensor = deform_conv2d(
        features,
        offset,
        weight,
        bias,
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        mask=mask,
    )
    return convolved


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class _DeformableLayer(nn.Module):
    """The weight of a deformable convolution and its settings. Initialised uniformly, as `DeformConv` of upstream.

    Attributes:
        CAN_HAVE_BIAS: whether the class has a bias, and then has one by default.
    """

    CAN_HAVE_BIAS: ClassVar[bool]
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        if bias is None:
            bias = self.CAN_HAVE_BIAS
        elif bias and not self.CAN_HAVE_BIAS:
            raise ValueError("DeformConv has no bias; ModulatedDeformConv has one")
        if in_channels % groups or out_channels % groups or in_channels % deformable_groups:
            raise ValueError(
                f"{groups} groups have to divide {in_channels} input and {out_channels} output channels, and "
                f"{deformable_groups} deformable groups the input channels"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.groups, self.deformable_groups = groups, deformable_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight; the bias is zero."""
        bound = 1 / math.sqrt(self.in_channels * self.kernel_size[0] * self.kernel_size[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups, self.deformable_groups

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"deformable_groups={self.deformable_groups}, bias={self.bias is not None}"
        )


class DeformConv(_DeformableLayer):
    """`deform_conv` with its weight. It has no bias, as upstream's."""

    CAN_HAVE_BIAS = False

    def forward(self, features: Tensor, offset: Tensor) -> Tensor:
        return deform_conv(features, offset, self.weight, *self._settings)


class ModulatedDeformConv(_DeformableLayer):
    """`modulated_deform_conv` with its weight and bias."""

    CAN_HAVE_BIAS = True

    def forward(self, features: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return modulated_deform_conv(features, offset, mask, self.weight, self.bias, *self._settings)


class ModulatedDeformConvPack(ModulatedDeformConv):
    """`ModulatedDeformConv`, with its arguments, that predicts offsets and weights of samples by `conv_offset_mask`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        samples = self.deformable_groups * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset_mask = nn.Conv2d(
            self.in_channels, 3 * samples, self.kernel_size, self.stride, self.padding, self.dilation
        )
        self.init_offset()

    def init_offset(self) -> None:
        """Start at offsets of zero and weights of sigmoid(0) = 1/2."""
        nn.init.zeros_(self.conv_offset_mask.weight)
        if self.conv_offset_mask.bias is not None:
            nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]  # as upstream: it needs no offsets
        dy_dx, mask = self.conv_offset_mask(features).tensor_split([self.conv_offset_mask.out_channels // 3 * 2], dim=1)
        return super().forward(features, dy_dx, mask.sigmoid())


class DFConv2d(nn.Module):
    """Convolution at positions that are moved by offsets, which a second convolution predicts from the same input.

    Offsets are zero at first, so the layer starts as a plain convolution (times sigmoid(0) = 1/2 if modulated).

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation, bias: as `torch.nn.Conv2d`; the padding keeps
            the size at stride 1.
        with_modulated_dcn: also predict a factor in [0, 1] per sample.
        deformable_groups: number of sets of offsets; each serves in_channels / deformable_groups channels.
    Inputs: (N, in_channels, H, W). Returns: (N, out_channels, ceil(H / stride), ceil(W / stride)) for odd kernels.
    Source: Dai et al. 2017, Deformable Convolutional Networks; Zhu et al. 2019, Deformable ConvNets v2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        with_modulated_dcn: bool = True,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
    ) -> None:
        from torchvision.ops import DeformConv2d

        super().__init__()
        if in_channels % deformable_groups:
            raise ValueError(
                f"{deformable_groups} deformable groups do not divide {in_channels} input channels; "
                "MODEL.RESNETS.DEFORMABLE_GROUPS has to be a divisor."
            )
        self.modulated = with_modulated_dcn
        self.samples = deformable_groups * kernel_size * kernel_size
        padding = dilation * (kernel_size - 1) // 2
        self.offset = nn.Conv2d(
            in_channels, self.samples * (3 if with_modulated_dcn else 2), kernel_size, stride, padding, dilation
        )
        self.conv = DeformConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=bias
        )
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Set the offsets to zero, and so sample on the plain grid."""
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        predicted = self.offset(features)
        if not self.modulated:
            convolved: Tensor = self.conv(features, predicted)
        else:
            offsets, factors = predicted.split([2 * self.samples, self.samples], dim=1)
            convolved = self.conv(features, offsets, factors.sigmoid())
        return convolved

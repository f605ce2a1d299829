"""Residual blocks of ResNet and HRNet."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from maskrcnn_benchmark.layers.deformable import DFConv2d
from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d, NormFactory


@dataclass(frozen=True)
class BottleneckSettings:
    """Settings of the bottlenecks of one stage.

    Attributes:
        norm: constructor of the norm layers.
        num_groups: groups of the 3x3 convolution; above 1 the network is a ResNeXt.
        stride_in_1x1: the first 1x1 convolution has the stride, as in the MSRA weights; else the 3x3 has it.
        deformable: the 3x3 convolution is deformable.
        modulated: see DFConv2d.
        deformable_groups: see DFConv2d.
    """

    norm: NormFactory
    num_groups: int = 1
    stride_in_1x1: bool = False
    deformable: bool = False
    modulated: bool = False
    deformable_groups: int = 1


class Bottleneck(nn.Module):
    """1x1 to few channels, 3x3, 1x1 to many channels, plus the input: (N, in, H, W) -> (N, out, H / stride, ...).

    Source: He et al. 2016, Deep Residual Learning; Xie et al. 2017 for the groups.
    """

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        out_channels: int,
        settings: BottleneckSettings,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        norm = settings.norm
        if in_channels != out_channels or stride != 1:
            self.downsample: nn.Module | None = projection(in_channels, out_channels, norm, stride)
        else:
            self.downsample = None
        stride_1x1, stride_3x3 = (stride, 1) if settings.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, bottleneck_channels, 1, stride=stride_1x1, bias=False)
        self.bn1 = norm(bottleneck_channels)
        self.conv2 = _conv3x3(bottleneck_channels, settings, stride=stride_3x3, dilation=dilation)
        self.bn2 = norm(bottleneck_channels)
        self.conv3 = nn.Conv2d(bottleneck_channels, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        # in place is safe: the backward of a convolution or a norm does not need its output
        out: Tensor = self.bn1(self.conv1(features)).relu_()
        out = self.bn2(self.conv2(out)).relu_()
        out = self.bn3(self.conv3(out))
        return out.add_(shortcut).relu_()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, plus the input: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        if in_channels != out_channels or stride != 1:
            self.downsample: nn.Module | None = projection(in_channels, out_channels, norm, stride)
        else:
            self.downsample = None

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out: Tensor = self.bn1(self.conv1(features)).relu_()
        out = self.bn2(self.conv2(out))
        return out.add_(shortcut).relu_()


def projection(in_channels: int, out_channels: int, norm: NormFactory, stride: int) -> nn.Sequential:
    """Shortcut of a block that changes the number of channels or the size."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels))


def _conv3x3(channels: int, settings: BottleneckSettings, *, stride: int, dilation: int) -> nn.Module:
    if not settings.deformable:
        return nn.Conv2d(
            channels,
            channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=settings.num_groups,
            bias=False,
        )
    return DFConv2d(
        channels,
        channels,
        stride=stride,
        dilation=dilation,
        groups=settings.num_groups,
        with_modulated_dcn=settings.modulated,
        deformable_groups=settings.deformable_groups,
    )


def init_body(body: nn.Module) -> None:
    """Initialise a body for training from scratch: normal weights by fan out (He et al. 2015).

    Frozen norms do not bring sums of branches back to unit variance. With them the weights are smaller, by the gain of
    a ReLU, so that activations stay finite through 150 layers of random weights.
    """
    learns_norms = not any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())
    nonlinearity: Literal["relu", "linear"] = "relu" if learns_norms else "linear"
    for module in body.modules():
        if isinstance(module, (nn.Conv2d, DeformConv2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity=nonlinearity)
    for module in body.modules():
        if isinstance(module, DFConv2d):
            module.reset_offsets()

"""Trunks of the refine head: features and indicators of the enlarged region to the features of every output.

A trunk maps (R, in_channels, M, M) to a list of `num_stacks` maps (R, out_channels, M, M). The last feeds the outputs;
those before it may be supervised in training.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import NormFactory, init_for_relu, norm_factory

if TYPE_CHECKING:
    from yacs.config import CfgNode


class ConvNorm(nn.Sequential):
    """Convolution that keeps the size (at stride 1), norm and, unless `relu` is off, ReLU; keys `conv` and `norm`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        norm: NormFactory | None = None,
        relu: bool = True,
    ) -> None:
        padding = kernel_size // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=norm is None)
        init_for_relu(conv)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm is not None:
            layers["norm"] = norm(out_channels)
        if relu:
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm: NormFactory | None = None
    ) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride=stride, norm=norm)
        self.second = ConvNorm(out_channels, out_channels, 3, norm=norm, relu=False)
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity()
            if same_shape
            else ConvNorm(in_channels, out_channels, 1, stride=stride, norm=norm, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


class Hourglass(nn.Module):
    """Down to a coarse view of the whole region and up again, with a shortcut at every resolution.

    Args:
        width: channels throughout.
        depth: number of halvings of the resolution.
    Inputs, returns: (R, width, M, M) for any M >= 1; an odd side is rounded up on the way down.
    Source: Newell et al. 2016, Stacked hourglass networks, figure 3.
    """

    def __init__(self, width: int, depth: int, *, norm: NormFactory | None = None) -> None:
        super().__init__()
        self.across = ResidualBlock(width, width, norm=norm)
        self.down = ResidualBlock(width, width, norm=norm)
        self.inner = Hourglass(width, depth - 1, norm=norm) if depth > 1 else ResidualBlock(width, width, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.inner(self.down(F.max_pool2d(x, 2, ceil_mode=True)))
        fine: Tensor = self.across(x)
        return fine + _resize_like(coarse, x)


class HourglassRefineFeatureExtractor(nn.Module):
    """A 1x1 projection to the trunk's width, then a sequence of hourglasses.

    Each hourglass reads the projection plus the output of the hourglass before it, after a 1x1 convolution.

    Args:
        in_channels: channels of features and indicators together.
        width: channels of the trunk.
        depth: halvings of the resolution inside an hourglass, at least 1.
        num_stacks: hourglasses, at least 1.
        norm: constructor of a norm after each convolution, or None.
    Source: Newell et al. 2016, Stacked hourglass networks.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int = 128,
        depth: int = 2,
        num_stacks: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        if depth < 1 or num_stacks < 1:
            raise ValueError(
                f"MODEL.ROI_REFINE_HEAD.DEPTH is {depth} and NUM_STACKS is {num_stacks}; an hourglass needs 1 or more "
                'of both. For a trunk without one set FEATURE_EXTRACTOR to "ConvRefineFeatureExtractor"'
            )
        self.stem = ConvNorm(in_channels, width, 1, norm=norm)
        self.hourglasses = nn.ModuleList(Hourglass(width, depth, norm=norm) for _ in range(num_stacks))
        self.outs = nn.ModuleList(ConvNorm(width, width, 1, norm=norm) for _ in range(num_stacks))
        self.merges = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(num_stacks - 1))
        self.out_channels = width
        self.num_stacks = num_stacks

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> HourglassRefineFeatureExtractor:
        node = cfg.MODEL.ROI_REFINE_HEAD
        return cls(
            in_channels,
            width=node.CONV_DIM,
            depth=node.DEPTH,
            num_stacks=node.NUM_STACKS,
            norm=norm_factory(node.NORM, cfg.MODEL.GROUP_NORM, key="MODEL.ROI_REFINE_HEAD.NORM"),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found: list[Tensor] = []
        for index, (hourglass, out) in enumerate(zip(self.hourglasses, self.outs, strict=True)):
            if index:
                x = x + self.merges[index - 1](found[-1])
            found.append(out(hourglass(x)))
        return found


class ConvRefineFeatureExtractor(nn.Module):
    """Plain 3x3 convolutions at one resolution, as in a mask head.

    Args:
        in_channels: channels of features and indicators together.
        width: channels of the trunk.
        num_convs: at least 1.
        norm: constructor of a norm after each convolution, or None.
    """

    num_stacks = 1

    def __init__(
        self, in_channels: int, *, width: int = 128, num_convs: int = 4, norm: NormFactory | None = None
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"MODEL.ROI_REFINE_HEAD.NUM_CONVS is {num_convs}; the plain trunk needs 1 or more")
        widths = [in_channels] + [width] * num_convs
        self.layers = nn.Sequential(
            *(ConvNorm(before, after, 3, norm=norm) for before, after in zip(widths[:-1], widths[1:], strict=True))
        )
        self.out_channels = width

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> ConvRefineFeatureExtractor:
        node = cfg.MODEL.ROI_REFINE_HEAD
        norm = norm_factory(node.NORM, cfg.MODEL.GROUP_NORM, key="MODEL.ROI_REFINE_HEAD.NORM")
        return cls(in_channels, width=node.CONV_DIM, num_convs=node.NUM_CONVS, norm=norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


class UNetRefineFeatureExtractor(nn.Module):
    """Residual blocks that stride down, twice as wide at each level, and up again over laterals.

    Unlike the hourglass it learns to downsample, and most of its weights are on the coarse levels, where they cost
    least and see most of the region.

    Args:
        in_channels: channels of features and indicators together.
        width: channels at full resolution.
        depth: halvings of the resolution, at least 1.
        norm: constructor of a norm after each convolution, or None.
    Source: Ronneberger et al. 2015, U-Net, with the blocks of He et al. 2016.
    """

    num_stacks = 1

    def __init__(self, in_channels: int, *, width: int = 128, depth: int = 2, norm: NormFactory | None = None) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"MODEL.ROI_REFINE_HEAD.DEPTH is {depth}; a down/up trunk needs 1 or more")
        widths = [width * 2**level for level in range(depth + 1)]  # fine to coarse
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.stem = ConvNorm(in_channels, width, 1, norm=norm)
        self.downs = nn.ModuleList(ResidualBlock(fine, coarse, stride=2, norm=norm) for fine, coarse in pairs)
        self.laterals = nn.ModuleList(ConvNorm(coarse, fine, 1, norm=norm, relu=False) for fine, coarse in pairs)
        self.ups = nn.ModuleList(ResidualBlock(fine, fine, norm=norm) for fine, _ in pairs)
        self.out_channels = width

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> UNetRefineFeatureExtractor:
        node = cfg.MODEL.ROI_REFINE_HEAD
        norm = norm_factory(node.NORM, cfg.MODEL.GROUP_NORM, key="MODEL.ROI_REFINE_HEAD.NORM")
        return cls(in_channels, width=node.CONV_DIM, depth=node.DEPTH, norm=norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [self.stem(x)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for lateral, up in zip(reversed(self.laterals), reversed(self.ups), strict=True):
            fine = levels.pop()
            x = up(F.relu(fine + _resize_like(lateral(x), fine)))
        return [x]


def _resize_like(x: Tensor, partner: Tensor) -> Tensor:
    """Bilinear, to the partner's height and width."""
    return F.interpolate(x, size=partner.shape[-2:], mode="bilinear", align_corners=False)


registry.ROI_REFINE_FEATURE_EXTRACTORS.register(
    "HourglassRefineFeatureExtractor", HourglassRefineFeatureExtractor.from_cfg
)
registry.ROI_REFINE_FEATURE_EXTRACTORS.register("ConvRefineFeatureExtractor", ConvRefineFeatureExtractor.from_cfg)
registry.ROI_REFINE_FEATURE_EXTRACTORS.register("UNetRefineFeatureExtractor", UNetRefineFeatureExtractor.from_cfg)

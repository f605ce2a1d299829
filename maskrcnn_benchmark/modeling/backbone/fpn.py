"""Feature pyramid network: maps of one width on every resolution of a body."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from maskrcnn_benchmark.layers.norm import NormFactory
from maskrcnn_benchmark.modeling.make_layers import conv_with_kaiming_uniform, norm_factory


class LastLevelMaxPool(nn.Module):
    """One more level: every second cell of the coarsest level."""

    num_levels = 1

    def forward(self, body_features: Tensor, pyramid_features: Tensor) -> list[Tensor]:
        return [F.max_pool2d(pyramid_features, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """Two more levels by strided 3x3 convolutions, as in RetinaNet.

    Args:
        in_channels: channels of the input: the coarsest map of the body or of the pyramid.
        out_channels: channels of both levels.
        from_body: the input is the coarsest map of the body; else of the pyramid.
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """

    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int, *, from_body: bool = True) -> None:
        super().__init__()
        self.from_body = from_body
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, body_features: Tensor, pyramid_features: Tensor) -> list[Tensor]:
        p6 = self.p6(body_features if self.from_body else pyramid_features)
        return [p6, self.p7(p6.relu())]


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down sum, and a 3x3 convolution per level.

    Coarser maps are resized to the size of the next finer map, so any image size works.

    Args:
        in_channels: channels of the maps of the body, finest first.
        out_channels: channels of every level.
        first_level: number of the finest map in the names of the weights, `fpn_inner1` and so on.
        norm: norm after each convolution, or None.
        relu: ReLU after each convolution.
        top_blocks: a module (coarsest map of the body, of the pyramid) -> coarser levels; it has `num_levels`.
    Inputs: maps (N, in_channels[i], H_i, W_i), finest first. Returns: (N, out_channels, H_i, W_i) and the top's levels.
    Source: Lin et al. 2017, Feature Pyramid Networks.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        first_level: int = 1,
        norm: NormFactory | None = None,
        relu: bool = False,
        top_blocks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        make_conv = conv_with_kaiming_uniform(norm, relu)
        self.inner_blocks: list[str] = []
        self.layer_blocks: list[str] = []
        for level, channels in enumerate(in_channels, start=first_level):
            self.inner_blocks.append(f"fpn_inner{level}")
            self.layer_blocks.append(f"fpn_layer{level}")
            self.add_module(self.inner_blocks[-1], make_conv(channels, out_channels, 1))
            self.add_module(self.layer_blocks[-1], make_conv(out_channels, out_channels, 3))
        self.top_blocks = top_blocks

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        laterals = [getattr(self, name)(level) for name, level in zip(self.inner_blocks, features, strict=True)]
        merged = laterals[-1:]
        for lateral in reversed(laterals[:-1]):
            coarser = F.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, coarser.add_(lateral))
        outputs = [getattr(self, name)(level) for name, level in zip(self.layer_blocks, merged, strict=True)]
        if self.top_blocks is not None:
            outputs.extend(self.top_blocks(features[-1], outputs[-1]))
        return outputs

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: Sequence[int], *, first_level: int = 1, top_blocks: nn.Module | None = None
    ) -> "FPN":
        """The pyramid as configured; without `top_blocks` it has one more level, by `LastLevelMaxPool`."""
        node = cfg.MODEL.FPN
        return cls(
            in_channels,
            cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS,
            first_level=first_level,
            norm=norm_factory(node.NORM or ("GN" if node.USE_GN else ""), cfg.MODEL.GROUP_NORM, key="MODEL.FPN.NORM"),
            relu=node.USE_RELU,
            top_blocks=LastLevelMaxPool() if top_blocks is None else top_blocks,
        )

"""HRFPN: the neck that makes a pyramid of one width from the branches of HRNet."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from maskrcnn_benchmark.layers.norm import NormFactory
from maskrcnn_benchmark.modeling.make_layers import conv_with_kaiming_uniform, norm_factory
from maskrcnn_benchmark.utils.problems import check_choice, check_range, config_problem

POOLINGS: dict[str, Callable[..., Tensor]] = {"AVG": F.avg_pool2d, "MAX": F.max_pool2d}


class HRFPN(nn.Module):
    """Concatenate all branches at the finest resolution, reduce them to one map, and pool it to levels.

    Each level is the reduced map pooled by a power of two, rounded down, then convolved by its own 3x3 kernel. The
    reduction is a 1x1 convolution, which commutes with resizing: each branch is reduced at its own resolution, then
    enlarged and added. The result is the same, with a fraction of the multiplications and without the wide concatenated
    map.

    Args:
        in_channels: channels of the branches, finest first.
        out_channels: channels of every level.
        num_outs: number of levels; their strides are `stride` * (1, 2, 4, ...) times the finest branch's.
        pooling: "AVG" or "MAX".
        stride: stride of the 3x3 convolutions; 2 makes every level half as fine.
        norm: norm after each convolution, or None.
    Inputs: (N, in_channels[i], H_i, W_i), finest first, any sizes. Returns: (N, out_channels, H_0 // 2**i, ...), at
        least one cell: a map smaller than the window is pooled whole.
    Source: Wang et al. 2020, Deep High-Resolution Representation Learning for Visual Recognition (HRNetV2p).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        num_outs: int = 5,
        pooling: str = "AVG",
        stride: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"MODEL.NECK.POOLING is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.pooling = pooling
        self.stride = stride
        make_conv = conv_with_kaiming_uniform(norm)
        # one entry, or two with a norm: in released weights the convolution is reduction_conv.0
        reduction = make_conv(sum(self.in_channels), out_channels, 1)
        self.reduction_conv = reduction if isinstance(reduction, nn.Sequential) else nn.Sequential(reduction)
        self.fpn_conv = nn.ModuleList(make_conv(out_channels, out_channels, 3, stride) for _ in range(num_outs))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        finest = self._reduce(features)
        levels = [finest, *(self._pool(finest, 2**level) for level in range(1, len(self.fpn_conv)))]
        return [conv(level) for conv, level in zip(self.fpn_conv, levels, strict=True)]

    def _pool(self, finest: Tensor, side: int) -> Tensor:
        window = (min(side, finest.shape[-2]), min(side, finest.shape[-1]))
        return POOLINGS[self.pooling](finest, kernel_size=window, stride=window)

    def _reduce(self, features: Sequence[Tensor]) -> Tensor:
        conv, *norm = self.reduction_conv
        assert isinstance(conv, nn.Conv2d)
        size_hw = features[0].shape[-2:]
        weights = conv.weight.split(self.in_channels, dim=1)
        total = F.conv2d(features[0], weights[0], conv.bias)
        for branch, weight in zip(features[1:], weights[1:], strict=True):
            reduced = F.conv2d(branch, weight)
            total.add_(F.interpolate(reduced, size=size_hw, mode="bilinear", align_corners=False))
        return norm[0](total) if norm else total

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: Sequence[int]) -> "HRFPN":
        node = cfg.MODEL.NECK
        if node.IN_CHANNELS and tuple(node.IN_CHANNELS) != tuple(in_channels):
            config_problem(
                f"MODEL.NECK.IN_CHANNELS is {tuple(node.IN_CHANNELS)}, the body's branches have {tuple(in_channels)} "
                "channels (MODEL.HRNET.STAGE4.NUM_CHANNELS, four times that for bottlenecks); set it to these, or to "
                "() for the channels of the body."
            )
        pooling = node.POOLING.strip().upper()
        check_choice("MODEL.NECK.POOLING", pooling, POOLINGS)
        check_range("MODEL.NECK.STRIDE", node.STRIDE, 1)
        return cls(
            in_channels,
            node.OUT_CHANNELS,
            num_outs=node.NUM_OUTS,
            pooling=pooling,
            stride=node.STRIDE,
            norm=norm_factory(node.NORM, cfg.MODEL.GROUP_NORM, key="MODEL.NECK.NORM"),
        )

"""ResNet and ResNeXt bodies, and their last stage as the RoI head of C4 models.

Names in checkpoints: `stem.conv1`, `stem.bn1`, `layer{1-4}.{block}.{conv,bn}{1-3}`, `downsample.{0,1}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from maskrcnn_benchmark.layers.norm import NormFactory, freeze
from maskrcnn_benchmark.modeling.backbone.blocks import Bottleneck, BottleneckSettings, init_body
from maskrcnn_benchmark.modeling.make_layers import norm_eps, norm_factory
from maskrcnn_benchmark.utils.problems import check_choice, config_problem

# Blocks of layer1, layer2, ... by depth. Source: He et al. 2016, table 1.
BLOCKS_OF_DEPTH = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# The norm of each value of MODEL.RESNETS.TRANS_FUNC and STEM_FUNC.
NORM_OF_TRANSFORMATION = {"BottleneckWithFixedBatchNorm": "FrozenBN", "BottleneckWithGN": "GN"}
NORM_OF_STEM = {"StemWithFixedBatchNorm": "FrozenBN", "StemWithGN": "GN"}


@dataclass(frozen=True)
class StageGeometry:
    """Shape of one stage.

    Attributes:
        num_blocks: residual blocks.
        in_channels: channels of the input.
        bottleneck_channels: channels of the 3x3 convolutions.
        out_channels: channels of the output.
        stride: stride of the first block.
        dilation: dilation of the 3x3 convolutions.
    """

    num_blocks: int
    in_channels: int
    bottleneck_channels: int
    out_channels: int
    stride: int
    dilation: int = 1


def stage_geometries(
    num_blocks: Sequence[int],
    *,
    stem_channels: int = 64,
    res2_channels: int = 256,
    bottleneck_channels: int = 64,
    last_dilation: int = 1,
) -> list[StageGeometry]:
    """The stages of a ResNet. Each stage but the first halves the resolution, and each doubles the channels.

    With `last_dilation` above 1 the fourth stage is dilated and keeps the resolution.
    """
    stages = []
    in_channels = stem_channels
    for index, blocks in enumerate(num_blocks):
        factor = 2**index
        dilation = last_dilation if index == 3 else 1
        stride = 1 if index == 0 or dilation > 1 else 2
        out_channels = res2_channels * factor
        stages.append(StageGeometry(blocks, in_channels, bottleneck_channels * factor, out_channels, stride, dilation))
        in_channels = out_channels
    return stages


def make_stage(geometry: StageGeometry, settings: BottleneckSettings) -> nn.Sequential:
    """The bottlenecks of one stage, in sequence."""
    blocks = []
    for index in range(geometry.num_blocks):
        first = index == 0
        blocks.append(
            Bottleneck(
                geometry.in_channels if first else geometry.out_channels,
                geometry.bottleneck_channels,
                geometry.out_channels,
                settings,
                stride=geometry.stride if first else 1,
                dilation=geometry.dilation,
            )
        )
    return nn.Sequential(*blocks)


class Stem(nn.Module):
    """7x7 convolution and max pooling: images (N, 3, H, W) -> (N, out_channels, H / 4, W / 4), rounded up."""

    def __init__(self, out_channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, out_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images)).relu_()
        return F.max_pool2d(features, kernel_size=3, stride=2, padding=1)


class ResNet(nn.Module):
    """Stem and stages. Returns the features of the chosen stages, finest first.

    Args:
        stages: shapes of layer1, layer2, ...
        settings: settings of the bottlenecks, for all stages or one for each.
        stem_norm: norm of the stem.
        return_stages: numbers of the returned stages, from 1.
        frozen_parts: number of frozen parts: 1 is the stem, 2 the stem and layer1, ...
    Attributes:
        out_channels: channels of each returned map.
        strides: image pixels per cell of each returned map.
    Inputs: images (N, 3, H, W). Returns: one (N, C, H / stride, W / stride) per returned stage, sizes rounded up.
    """

    def __init__(
        self,
        stages: Sequence[StageGeometry],
        settings: BottleneckSettings | Sequence[BottleneckSettings],
        *,
        stem_norm: NormFactory,
        return_stages: Sequence[int],
        frozen_parts: int = 0,
    ) -> None:
        super().__init__()
        settings_of_stages = [settings] * len(stages) if isinstance(settings, BottleneckSettings) else settings
        self.stem = Stem(stages[0].in_channels, stem_norm)
        self.stages = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, geometry, settings_of_stage in zip(self.stages, stages, settings_of_stages, strict=True):
            self.add_module(name, make_stage(geometry, settings_of_stage))
        init_body(self)
        _freeze_parts(self, ["stem", *self.stages], frozen_parts)

        self.returned = {self.stages[number - 1] for number in return_stages}
        strides = [4]
        for geometry in stages:
            strides.append(strides[-1] * geometry.stride)
        self.out_channels = tuple(stages[number - 1].out_channels for number in return_stages)
        self.strides = tuple(strides[number] for number in return_stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stem(images)
        outputs = []
        for name in self.stages:
            features = getattr(self, name)(features)
            if name in self.returned:
                outputs.append(features)
        return outputs

    @classmethod
    def from_cfg(cls, cfg: CfgNode, *, depth: int, return_stages: Sequence[int]) -> "ResNet":
        node = cfg.MODEL.RESNETS
        last_stage = max(return_stages)
        return cls(
            _geometries_from_cfg(cfg, depth)[:last_stage],
            [_settings_from_cfg(cfg, deformable) for deformable in node.STAGE_WITH_DCN[:last_stage]],
            stem_norm=_norm_from_cfg(cfg, "STEM_FUNC", NORM_OF_STEM),
            return_stages=return_stages,
            frozen_parts=cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT,
        )


class ResNetHead(nn.Module):
    """The last stage as a head on pooled features: (R, in_channels, S, S) -> (R, out_channels, S / stride, S / stride).

    C4 models run it on every RoI. It starts with the weights of layer4 of the classification network.
    """

    def __init__(self, geometry: StageGeometry, settings: BottleneckSettings) -> None:
        super().__init__()
        self.in_channels = geometry.in_channels
        self.out_channels = geometry.out_channels
        self.stride = geometry.stride
        self.layer4 = make_stage(geometry, settings)
        init_body(self)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.layer4(features)
        return out

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "ResNetHead":
        # the last stage has three blocks at every depth
        geometry = _geometries_from_cfg(cfg, depth=50)[-1]
        return cls(geometry, _settings_from_cfg(cfg, cfg.MODEL.RESNETS.STAGE_WITH_DCN[-1]))


def _geometries_from_cfg(cfg: CfgNode, depth: int) -> list[StageGeometry]:
    node = cfg.MODEL.RESNETS
    return stage_geometries(
        BLOCKS_OF_DEPTH[depth],
        stem_channels=node.STEM_OUT_CHANNELS,
        res2_channels=node.RES2_OUT_CHANNELS,
        bottleneck_channels=node.NUM_GROUPS * node.WIDTH_PER_GROUP,
        last_dilation=node.RES5_DILATION,
    )


def _settings_from_cfg(cfg: CfgNode, deformable: bool) -> BottleneckSettings:
    node = cfg.MODEL.RESNETS
    return BottleneckSettings(
        norm=_norm_from_cfg(cfg, "TRANS_FUNC", NORM_OF_TRANSFORMATION),
        num_groups=node.NUM_GROUPS,
        stride_in_1x1=node.STRIDE_IN_1X1,
        deformable=deformable,
        modulated=node.WITH_MODULATED_DCN,
        deformable_groups=node.DEFORMABLE_GROUPS,
    )


def _norm_from_cfg(cfg: CfgNode, key: str, norms: dict[str, str]) -> NormFactory:
    """The norm of MODEL.RESNETS.NORM or, if that is empty, of MODEL.RESNETS.<key>."""
    node = cfg.MODEL.RESNETS
    check_choice(f"MODEL.RESNETS.{key}", node[key], norms)
    name = node.NORM or norms.get(node[key], "FrozenBN")
    eps = norm_eps(cfg, "RESNETS")
    if eps is None and name == "FrozenBN":
        eps = 0.0  # the released ResNet weights were folded with an epsilon of 0
    factory = norm_factory(name, cfg.MODEL.GROUP_NORM, eps=eps, key="MODEL.RESNETS.NORM")
    assert factory is not None
    return factory


def _freeze_parts(body: nn.Module, names: Sequence[str], count: int) -> None:
    if not 0 <= count <= len(names):
        config_problem(
            f"MODEL.BACKBONE.FREEZE_CONV_BODY_AT is {count}, but this body has the parts {', '.join(names)}; "
            f"expected a number from 0 (all learn) to {len(names)} (none does)."
        )
    for name in names[:count]:
        setattr(body, name, freeze(getattr(body, name)))

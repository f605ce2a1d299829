"""Box feature extractors: RoIs to the input of the box predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone.resnet import ResNetHead
from maskrcnn_benchmark.modeling.make_layers import NormFactory, make_conv3x3, make_fc, norm_factory
from maskrcnn_benchmark.modeling.poolers import Pooler
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


class ResNet50Conv5ROIFeatureExtractor(nn.Module):
    """ROIAlign, then the last stage of a ResNet on every region.

    Args:
        pooler: callable (features, rois) -> (R, C, S, S).
        head: (R, C, S, S) -> (R, out_channels, S / 2, S / 2).
    Attributes:
        resolution: cells per side of the result.
    Inputs: features, L maps (N, C, H_l, W_l); rois (R, 5) or N BoxLists. Returns: output of `head`.
    """

    def __init__(self, pooler: Pooler, head: ResNetHead) -> None:
        super().__init__()
        self.pooler = pooler
        self.head = head
        self.out_channels = head.out_channels
        self.resolution = -(-pooler.output_size[0] // head.stride)

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, section: str = "ROI_BOX_HEAD"
    ) -> ResNet50Conv5ROIFeatureExtractor:
        """With the pooler of MODEL.<section>. The mask head's is the box head's too, as in upstream."""
        head = ResNetHead.from_cfg(cfg)
        if head.in_channels != in_channels:
            raise ValueError(
                f"ResNet50Conv5ROIFeatureExtractor is a ResNet's last stage for {head.in_channels} channels "
                f"(MODEL.RESNETS.RES2_OUT_CHANNELS), the backbone gives {in_channels}; use it with the bodies R-*-C4"
            )
        return cls(Pooler.from_cfg(cfg, section), head)

    def forward(self, features: Sequence[Tensor], rois: Tensor | Sequence[BoxList]) -> Tensor:
        x: Tensor = self.head(self.pooler(features, rois))
        return x


class FPN2MLPFeatureExtractor(nn.Module):
    """ROIAlign, then two fully connected layers.

    Args:
        in_channels: C, channels of every feature level.
        pooler: callable (features, rois) -> (R, C, *pooler.output_size).
        width: output features of both layers.
        norm: constructor of a norm after each layer, or None.
    Inputs: features, L maps (N, C, H_l, W_l); rois (R, 5) or N BoxLists. Returns: (R, width), not negative.
    """

    def __init__(self, in_channels: int, *, pooler: Pooler, width: int, norm: NormFactory | None = None) -> None:
        super().__init__()
        self.pooler = pooler
        self.fc6 = make_fc(in_channels * pooler.output_size[0] * pooler.output_size[1], width, norm=norm)
        self.fc7 = make_fc(width, width, norm=norm)
        self.out_channels = width

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> FPN2MLPFeatureExtractor:
        node = cfg.MODEL.ROI_BOX_HEAD
        return cls(in_channels, pooler=Pooler.from_cfg(cfg, "ROI_BOX_HEAD"), width=node.MLP_HEAD_DIM, norm=_norm(cfg))

    def forward(self, features: Sequence[Tensor], rois: Tensor | Sequence[BoxList]) -> Tensor:
        x = self.pooler(features, rois).flatten(1)
        return F.relu(self.fc7(F.relu(self.fc6(x))))


class FPNXconv1fcFeatureExtractor(nn.Module):
    """ROIAlign, then some 3x3 convolutions and one fully connected layer.

    Args:
        in_channels: C, channels of every feature level.
        pooler: callable (features, rois) -> (R, C, *pooler.output_size).
        num_convs: number of convolutions.
        conv_width: their output channels.
        dilation: their dilation.
        width: output features of the fully connected layer.
        norm: constructor of a norm after each convolution, or None.
    Inputs: features, L maps (N, C, H_l, W_l); rois (R, 5) or N BoxLists. Returns: (R, width), not negative.
    Source: Wu and He 2018, Group Normalization, section 4.2 (4conv1fc).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        pooler: Pooler,
        num_convs: int,
        conv_width: int,
        width: int,
        dilation: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        layers: list[nn.Module] = []
        for index in range(num_convs):
            channels = in_channels if index == 0 else conv_width
            conv = make_conv3x3(channels, conv_width, dilation=dilation, norm=norm, relu=True, kaiming_init=False)
            layers += conv.children()  # flat: in checkpoints each convolution, norm and ReLU has its own index
        self.xconvs = nn.Sequential(*layers)
        pooled_width = conv_width if num_convs else in_channels
        self.fc6 = make_fc(pooled_width * pooler.output_size[0] * pooler.output_size[1], width)
        self.out_channels = width

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> FPNXconv1fcFeatureExtractor:
        node = cfg.MODEL.ROI_BOX_HEAD
        return cls(
            in_channels,
            pooler=Pooler.from_cfg(cfg, "ROI_BOX_HEAD"),
            num_convs=node.NUM_STACKED_CONVS,
            conv_width=node.CONV_HEAD_DIM,
            width=node.MLP_HEAD_DIM,
            dilation=node.DILATION,
            norm=_norm(cfg),
        )

    def forward(self, features: Sequence[Tensor], rois: Tensor | Sequence[BoxList]) -> Tensor:
        return F.relu(self.fc6(self.xconvs(self.pooler(features, rois)).flatten(1)))


registry.ROI_BOX_FEATURE_EXTRACTORS.register(
    "ResNet50Conv5ROIFeatureExtractor", ResNet50Conv5ROIFeatureExtractor.from_cfg
)
registry.ROI_BOX_FEATURE_EXTRACTORS.register("FPN2MLPFeatureExtractor", FPN2MLPFeatureExtractor.from_cfg)
registry.ROI_BOX_FEATURE_EXTRACTORS.register("FPNXconv1fcFeatureExtractor", FPNXconv1fcFeatureExtractor.from_cfg)


def _norm(cfg: CfgNode) -> NormFactory | None:
    return norm_factory("GN" if cfg.MODEL.ROI_BOX_HEAD.USE_GN else "", cfg.MODEL.GROUP_NORM)

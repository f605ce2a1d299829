"""Mask feature extractors: pooled RoI features (R, C, S, S) to the input of the mask predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import NormFactory, make_conv3x3, norm_factory
from maskrcnn_benchmark.modeling.poolers import Pooler
from maskrcnn_benchmark.modeling.roi_heads.box_head.roi_box_feature_extractors import ResNet50Conv5ROIFeatureExtractor

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MaskRCNNFPNFeatureExtractor(nn.Module):
    """ROIAlign over the pyramid, then a stack of 3x3 convolutions, `mask_fcn1` and on.

    Args:
        in_channels: channels of every feature level.
        pooler: callable (features, rois) -> (R, in_channels, S, S).
        widths: output channels of each convolution.
        dilation: of every convolution; the resolution stays S.
        norm: constructor of a norm after each convolution, which then has no bias; or None.
    Attributes:
        resolution: S, cells per side of the result.
    Inputs: features, L maps (N, in_channels, H_l, W_l); rois (R, 5), each (image index, x1, y1, x2, y2) in pixels.
    Returns: (R, widths[-1], S, S), not negative.
    Source: He et al. 2017, Mask R-CNN, figure 4 (right).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        pooler: Pooler,
        widths: Sequence[int] = (256, 256, 256, 256),
        dilation: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.layer_names = [f"mask_fcn{index}" for index in range(1, len(widths) + 1)]
        channels = in_channels
        for name, width in zip(self.layer_names, widths, strict=True):
            self.add_module(name, make_conv3x3(channels, width, dilation=dilation, norm=norm))
            channels = width
        self.out_channels = channels
        self.resolution = pooler.output_size[0]

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, section: str = "ROI_MASK_HEAD") -> MaskRCNNFPNFeatureExtractor:
        """With the keys of MODEL.<section>."""
        node = cfg.MODEL[section]
        return cls(
            in_channels,
            pooler=Pooler.from_cfg(cfg, section),
            widths=node.CONV_LAYERS,
            dilation=node.DILATION,
            norm=norm_factory("GN" if node.USE_GN else "", cfg.MODEL.GROUP_NORM),
        )

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        x: Tensor = self.pooler(features, rois)
        for name in self.layer_names:
            x = F.relu(getattr(self, name)(x))
        return x


registry.ROI_MASK_FEATURE_EXTRACTORS.register(
    "ResNet50Conv5ROIFeatureExtractor", ResNet50Conv5ROIFeatureExtractor.from_cfg
)
registry.ROI_MASK_FEATURE_EXTRACTORS.register("MaskRCNNFPNFeatureExtractor", MaskRCNNFPNFeatureExtractor.from_cfg)

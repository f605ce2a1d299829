"""Keypoint feature extractors: pooled RoI features (R, C, S, S) to the input of the keypoint predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import make_conv3x3
from maskrcnn_benchmark.modeling.poolers import Pooler

if TYPE_CHECKING:
    from yacs.config import CfgNode


class KeypointRCNNFeatureExtractor(nn.Module):
    """ROIAlign over the pyramid, then a stack of 3x3 convolutions, `conv_fcn1` and on.

    Args:
        in_channels: channels of every feature level.
        pooler: callable (features, rois) -> (R, in_channels, S, S).
        widths: output channels of each convolution.
    Attributes:
        resolution: S, cells per side of the result.
    Inputs: features, L maps (N, in_channels, H_l, W_l); rois (R, 5), each (image index, x1, y1, x2, y2) in pixels.
    Returns: (R, widths[-1], S, S), not negative.
    Source: He et al. 2017, Mask R-CNN, section 5.
    """

    def __init__(self, in_channels: int, *, pooler: Pooler, widths: Sequence[int] = (512,) * 8) -> None:
        super().__init__()
        self.pooler = pooler
        self.layer_names = [f"conv_fcn{index}" for index in range(1, len(widths) + 1)]
        channels = in_channels
        for name, width in zip(self.layer_names, widths, strict=True):
            self.add_module(name, make_conv3x3(channels, width))
            channels = width
        self.out_channels = channels
        self.resolution = pooler.output_size[0]

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> KeypointRCNNFeatureExtractor:
        node = cfg.MODEL.ROI_KEYPOINT_HEAD
        return cls(in_channels, pooler=Pooler.from_cfg(cfg, "ROI_KEYPOINT_HEAD"), widths=node.CONV_LAYERS)

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        x: Tensor = self.pooler(features, rois)
        for name in self.layer_names:
            x = F.relu(getattr(self, name)(x))
        return x


registry.ROI_KEYPOINT_FEATURE_EXTRACTORS.register("KeypointRCNNFeatureExtractor", KeypointRCNNFeatureExtractor.from_cfg)

"""Mask predictors: (R, C, S, S) features to one map of logits per class, with an unused one for the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import init_for_relu

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MaskRCNNC4Predictor(nn.Module):
    """Double the resolution by a transposed convolution, then classify every cell: (R, C, S, S) -> (R, J, 2S, 2S).

    Args:
        in_channels: channels of the features.
        width: channels between the two layers.
        num_classes: J, background included; channel 0 is neither trained nor read.
    Attributes:
        upsampling: cells of the result per cell of the features, along a side.
    """

    upsampling = 2

    def __init__(self, in_channels: int, *, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, width, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(width, num_classes, 1)
        init_for_relu(self.conv5_mask)
        init_for_relu(self.mask_fcn_logits)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> MaskRCNNC4Predictor:
        return cls(
            in_channels,
            width=cfg.MODEL.ROI_MASK_HEAD.CONV_LAYERS[-1],
            num_classes=cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES,
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(F.relu(self.conv5_mask(x)))
        return logits


class MaskRCNNConv1x1Predictor(nn.Module):
    """Classify every cell at its resolution: (R, C, S, S) -> (R, J, S, S), with a map for the background."""

    upsampling = 1

    def __init__(self, in_channels: int, *, num_classes: int) -> None:
        super().__init__()
        self.mask_fcn_logits = nn.Conv2d(in_channels, num_classes, 1)
        init_for_relu(self.mask_fcn_logits)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> MaskRCNNConv1x1Predictor:
        return cls(in_channels, num_classes=cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(x)
        return logits


registry.ROI_MASK_PREDICTOR.register("MaskRCNNC4Predictor", MaskRCNNC4Predictor.from_cfg)
registry.ROI_MASK_PREDICTOR.register("MaskRCNNConv1x1Predictor", MaskRCNNConv1x1Predictor.from_cfg)

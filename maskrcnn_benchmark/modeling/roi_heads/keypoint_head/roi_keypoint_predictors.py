"""Keypoint predictors: (R, C, S, S) features to one heat map of logits per keypoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import init_for_relu
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import MSE

if TYPE_CHECKING:
    from yacs.config import CfgNode

# As HRNet's. Heights are mostly 0, and with Kaiming's weights the squared error is a hundred times as large at first.
_HEIGHTS_INIT_STD = 0.001


class KeypointRCNNPredictor(nn.Module):
    """A transposed convolution to one map per keypoint, then twice the size again: (R, C, S, S) -> (R, K, 4S, 4S).

    Args:
        in_channels: channels of the features.
        num_keypoints: K.
        init_std: standard deviation of the first weights; None for Kaiming's.
    Attributes:
        upsampling: cells of the result per cell of the features, along a side.
    Source: He et al. 2017, Mask R-CNN, section 5.
    """

    upsampling = 4

    def __init__(self, in_channels: int, *, num_keypoints: int, init_std: float | None = None) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)
        init_for_relu(self.kps_score_lowres)
        if init_std is not None:
            nn.init.normal_(self.kps_score_lowres.weight, std=init_std)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> KeypointRCNNPredictor:
        node = cfg.MODEL.ROI_KEYPOINT_HEAD
        init_std = _HEIGHTS_INIT_STD if node.LOSS == MSE else None
        return cls(in_channels, num_keypoints=node.NUM_CLASSES, init_std=init_std)

    def forward(self, x: Tensor) -> Tensor:
        # a fixed factor, as upstream: there is no partner to take a size from
        return F.interpolate(self.kps_score_lowres(x), scale_factor=2, mode="bilinear", align_corners=False)


registry.ROI_KEYPOINT_PREDICTOR.register("KeypointRCNNPredictor", KeypointRCNNPredictor.from_cfg)

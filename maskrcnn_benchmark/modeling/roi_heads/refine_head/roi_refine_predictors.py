"""Refine predictors: the trunk's features to a correction of each output, at twice the resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.make_layers import init_for_relu

if TYPE_CHECKING:
    from yacs.config import CfgNode

MASK, KEYPOINT = "mask", "keypoint"  # outputs and indicators, as the configuration names them


class RefineOutput(nn.Module):
    """A transposed convolution to twice the resolution, then a 1x1 convolution that starts at zero.

    Neighbouring cells of the result overlap in what they see (kernel 4, stride 2), so that contours come out smooth.

    Args:
        in_channels: channels of the trunk.
        width: channels at the doubled resolution.
        out_channels: maps to predict.
    Inputs: (R, in_channels, M, M). Returns: (R, out_channels, 2M, 2M), zeros before any training.
    """

    def __init__(self, in_channels: int, *, width: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, width, 4, stride=2, padding=1)
        self.logits = nn.Conv2d(width, out_channels, 1)
        init_for_relu(self.upsample)
        for parameter in self.logits.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.relu(self.upsample(x)))


class RefinePredictor(nn.Module):
    """One `RefineOutput` per output, each under its own name in the file format.

    Args:
        in_channels: channels of the trunk.
        maps: output ("mask", "keypoint") -> number of maps: classes with background, or keypoints.
        width: channels of each output at the doubled resolution; None for half of in_channels.
    Inputs: (R, in_channels, M, M). Returns: output -> (R, maps, 2M, 2M) corrections of logits.
    """

    def __init__(self, in_channels: int, *, maps: Mapping[str, int], width: int | None = None) -> None:
        super().__init__()
        width = max(in_channels // 2, 1) if width is None else width
        self.outputs = nn.ModuleDict(
            {name: RefineOutput(in_channels, width=width, out_channels=count) for name, count in maps.items()}
        )

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> RefinePredictor:
        counts = {MASK: cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, KEYPOINT: cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES}
        return cls(in_channels, maps={name: counts[name] for name in cfg.MODEL.ROI_REFINE_HEAD.OUTPUTS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: output(x) for name, output in self.outputs.items()}


registry.ROI_REFINE_PREDICTOR.register("RefinePredictor", RefinePredictor.from_cfg)


def make_roi_refine_predictor(cfg: CfgNode, in_channels: int) -> nn.Module:
    """What `MODEL.ROI_REFINE_HEAD.PREDICTOR` names, for a trunk of `in_channels`."""
    return registry.ROI_REFINE_PREDICTOR[cfg.MODEL.ROI_REFINE_HEAD.PREDICTOR](cfg, in_channels)

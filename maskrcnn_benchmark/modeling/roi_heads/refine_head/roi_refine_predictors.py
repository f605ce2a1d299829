"""Refine predictors: the trunk's features to a correction of each output, at twice the resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry

if TYPE_CHECKING:
    from yacs.config import CfgNode

MASK, KEYPOINT = "mask", "keypoint"  # outputs and indicators, as the configuration names them


class RefineOutput(nn.Module):
    """A transposed convolution to maps of twice the resolution, which starts at zero.

    Neighbouring cells of the result overlap in what they see (kernel 4, stride 2), so that contours come out smooth.

    Args:
        in_channels: channels of the trunk.
        num_maps: maps to predict.
    Inputs: (R, in_channels, M, M). Returns: (R, num_maps, 2M, 2M), zeros before any training.
    """

    def __init__(self, in_channels: int, num_maps: int) -> None:
        super().__init__()
        self.logits = nn.ConvTranspose2d(in_channels, num_maps, 4, stride=2, padding=1)
        for parameter in self.logits.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


class RefinePredictor(nn.Module):
    """One `RefineOutput` per output, each under its own name in the file format.

    Args:
        in_channels: channels of the trunk.
        maps: output ("mask", "keypoint") -> number of maps: classes with background, or keypoints.
    Inputs: (R, in_channels, M, M). Returns: output -> (R, maps, 2M, 2M) corrections of logits.
    """

    def __init__(self, in_channels: int, *, maps: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = nn.ModuleDict({name: RefineOutput(in_channels, count) for name, count in maps.items()})

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

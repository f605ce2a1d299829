"""Refine predictors: the trunk's features to a correction of each output, at twice the resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry

if TYPE_CHECKING:
    from yacs.config import CfgNode


class RefineOutput(nn.Module):
    """A transposed convolution to maps of twice the resolution, which starts at zero.

    Neighbouring cells of the result share inputs (kernel 4, stride 2), which keeps contours smooth.

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
        logits: Tensor = self.logits(x)
        return logits


class RefinePredictor(nn.Module):
    """One `RefineOutput` per output; the names of the outputs are part of the state-dict keys.

    Args:
        in_channels: channels of the trunk.
        maps: name of the output -> number of maps: classes with the background, or keypoints.
    Inputs: (R, in_channels, M, M). Returns: name -> (R, maps, 2M, 2M) corrections of logits.
    """

    def __init__(self, in_channels: int, *, maps: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = nn.ModuleDict({name: RefineOutput(in_channels, count) for name, count in maps.items()})

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, maps: Mapping[str, int]) -> RefinePredictor:
        return cls(in_channels, maps=maps)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: output(x) for name, output in self.outputs.items()}


registry.ROI_REFINE_PREDICTOR.register("RefinePredictor", RefinePredictor.from_cfg)

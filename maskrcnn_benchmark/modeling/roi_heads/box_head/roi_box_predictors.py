"""Box predictors: features of a RoI to class logits and box deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry

if TYPE_CHECKING:
    from yacs.config import CfgNode


class FPNPredictor(nn.Module):
    """Two linear layers on the same features.

    Args:
        in_channels: C.
        num_classes: J, with the background.
        num_box_sets: sets of deltas: J, or 2 if all classes share one (the first is the background's and is unused).
    Inputs: (R, C), or (R, C, S, S), which is averaged over the grid.
    Returns: class logits (R, J) and deltas (R, 4 * num_box_sets).
    """

    def __init__(self, in_channels: int, num_classes: int, num_box_sets: int | None = None) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * (num_box_sets or num_classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> FPNPredictor:
        num_classes = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
        return cls(in_channels, num_classes, 2 if cfg.MODEL.CLS_AGNOSTIC_BBOX_REG else num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if features.dim() == 4:
            features = features.mean(dim=(2, 3))
        return self.cls_score(features), self.bbox_pred(features)


class FastRCNNPredictor(FPNPredictor):
    """`FPNPredictor` by its name in the configs of C4 models."""


registry.ROI_BOX_PREDICTOR.register("FPNPredictor", FPNPredictor.from_cfg)
registry.ROI_BOX_PREDICTOR.register("FastRCNNPredictor", FastRCNNPredictor.from_cfg)

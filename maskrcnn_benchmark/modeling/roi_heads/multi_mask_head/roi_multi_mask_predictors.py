"""Multi-mask predictors: (R, C, S, S) features to the maps of all masks, the classes of the first mask first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.mask_head.roi_mask_predictors import MaskRCNNC4Predictor

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MultiMaskRCNNPredictor(MaskRCNNC4Predictor):
    """The mask head's predictor with J maps for each of T masks: (R, C, S, S) -> (R, T * J, 2S, 2S).

    Map t * J + j is that of mask t and class j. The masks share all but the last layer, a 1x1 convolution.

    Args:
        in_channels: channels of the features.
        width: channels between the two layers.
        num_masks: T.
        num_classes: J, background included; 1 for masks that do not depend on the class.
    """

    def __init__(self, in_channels: int, *, width: int, num_masks: int, num_classes: int) -> None:
        super().__init__(in_channels, width=width, num_classes=num_masks * num_classes)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> MultiMaskRCNNPredictor:
        node = cfg.MODEL.ROI_MULTI_MASK_HEAD
        return cls(
            in_channels,
            width=node.CONV_LAYERS[-1],
            num_masks=len(node.MASKS),
            num_classes=maps_per_mask(cfg),
        )


def maps_per_mask(cfg: CfgNode) -> int:
    """Maps of each mask that a predictor has to yield: one per class with the background, or one."""
    return 1 if cfg.MODEL.ROI_MULTI_MASK_HEAD.CLS_AGNOSTIC_MASK else int(cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES)


registry.ROI_MULTI_MASK_PREDICTOR.register("MultiMaskRCNNPredictor", MultiMaskRCNNPredictor.from_cfg)

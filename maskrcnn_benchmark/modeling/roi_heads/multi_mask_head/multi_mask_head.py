"""Multi-mask head: the mask head's extractor, a predictor of the maps of all masks, and one output for each mask."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head import (  # noqa: F401  (they register themselves)
    roi_multi_mask_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.loss import inside_loss, mask_losses, select_masks
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.output import SECTION, inside_pairs, mask_kinds
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind
from maskrcnn_benchmark.modeling.roi_heads.roi_head import BranchOutput
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

INSIDE_LOSS = "loss_mask_inside"


class MultiMaskHead(BranchHead):
    """RoIs to T named masks each: logits (R, T * J, M, M), J maps per mask, those of the first mask first.

    Detections gain the field `mask_<name>` of each mask.

    Args:
        outputs: T kinds, in the order of their maps.
        inside: positions (inner, outer) of masks that lie inside others.
        inside_weight: factor of the loss of what lies outside; 0 for none.
    """

    NAME = "multi_mask"
    SWITCH = "MODEL.MULTI_MASK_ON"
    EXTRACTORS = registry.ROI_MASK_FEATURE_EXTRACTORS
    PREDICTORS = registry.ROI_MULTI_MASK_PREDICTOR

    def __init__(
        self,
        feature_extractor: nn.Module | None,
        predictor: nn.Module,
        *,
        outputs: Sequence[OutputKind],
        inside: Sequence[tuple[int, int]] = (),
        inside_weight: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(feature_extractor, predictor, outputs=outputs, **settings)
        self.inside = tuple(inside)
        self.inside_weight = inside_weight

    @classmethod
    def outputs_from_cfg(cls, cfg: CfgNode) -> list[OutputKind]:
        return list(mask_kinds(cfg))

    @classmethod
    def output_names(cls, cfg: CfgNode) -> Sequence[str]:
        names: Sequence[str] = cfg.MODEL[SECTION].MASKS
        return names

    @classmethod
    def _settings_from_cfg(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"inside": inside_pairs(cfg), "inside_weight": cfg.MODEL[SECTION].LOSS_WEIGHT_INSIDE}

    @classmethod
    def _make_extractor(cls, cfg: CfgNode, in_channels: int) -> Any:
        name = cfg.MODEL[SECTION].FEATURE_EXTRACTOR
        entry: Any = cls.EXTRACTORS[name]
        if "section" not in inspect.signature(entry).parameters:
            config_problem(
                f"MODEL.{SECTION}.FEATURE_EXTRACTOR is {name!r}, which reads MODEL.ROI_MASK_HEAD; give its entry in "
                "ROI_MASK_FEATURE_EXTRACTORS a parameter `section`, the name of the section to read."
            )
            return entry(cfg, in_channels)
        return entry(cfg, in_channels, section=SECTION)

    @property
    def kinds(self) -> list[MaskKind]:
        """The outputs, in the order of their maps."""
        return [output for output in self.outputs.values() if isinstance(output, MaskKind)]

    def compute_losses(
        self, result: BranchOutput, positives: SampledProposals, targets: Sequence[BoxList]
    ) -> dict[str, Tensor]:
        own = select_masks(result.logits, positives.labels, self.kinds)
        losses = mask_losses(own, self.kinds, positives, targets)
        if self.inside_weight:
            losses[INSIDE_LOSS] = self.inside_weight * inside_loss(own, self.inside)
        return losses

    def rows_of_mask_head(self, rows: Tensor) -> Tensor:
        """What the last layer of a mask head starts that of this head from.

        Args:
            rows: (J, ...) weight or bias of the mask head, a row per class with the background.
        Returns: (T * J, ...), the rows once for each mask; (T, ...) if masks do not depend on the class, the mean over
            the classes without the background.
        """
        if self.kinds[0].num_maps == 1:
            rows = rows[1:].mean(dim=0, keepdim=True)
        return torch.cat([rows] * len(self.kinds))

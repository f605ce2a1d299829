"""Masks as a kind of output: the logits of a class to a target, a loss and a field of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import HALF_OPEN, box_extents
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import MaskPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import (
    mask_loss,
    matched_mask_targets,
    matched_presence,
    outline_weights,
    select_class,
)
from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import MASK, MaskFields, mask_fields
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Outside the coarse mask: about 5 %, the share of the ring around a RoI that belongs to the object. This is background,
# but close enough to zero that a correction can turn it.
OUTSIDE_LOGIT = -3.0

TASK = "segm"


class MaskTargets(NamedTuple):
    """Ground truth drawn into frames."""

    drawn: Tensor  # (R, S, S) of 0 and 1; in [0, 1] if soft
    weights: Tensor | None  # (R, S, S), of the cells in the mean; None for equal weights
    present: Tensor | None = None  # (R,) bool, RoIs whose instance has a mask; None if all have one


@dataclass(eq=False)
class MaskKind(MapKind[MaskTargets]):
    """A mask per class, or one for all classes. Each RoI uses the mask of its class.

    Args:
        num_maps: J, the classes with the background; 1 for a mask that does not depend on the class.
        offset: box convention.
        fields: of the ground truth and of detections; their name is that of the output, "mask" if they have none.
        as_mask: this named mask is also written, evaluated and called as a plain mask.
        first_map: of this mask among the logits of the head, which may predict several.
        section: of the head's keys.
        resolution: cells per side that the predictor has to yield; None does not check.
        loss_name, loss_weight: key and factor of the loss; without a key, loss_mask or loss_mask_<name>.
        soft_targets: targets are means over cells, else 0 or 1.
        outline_weight: how much more a cell near the outline weighs than other cells; None for equal weights.
        post_processor: writes masks to detections.
    """

    flip_test = "FLIP_MASKS"
    num_own_maps = 1

    num_maps: int
    _: KW_ONLY
    offset: int
    fields: MaskFields = mask_fields()
    as_mask: bool = False
    first_map: int = 0
    section: str = "ROI_MASK_HEAD"
    resolution: int | None = None
    loss_name: str = ""
    loss_weight: float = 1.0
    soft_targets: bool = False
    outline_weight: float | None = None
    post_processor: MaskPostProcessor = field(default_factory=MaskPostProcessor)

    def __post_init__(self) -> None:
        self.name = self.fields.name or MASK
        self.task = f"{TASK}{self._ending}"
        self.loss_name = self.loss_name or f"loss_mask{self._ending}"
        self.target_field = self.fields.truth
        self.written = (self.fields, mask_fields()) if self.as_mask else (self.fields,)
        self.aliases = (MASK,) if self.as_mask else ()
        self.more_tasks = (TASK,) if self.as_mask else ()
        self.refined_fields = [
            pair for names in self.written for pair in ((names.mask, names.coarse), (names.scores, names.coarse_scores))
        ]

    @property
    def _ending(self) -> str:
        return f"_{self.fields.name}" if self.fields.name else ""

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> MaskKind:
        node = cfg.MODEL.ROI_MASK_HEAD
        return cls(
            cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES,
            loss_weight=node.LOSS_WEIGHT,
            **settings_from_cfg(cfg, "ROI_MASK_HEAD"),
        )

    def refined(self, cfg: CfgNode) -> MaskKind:
        node = cfg.MODEL.ROI_REFINE_HEAD
        check_range("MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT", node.OUTLINE_WEIGHT, 0)
        return MaskKind(
            self.num_maps,
            offset=self.offset,
            fields=self.fields,
            as_mask=self.as_mask,
            loss_name=f"loss_refine_mask{self._ending}",
            loss_weight=node.LOSS_WEIGHT_MASK,
            outline_weight=node.OUTLINE_WEIGHT,
            post_processor=MaskPostProcessor(self.post_processor.masker, node.RESCORE),
        )

    def select_own(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_maps == 1:
            return logits[:, self.first_map : self.first_map + 1]
        return select_class(logits, labels + self.first_map)

    def frames(self, boxes: Tensor) -> Tensor:
        return box_extents(boxes, self.offset)

    def target_frames(self, boxes: Tensor) -> Tensor:
        """(R, 4) boxes -> (R, 4) what the targets of the coarse head span.

        An inclusive box is cut from corner to corner, at least a pixel wide, as upstream does, although it covers a
        pixel more; a half-open one as it is.
        """
        if self.offset == HALF_OPEN:
            return self.frames(boxes)
        return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def averaged_values(self, logits: Tensor) -> Tensor:
        return self.probabilities(logits.float())

    def logits_of_average(self, values: Tensor) -> Tensor:
        return values.logit(torch.finfo(values.dtype).eps)  # finite, also for a probability of 0 or 1

    def mirror(self, logits: Tensor) -> Tensor:
        return logits.flip(-1)

    def outside_logit(self, logits: Tensor) -> float:
        return OUTSIDE_LOGIT

    def loss(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """As `OutputKind.loss`.

        Raises: ValueError if the logits' resolution is not the configured one.
        """
        self.check_resolution(logits)
        host_frames = self.target_frames(positives.on_host().boxes)
        matched = self.match_targets(positives, targets, host_frames, logits.shape[-1])
        return self.frame_loss(logits, matched, positives.boxes)

    def match_targets(
        self, positives: SampledProposals, targets: Sequence[BoxList], host_frames: Tensor, size: int
    ) -> MaskTargets:
        drawn = matched_mask_targets(positives, targets, host_frames, size, self.soft_targets, self.fields.truth)
        return self.weigh(drawn, matched_presence(positives, targets, self.fields.present))

    def weigh(self, drawn: Tensor, present: Tensor | None) -> MaskTargets:
        """Targets (R, S, S) with the weights of their cells.

        Args:
            present: (R,) bool, RoIs whose instance has a mask; None if all have one.
        """
        weights = None if self.outline_weight is None else outline_weights(drawn, self.outline_weight)
        return MaskTargets(drawn, weights, present)

    def frame_loss(self, logits: Tensor, matched: MaskTargets, frames: Tensor) -> Tensor:
        return self.loss_weight * mask_loss(logits, matched.drawn, matched.weights, matched.present)

    def attach(self, logits: Tensor, detections: Sequence[BoxList], frames: Tensor | None = None) -> list[BoxList]:
        results: list[BoxList] = self.post_processor(logits, detections, frames, self.written)
        return results


def settings_from_cfg(cfg: CfgNode, section: str) -> dict[str, Any]:
    """Arguments of `MaskKind` that all masks of a head share, from the keys of MODEL.<section>."""
    node = cfg.MODEL[section]
    check_choice(f"MODEL.{section}.TARGET", node.TARGET, ("binary", "soft"))
    return {
        "offset": cfg.MODEL.BOX_OFFSET,
        "section": section,
        "resolution": node.RESOLUTION,
        "soft_targets": node.TARGET == "soft",
        "post_processor": MaskPostProcessor.from_cfg(cfg, section),
    }

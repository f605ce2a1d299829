"""The heads of a detector, and what one of them hands to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.box_head.box_head import BoxHead, build_roi_box_head
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import build_roi_keypoint_head
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import build_roi_mask_head
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import build_roi_refine_head
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from yacs.config import CfgNode


class CombinedROIHeads(nn.ModuleDict):
    """Box head, then mask and keypoint heads on what it found, then the refine head on what those found.

    In training the mask, keypoint and refine heads see the foreground of the box head's sample, at inference its
    detections. The box head owns its feature extractor also where other heads share it: they are handed its features.

    Args:
        heads: "box", and any of "mask", "keypoint" and "refine".
        shared: the heads that read the box head's features.
    """

    def __init__(self, heads: dict[str, nn.Module], *, shared: Sequence[str] = ()) -> None:
        super().__init__(heads)
        self.shared = frozenset(shared)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> CombinedROIHeads:
        model = cfg.MODEL
        box: Any = build_roi_box_head(cfg, in_channels)
        heads: dict[str, Any] = {"box": box}
        shared = []
        branches = (
            ("mask", model.MASK_ON, model.ROI_MASK_HEAD, build_roi_mask_head),
            ("keypoint", model.KEYPOINT_ON, model.ROI_KEYPOINT_HEAD, build_roi_keypoint_head),
        )
        for name, is_on, node, build in branches:
            if not is_on:
                continue
            if node.SHARE_BOX_FEATURE_EXTRACTOR:
                _check_sharing(cfg, name)
                shared.append(name)
            heads[name] = build(cfg, box.feature_extractor.out_channels if name in shared else in_channels)
        if model.REFINE_ON:
            channels = {name: head.feature_channels for name, head in heads.items() if name != "box"}
            heads["refine"] = build_roi_refine_head(cfg, in_channels, channels)
        return cls(heads, shared=shared)

    def forward(
        self, features: Sequence[Tensor], proposals: Sequence[BoxList], targets: Sequence[BoxList] | None = None
    ) -> tuple[Tensor, list[BoxList], dict[str, Tensor]]:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            proposals: N BoxLists.
            targets: N BoxLists of ground truth; read in training alone.
        Returns: the box head's features; N BoxLists, the detections, or in training the proposals as they came; the
            losses of all heads, none at inference.
        """
        box = self["box"](features, proposals, targets)
        losses = dict(box.losses)
        rois = box.samples.positives() if self.training else box.detections
        branches = {}
        for name in ("mask", "keypoint"):
            if name in self:
                box_features = self._box_features(features, box.features, rois) if name in self.shared else None
                branches[name] = self[name](features, rois, targets, box_features)
                losses.update(branches[name].losses)
                rois = rois if self.training else branches[name].detections
        if "refine" in self:
            refined = self["refine"](
                features,
                rois,
                targets,
                mask_output=branches.get("mask"),
                keypoint_output=branches.get("keypoint"),
            )
            losses.update(refined.losses)
            rois = rois if self.training else refined.detections
        return box.features, list(proposals) if self.training else rois, losses

    def _box_features(
        self, features: Sequence[Tensor], box_features: Tensor, rois: SampledProposals | Sequence[BoxList]
    ) -> Tensor:
        """What the box head's extractor makes of the regions that other heads see."""
        if isinstance(rois, SampledProposals):
            return box_features[: len(rois)]  # the foreground comes first in the sample
        box_head = self["box"]
        assert isinstance(box_head, BoxHead)
        return box_head.feature_extractor(features, rois_from_boxlists(rois))


def _check_sharing(cfg: CfgNode, name: str) -> None:
    """Refuse a head that wants the box head's features and could not read them."""
    node = cfg.MODEL[f"ROI_{name.upper()}_HEAD"]
    if cfg.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR != node.FEATURE_EXTRACTOR:
        raise ValueError(
            f"MODEL.ROI_{name.upper()}_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is True, but the box head's extractor is "
            f"{cfg.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR} and the {name} head's {node.FEATURE_EXTRACTOR}. Set it to "
            "False, as every model with a feature pyramid does, or give both heads one extractor."
        )


def build_roi_heads(cfg: CfgNode, in_channels: int) -> CombinedROIHeads:
    """The heads as configured, for feature levels of `in_channels`."""
    return CombinedROIHeads.from_cfg(cfg, in_channels)

"""All heads of a detector, and what one of them hands to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.box_head.box_head import BoxHead
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputLogits
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import (
    PrivateRefineHeads,
    RefineHead,
    RefineHeadOutput,
    build_roi_refine_head,
)
from maskrcnn_benchmark.modeling.roi_heads.roi_head import BranchOutput, ROIHead, heads_of, task_names
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.problems import config_problem, skip_after_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

BOX, REFINE = "box", "refine"


class ROIHeadsOutput(NamedTuple):
    """Result of all heads."""

    features: Tensor  # (R, C, ...) of the box head
    detections: list[BoxList]  # N BoxLists; in training the proposals as they came
    losses: dict[str, Tensor]  # of all heads; empty at inference


class CombinedROIHeads(nn.ModuleDict):
    """Box head, then the registered heads on the boxes that it found, then the refine head on their predictions.

    In training the heads after the box head see the foreground of its sample, with or without boxes of the ground
    truth; at inference its detections. The box head owns its feature extractor even if other heads share it: they are
    handed its features.

    Args:
        heads: "box", any `ROIHead`s by their names, and "refine" if there is one; in the order in which they run.
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__(heads)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, *, learns: bool = True) -> CombinedROIHeads:
        """The heads as configured.

        Args:
            in_channels: channels of the feature levels.
            learns: compute losses of all heads; False for the refine head only.
        """
        _check_extra(cfg)
        heads: dict[str, nn.Module] = {}
        with skip_after_problem():
            heads[BOX] = BoxHead.from_cfg(cfg, in_channels, learns=learns)
        for name, head in heads_of(cfg).items():
            with skip_after_problem():
                heads[name] = _build_head(head, cfg, in_channels, heads, learns)
        branches = [head for head in heads.values() if isinstance(head, ROIHead)]
        _check_outputs(branches)
        if cfg.MODEL.REFINE_ON:
            channels = {name: head.feature_channels for head in branches for name in head.outputs}
            with skip_after_problem():
                heads[REFINE] = build_roi_refine_head(cfg, in_channels, channels)
        return cls(heads)

    @property
    def branches(self) -> dict[str, ROIHead]:
        """The heads between the box head and the refine head."""
        return {name: head for name, head in self.items() if isinstance(head, ROIHead)}

    @property
    def _refine_head(self) -> RefineHead | PrivateRefineHeads:
        head = self[REFINE]
        assert isinstance(head, (RefineHead, PrivateRefineHeads))
        return head

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the evaluations of the detections; "bbox" comes first."""
        return task_names(output for head in self.branches.values() for output in head.outputs.values())

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """Tell all outputs what the keypoints are. Raises: ValueError for another number of keypoints."""
        for head in self.values():
            if isinstance(head, (ROIHead, RefineHead, PrivateRefineHeads)):
                head.use_keypoint_spec(spec)

    def forward(
        self, features: Sequence[Tensor], proposals: Sequence[BoxList], targets: Sequence[BoxList] | None = None
    ) -> ROIHeadsOutput:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            proposals: N BoxLists.
            targets: N BoxLists of ground truth; training only.
        """
        box = self[BOX](features, proposals, targets)
        rois = box.samples.positives_of_heads() if self.training else box.detections
        detections, losses = self._run_branches(features, rois, targets, box.features)
        losses = {**box.losses, **losses}
        return ROIHeadsOutput(box.features, list(proposals) if self.training else detections, losses)

    def predict_on_boxes(self, features: Sequence[Tensor], boxes: Sequence[BoxList]) -> list[BoxList]:
        """Run the heads after the box head on given boxes, at inference.

        Args:
            features: L maps (N, C, H_l, W_l).
            boxes: N BoxLists with `labels`, and with `scores` if a head writes scores of its own.
        Returns: N BoxLists, the given ones with the fields of the heads.
        """
        return self._run_branches(features, boxes)[0]

    def predict_logits(
        self, features: Sequence[Tensor], boxes: Sequence[BoxList], only: Collection[str] | None = None
    ) -> list[OutputLogits]:
        """As `predict_on_boxes`, but the logits of all outputs before they are written to the boxes.

        Together with `attach` this is `predict_on_boxes`, if no head reads fields that another has written.

        Args:
            only: names of the outputs to return; None returns all. Without a refine head, which reads other outputs,
                heads without these outputs do not run.
        """
        outputs: list[OutputLogits] = []
        results: dict[str, BranchOutput] = {}
        for head in self.branches.values():
            if only is not None and REFINE not in self and not set(only) & head.outputs.keys():
                continue
            shared = self._box_features(features, None, boxes) if head.feature_extractor is None else None
            result = head.predict(features, boxes, shared)
            results.update(dict.fromkeys(head.outputs, result))
            outputs += head.own_logits(result, boxes)
        if REFINE in self:
            refine = self._refine_head
            outputs += refine.own_logits(refine.predict(features, boxes, branches=results))
        return outputs if only is None else [output for output in outputs if output.kind.name in only]

    def attach(self, outputs: Sequence[OutputLogits], boxes: Sequence[BoxList]) -> list[BoxList]:
        """Write logits in the order of `predict_logits` to new BoxLists, besides the fields that the boxes have."""
        detections = list(boxes)
        for output in outputs:
            if output.frames is None:
                detections = output.kind.attach(output.logits, detections)
        refined = {output.kind.name: output for output in outputs if output.frames is not None}
        if refined:
            frames = next(output.frames for output in refined.values() if output.frames is not None)
            logits = {name: output.logits for name, output in refined.items()}
            detections = self._refine_head.attach(RefineHeadOutput(logits, frames), detections)
        return detections

    def _run_branches(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        box_features: Tensor | None = None,
    ) -> tuple[list[BoxList], dict[str, Tensor]]:
        """The heads after the box head: completed detections, or losses in training."""
        losses: dict[str, Tensor] = {}
        results: dict[str, BranchOutput] = {}
        for head in self.branches.values():
            shared = self._box_features(features, box_features, rois) if head.feature_extractor is None else None
            result = head(features, rois, targets, shared)
            results.update(dict.fromkeys(head.outputs, result))
            losses.update(result.losses)
            rois = rois if self.training else result.detections
        if REFINE in self:
            refined = self[REFINE](features, rois, targets, branches=results)
            losses.update(refined.losses)
            rois = rois if self.training else refined.detections
        return [] if isinstance(rois, SampledProposals) else list(rois), losses

    def _box_features(
        self, features: Sequence[Tensor], box_features: Tensor | None, rois: SampledProposals | Sequence[BoxList]
    ) -> Tensor:
        """Features of the box head's extractor for the regions that the other heads see.

        Args:
            box_features: of the box head in training, which are not computed again.
        """
        if isinstance(rois, SampledProposals):
            assert box_features is not None
            return box_features[: len(rois)]  # the foreground comes first in the sample
        box_head = self[BOX]
        assert isinstance(box_head, BoxHead)
        shared: Tensor = box_head.feature_extractor(features, rois_from_boxlists(rois))
        return shared


def _build_head(
    head: type[ROIHead], cfg: CfgNode, in_channels: int, built: Mapping[str, nn.Module], learns: bool
) -> ROIHead:
    if not head.shares_box_features(cfg):
        return head.from_cfg(cfg, in_channels, learns=learns)
    extractor: Any = built[BOX].feature_extractor
    resolution = getattr(extractor, "resolution", None)
    return head.from_cfg(cfg, extractor.out_channels, learns=learns, shared_resolution=resolution)


def _check_outputs(branches: Sequence[ROIHead]) -> None:
    """Report outputs of two heads with the same name."""
    owners: dict[str, ROIHead] = {}
    for head in branches:
        for name in head.outputs:
            other = owners.setdefault(name, head)
            if other is not head:
                config_problem(
                    f"the {other.NAME} head and the {head.NAME} head both have an output called {name!r}; rename one, "
                    "such as a mask in MODEL.ROI_MULTI_MASK_HEAD.MASKS."
                )


def _check_extra(cfg: CfgNode) -> None:
    """Report names in EXTRA that are not registered, or that another key switches on."""
    for name in cfg.MODEL.ROI_HEADS.EXTRA:
        head = registry.ROI_HEADS.get(name)
        if head is None:
            config_problem(
                f"{ROIHead.SWITCH} has {name!r}; registered: {', '.join(map(repr, registry.ROI_HEADS))}. A head of "
                "your own registers itself in a module that IMPORTS names."
            )
        elif head.SWITCH != ROIHead.SWITCH:
            config_problem(f"{ROIHead.SWITCH} has {name!r}, which {head.SWITCH} switches on; use that key.")

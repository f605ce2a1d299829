"""Wiring of the refine head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import HALF_OPEN, box_extents
from maskrcnn_benchmark.modeling.batching import cat_boxes, image_sizes_wh
from maskrcnn_benchmark.modeling.poolers import Pooler, rois_of
from maskrcnn_benchmark.modeling.roi_heads.branch_head import BranchOutput
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import select_class
from maskrcnn_benchmark.modeling.roi_heads.refine_head.indicators import (
    FEATURES,
    CoarsePrediction,
    draw_indicator,
    enlarge_extents,
    keypoint_frames,
    redraw_logits,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.inference import (
    RefinePostProcessor,
    make_roi_refine_post_processor,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.loss import (
    RefineLossComputation,
    make_roi_refine_loss_evaluator,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_feature_extractors import (
    make_roi_refine_feature_extractor,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_predictors import (
    KEYPOINT,
    MASK,
    make_roi_refine_predictor,
)
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class RefineHeadOutput:
    """What the refine head made of R RoIs: the positives in training, else all images' detections in order."""

    logits: dict[str, Tensor]  # "mask": (R, 1, 2M, 2M) of the RoI's own class; "keypoint": (R, K, 2M, 2M)
    extents: Tensor  # (R, 4): what the maps span, half-open, in pixels
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones with refined fields


@dataclass(frozen=True)
class _Regions:
    """R RoIs, wherever they come from."""

    boxes: Tensor  # (R, 4) xyxy in pixels
    image_ids: Tensor  # (R,) int64
    labels: Tensor  # (R,) int64: labelled in training, else predicted
    sizes_wh: Tensor  # (N, 2): of each image

    @classmethod
    def of(cls, rois: SampledProposals | Sequence[BoxList]) -> _Regions:
        if isinstance(rois, SampledProposals):
            return cls(rois.boxes, rois.image_ids, rois.labels, image_sizes_wh(rois.sizes, rois.boxes))
        boxes, image_ids = cat_boxes(rois)
        labels = torch.cat([detections.get_field(LABELS) for detections in rois])
        return cls(boxes, image_ids, labels, image_sizes_wh([detections.size for detections in rois], boxes))


class RefineHead(nn.Module):
    """Look at each RoI again, in a wider frame and with the coarse predictions drawn into it.

    The RoI is enlarged about its centre within the image; features are pooled there once; the coarse predictions become
    indicator channels beside them; one trunk reads both and serves every output. An output whose own kind is among the
    indicators corrects the coarse logits, redrawn in the enlarged frame; another starts from zero. The correction's
    last layer starts at zero, so an untrained head changes nothing inside the coarse RoI.

    Args:
        pooler: (features, rois (R, 5)) -> (R, C, M, M); rois are half-open.
        feature_extractor: the trunk, (R, C + I, M, M) -> maps per stack, the last of which is read.
        predictor: (R, C', M, M) -> output -> correction (R, maps, 2M, 2M).
        projections: indicator -> what narrows its branch's features before they are drawn; none for other forms.
        intermediate_predictors: one for each stack before the last, where those are supervised; read in training alone.
        indicators: coarse predictions to draw, any of "mask" and "keypoint".
        indicator_form: see `draw_indicator`.
        detach_indicators: no gradient into the coarse branches, neither through indicators nor through the logits that
            the outputs start from.
        expand: side of the enlarged RoI over the RoI's.
        offset: box convention of the RoIs.
        loss, post_processor: see `loss.py` and `inference.py`.
    """

    def __init__(
        self,
        *,
        pooler: nn.Module,
        feature_extractor: nn.Module,
        predictor: nn.Module,
        projections: Mapping[str, nn.Module] | None = None,
        intermediate_predictors: Sequence[nn.Module] = (),
        indicators: Sequence[str],
        indicator_form: str,
        detach_indicators: bool,
        expand: float,
        offset: int,
        loss: RefineLossComputation,
        post_processor: RefinePostProcessor,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.projections = nn.ModuleDict(dict(projections or {}))
        self.intermediate_predictors = nn.ModuleList(intermediate_predictors)
        self.indicators = tuple(indicators)
        self.indicator_form = indicator_form
        self.detach_indicators = detach_indicators
        self.expand = expand
        self.offset = offset
        self.loss = loss
        self.post_processor = post_processor

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, branch_channels: Mapping[str, int] | None = None) -> RefineHead:
        node = cfg.MODEL.ROI_REFINE_HEAD
        trunk: Any = make_roi_refine_feature_extractor(cfg, in_channels + _indicator_channels(cfg))
        supervised = trunk.num_stacks - 1 if node.INTERMEDIATE_SUPERVISION else 0
        return cls(
            pooler=Pooler(
                node.POOLER_RESOLUTION,
                node.POOLER_SCALES,
                node.POOLER_SAMPLING_RATIO,
                aligned=node.POOLER_ALIGNED,
                offset=HALF_OPEN,
            ),
            feature_extractor=trunk,
            predictor=make_roi_refine_predictor(cfg, trunk.out_channels),
            projections=_make_projections(cfg, branch_channels or {}),
            intermediate_predictors=[make_roi_refine_predictor(cfg, trunk.out_channels) for _ in range(supervised)],
            indicators=node.INDICATORS,
            indicator_form=node.INDICATOR_FORM,
            detach_indicators=node.DETACH_INDICATORS,
            expand=node.ROI_EXPAND,
            offset=cfg.MODEL.BOX_OFFSET,
            loss=make_roi_refine_loss_evaluator(cfg),
            post_processor=make_roi_refine_post_processor(cfg),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        *,
        mask_output: BranchOutput | None = None,
        keypoint_output: BranchOutput | None = None,
    ) -> RefineHeadOutput:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            rois: the positives to train on; or detections, one BoxList per image, as the coarse branches left them.
            targets: ground truth, one BoxList per image, with `masks` and `keypoints` as far as they are outputs;
                training alone.
            mask_output, keypoint_output: of the coarse branches, for the same RoIs; those that are indicators.
        Raises: ValueError when an indicator's branch, or the targets, are not given.
        """
        regions = _Regions.of(rois)
        coarse = self._coarse_predictions(regions, mask_output, keypoint_output)
        extents = self._enlarge(regions.boxes, regions.image_ids, regions.sizes_wh)
        pooled = self.pooler(features, rois_of(regions.image_ids, extents))
        drawn = [
            draw_indicator(coarse[name], self.indicator_form, extents, pooled.shape[-1]) for name in self.indicators
        ]
        stacks = self.feature_extractor(torch.cat([pooled, *(channels.to(pooled.dtype) for channels in drawn)], dim=1))
        corrections = self.predictor(stacks[-1])
        start = {
            name: redraw_logits(coarse[name], extents, correction.shape[-1])
            for name, correction in corrections.items()
            if name in coarse
        }
        logits = _correct(start, corrections, regions.labels)
        if not isinstance(rois, SampledProposals):
            return RefineHeadOutput(logits, extents, detections=self.post_processor(logits, extents, rois))
        if targets is None:
            raise ValueError("in training the refine head needs `targets`, one BoxList per image")
        supervised = [
            _correct(start, predictor(stack), regions.labels)
            for predictor, stack in zip(self.intermediate_predictors, stacks, strict=False)
        ]
        losses = self.loss([*supervised, logits], extents, rois, targets, self._host_extents(rois, extents))
        return RefineHeadOutput(logits, extents, losses=losses)

    def _enlarge(self, boxes: Tensor, image_ids: Tensor, sizes_wh: Tensor) -> Tensor:
        """(R, 4) RoIs -> the (R, 4) rectangles that the head looks at, half-open, in pixels."""
        return enlarge_extents(box_extents(boxes, self.offset), self.expand, sizes_wh[image_ids])

    def _host_extents(self, positives: SampledProposals, extents: Tensor) -> Tensor:
        """`extents` on the CPU. Computed there once more: to fetch them is to wait for all that a GPU has to do."""
        if extents.device.type == "cpu":
            return extents
        image_ids, _, boxes = positives.on_host()
        return self._enlarge(boxes, image_ids, image_sizes_wh(positives.sizes, boxes))

    def _coarse_predictions(
        self, regions: _Regions, mask_output: BranchOutput | None, keypoint_output: BranchOutput | None
    ) -> dict[str, CoarsePrediction]:
        """The indicators' branches, each with the frame that its maps span."""
        outputs = {MASK: mask_output, KEYPOINT: keypoint_output}
        predictions = {}
        for name in self.indicators:
            output = outputs[name]
            if output is None:
                raise ValueError(
                    f"MODEL.ROI_REFINE_HEAD.INDICATORS has {name!r}, but the refine head was given no output of the "
                    f"{name} branch"
                )
            if name == MASK:
                own_class, frames = select_class(output.logits, regions.labels), box_extents(regions.boxes, self.offset)
                prediction = CoarsePrediction(MASK, own_class, output.features, frames)
            else:
                frames = keypoint_frames(regions.boxes)
                prediction = CoarsePrediction(KEYPOINT, output.logits, output.features, frames)
            prediction = prediction.detach() if self.detach_indicators else prediction
            if name in self.projections:
                prediction = replace(prediction, features=self.projections[name](prediction.features))
            predictions[name] = prediction
        return predictions


class PrivateRefineHeads(nn.ModuleDict):
    """A refine head for each output, which share nothing: the counterpart that shows what sharing a trunk is worth.

    Each looks at the region for itself and is shown the indicator of its own kind alone. The keys of its weights begin
    with the output's name.

    Args:
        heads: output ("mask", "keypoint") -> a head with this single output.
    """

    def __init__(self, heads: Mapping[str, RefineHead]) -> None:
        super().__init__(heads)

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, branch_channels: Mapping[str, int] | None = None
    ) -> PrivateRefineHeads:
        heads = {}
        for name in cfg.MODEL.ROI_REFINE_HEAD.OUTPUTS:
            own = cfg.clone()
            own.defrost()
            node = own.MODEL.ROI_REFINE_HEAD
            node.OUTPUTS = (name,)
            node.INDICATORS = tuple(indicator for indicator in node.INDICATORS if indicator == name)
            heads[name] = RefineHead.from_cfg(own, in_channels, branch_channels)
        return cls(heads)

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        *,
        mask_output: BranchOutput | None = None,
        keypoint_output: BranchOutput | None = None,
    ) -> RefineHeadOutput:
        """As `RefineHead.forward`; at inference each head adds its fields to what the one before it returned."""
        logits: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for head in self.values():
            output = head(features, rois, targets, mask_output=mask_output, keypoint_output=keypoint_output)
            logits.update(output.logits)
            losses.update(output.losses)
            rois = rois if isinstance(rois, SampledProposals) else output.detections
        detections = [] if isinstance(rois, SampledProposals) else list(rois)
        return RefineHeadOutput(logits, output.extents, losses, detections)


def _correct(start: Mapping[str, Tensor], corrections: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Logits that the outputs start from, where they start from any, and corrections -> logits, float32.

    Of the masks' corrections (R, J, S, S) each RoI takes that of its own class.
    """
    logits = {}
    for name, correction in corrections.items():
        own = (select_class(correction, labels) if name == MASK else correction).float()
        logits[name] = start[name] + own if name in start else own
    return logits


def _indicator_channels(cfg: CfgNode) -> int:
    """Channels that the indicators add to the pooled features."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    if node.INDICATOR_FORM == FEATURES:
        return node.CONV_DIM * len(node.INDICATORS)
    maps = {MASK: 1, KEYPOINT: cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES}
    return sum(maps[name] for name in node.INDICATORS)


def _make_projections(cfg: CfgNode, branch_channels: Mapping[str, int]) -> dict[str, nn.Module]:
    """For features as indicators: what takes those of each branch, often hundreds of channels, to the trunk's width."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    if node.INDICATOR_FORM != FEATURES:
        return {}
    missing = [name for name in node.INDICATORS if name not in branch_channels]
    if missing:
        raise ValueError(
            f"MODEL.ROI_REFINE_HEAD.INDICATOR_FORM is {FEATURES!r}, and the channels of the features of "
            f"{' and '.join(missing)} are not given; pass branch_channels={{name: channels}}"
        )
    return {name: nn.Conv2d(branch_channels[name], node.CONV_DIM, 1) for name in node.INDICATORS}


def build_roi_refine_head(
    cfg: CfgNode, in_channels: int, branch_channels: Mapping[str, int] | None = None
) -> RefineHead | PrivateRefineHeads:
    """The refine head as configured: one for all outputs, or with `SHARED` off one for each.

    Args:
        in_channels: channels of the feature levels.
        branch_channels: "mask", "keypoint" -> channels of the features that the branch's predictor reads (its
            `feature_channels`); needed where the indicators are these features.
    Raises: ValueError when they are needed and not given.
    """
    kind = RefineHead if cfg.MODEL.ROI_REFINE_HEAD.SHARED else PrivateRefineHeads
    return kind.from_cfg(cfg, in_channels, branch_channels)

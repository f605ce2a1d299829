"""Refine head: enlarged regions, indicators, a trunk, and corrections of what the coarse heads predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import HALF_OPEN, box_extents
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.batching import cat_boxes, image_sizes_wh
from maskrcnn_benchmark.modeling.poolers import Pooler, rois_of
from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind, OutputLogits
from maskrcnn_benchmark.modeling.roi_heads.refine_head import (  # noqa: F401  (they register themselves)
    roi_refine_feature_extractors,
    roi_refine_predictors,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.indicators import (
    FEATURES,
    INDICATOR_FORMS,
    CoarsePrediction,
    draw_indicator,
    enlarge_extents,
    redraw_logits,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.inference import attach_refined
from maskrcnn_benchmark.modeling.roi_heads.refine_head.loss import refine_losses
from maskrcnn_benchmark.modeling.roi_heads.roi_head import BranchOutput, ROIHead, heads_of, outputs_of
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.problems import check_choice, check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class RefineHeadOutput:
    """Result of the refine head for R RoIs: the positives in training, else the detections of all images in order."""

    logits: dict[str, Tensor]  # output -> (R, num_own_maps, 2M, 2M) of each RoI's own class
    extents: Tensor  # (R, 4) that the maps span, half-open, in pixels
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones with refined fields


@dataclass(frozen=True)
class _Regions:
    """R RoIs, from training samples or from detections."""

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


@dataclass(frozen=True)
class _Correction:
    """Refined logits of R RoIs, and how they came about."""

    logits: dict[str, Tensor]  # output -> (R, num_own_maps, 2M, 2M) of each RoI's own class
    extents: Tensor  # (R, 4) that the maps span
    start: dict[str, Tensor]  # output -> the redrawn coarse logits that it corrects, if it does
    stacks: Sequence[Tensor]  # maps of the trunk after each stack
    labels: Tensor  # (R,) int64


class RefineHead(nn.Module):
    """Look at each RoI again, in a wider frame and with the coarse predictions drawn into it.

    The RoI is enlarged about its centre within the image, and features are pooled there once. The coarse predictions
    become indicator channels beside them; one trunk reads both and serves every output. An output that is also an
    indicator corrects the coarse logits, redrawn in the enlarged frame; another starts from zero. The correction's
    last layer starts at zero, so an untrained head changes nothing inside the coarse RoI.

    Args:
        pooler: (features, rois (R, 5)) -> (R, C, M, M); rois are half-open.
        feature_extractor: the trunk, (R, C + I, M, M) -> maps per stack, the last of which is read.
        predictor: (R, C', M, M) -> name of the output -> correction (R, maps, 2M, 2M).
        outputs: name -> kind of output, for each output of the predictor.
        indicators: name -> kind of output of a coarse head; drawn as input of the trunk.
        projections: indicator -> module that narrows its head's features before they are drawn; form "features" only.
            With this form an indicator without a projection is not drawn: another one has the same features.
        intermediate_predictors: one for each stack before the last, if those are supervised; training only.
        indicator_form: see `draw_indicator`.
        detach_indicators: no gradients into the coarse heads, neither through indicators nor through the logits that
            the outputs start from.
        expand: side of the enlarged RoI over the RoI's.
        offset: box convention of the RoIs.
        keep_coarse: keep replaced fields of detections under their coarse names.
    """

    def __init__(
        self,
        *,
        pooler: nn.Module,
        feature_extractor: nn.Module,
        predictor: nn.Module,
        outputs: Mapping[str, MapKind[Any]],
        indicators: Mapping[str, MapKind[Any]],
        projections: Mapping[str, nn.Module] | None = None,
        intermediate_predictors: Sequence[nn.Module] = (),
        indicator_form: str,
        detach_indicators: bool,
        expand: float,
        offset: int,
        keep_coarse: bool = True,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.projections = nn.ModuleDict(dict(projections or {}))
        self.intermediate_predictors = nn.ModuleList(intermediate_predictors)
        self.outputs = dict(outputs)
        self.indicators = dict(indicators)
        self.indicator_form = indicator_form
        self.detach_indicators = detach_indicators
        self.expand = expand
        self.offset = offset
        self.keep_coarse = keep_coarse

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        in_channels: int,
        branch_channels: Mapping[str, int],
        *,
        outputs: Mapping[str, MapKind[Any]],
        indicators: Mapping[str, MapKind[Any]],
    ) -> RefineHead:
        """The head as configured, with these outputs (refined kinds) and indicators (coarse kinds).

        Args:
            in_channels: channels of the feature levels.
            branch_channels: indicator -> channels of the features of its head; for the form "features".
        """
        node = cfg.MODEL.ROI_REFINE_HEAD
        drawn = _drawn_features(cfg, indicators)
        added = (
            node.CONV_DIM * len(drawn)
            if node.INDICATOR_FORM == FEATURES
            else sum(kind.num_own_maps for kind in indicators.values())
        )
        trunk: Any = registry.ROI_REFINE_FEATURE_EXTRACTORS[node.FEATURE_EXTRACTOR](cfg, in_channels + added)
        maps = {name: kind.num_maps for name, kind in outputs.items()}

        def make_predictor() -> nn.Module:
            module: nn.Module = registry.ROI_REFINE_PREDICTOR[node.PREDICTOR](cfg, trunk.out_channels, maps)
            return module

        supervised = trunk.num_stacks - 1 if node.INTERMEDIATE_SUPERVISION else 0
        return cls(
            pooler=Pooler.from_cfg(cfg, "ROI_REFINE_HEAD", offset=HALF_OPEN),
            feature_extractor=trunk,
            predictor=make_predictor(),
            outputs=outputs,
            indicators=indicators,
            projections=_make_projections(cfg, drawn, branch_channels),
            intermediate_predictors=[make_predictor() for _ in range(supervised)],
            indicator_form=node.INDICATOR_FORM,
            detach_indicators=node.DETACH_INDICATORS,
            expand=node.ROI_EXPAND,
            offset=cfg.MODEL.BOX_OFFSET,
            keep_coarse=node.KEEP_COARSE,
        )

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        *,
        branches: Mapping[str, BranchOutput],
    ) -> RefineHeadOutput:
        """
        Args:
            features: L maps (N, C, H_l, W_l).
            rois: the positives to train on; or detections, one BoxList per image, as the coarse heads left them.
            targets: ground truth, one BoxList per image, with the outputs' target fields; training only.
            branches: name of an output -> result of the coarse head that predicts it, for the same RoIs. Needed for
                each indicator.
        Raises: ValueError if the branch of an indicator, or the targets, are not given.
        """
        if not isinstance(rois, SampledProposals):
            output = self.predict(features, rois, branches=branches)
            return replace(output, detections=self.attach(output, rois))
        if targets is None:
            raise ValueError("in training the refine head needs `targets`, one BoxList per image")
        correction = self._refine(features, rois, branches)
        supervised = [
            self._correct(correction.start, predictor(stack), correction.labels)
            for predictor, stack in zip(self.intermediate_predictors, correction.stacks, strict=False)
        ]
        logits, extents = correction.logits, correction.extents
        host_extents = self._host_extents(rois, extents)
        losses = refine_losses(self.outputs, [*supervised, logits], extents, rois, targets, host_extents)
        return RefineHeadOutput(logits, extents, losses=losses)

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """Tell the outputs what the keypoints are, see `OutputKind.use_keypoint_spec`."""
        for kind in (*self.outputs.values(), *self.indicators.values()):
            kind.use_keypoint_spec(spec)

    def predict(
        self, features: Sequence[Tensor], detections: Sequence[BoxList], *, branches: Mapping[str, BranchOutput]
    ) -> RefineHeadOutput:
        """As `forward` at inference, without writing anything to the detections."""
        correction = self._refine(features, detections, branches)
        return RefineHeadOutput(correction.logits, correction.extents)

    def own_logits(self, result: RefineHeadOutput) -> list[OutputLogits]:
        """Each output in the result of `predict`."""
        return [OutputLogits(self.outputs[name], logits, result.extents) for name, logits in result.logits.items()]

    def attach(self, result: RefineHeadOutput, detections: Sequence[BoxList]) -> list[BoxList]:
        """Replace the coarse fields of detections by the refined ones of `result`."""
        return attach_refined(self.outputs, result.logits, result.extents, detections, keep_coarse=self.keep_coarse)

    def _refine(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        branches: Mapping[str, BranchOutput],
    ) -> _Correction:
        regions = _Regions.of(rois)
        coarse = self._coarse_predictions(regions, branches)
        extents = self._enlarge(regions.boxes, regions.image_ids, regions.sizes_wh)
        pooled = self.pooler(features, rois_of(regions.image_ids, extents))
        drawn = [
            draw_indicator(coarse[name], self.indicator_form, extents, pooled.shape[-1])
            for name in (self.projections if self.indicator_form == FEATURES else self.indicators)
        ]
        stacks = self.feature_extractor(torch.cat([pooled, *(channels.to(pooled.dtype) for channels in drawn)], dim=1))
        corrections = self.predictor(stacks[-1])
        start = {
            name: self.outputs[name].start(redraw_logits(coarse[name], extents, correction.shape[-1]))
            for name, correction in corrections.items()
            if name in coarse
        }
        logits = self._correct(start, corrections, regions.labels)
        return _Correction(logits, extents, start, stacks, regions.labels)

    def _enlarge(self, boxes: Tensor, image_ids: Tensor, sizes_wh: Tensor) -> Tensor:
        """(R, 4) RoIs -> the (R, 4) rectangles that the head looks at, half-open, in pixels."""
        return enlarge_extents(box_extents(boxes, self.offset), self.expand, sizes_wh[image_ids])

    def _host_extents(self, positives: SampledProposals, extents: Tensor) -> Tensor:
        """`extents` on the CPU; computed again there, since a copy from a GPU would synchronise."""
        if extents.device.type == "cpu":
            return extents
        image_ids, _, boxes = positives.on_host()
        return self._enlarge(boxes, image_ids, image_sizes_wh(positives.sizes, boxes))

    def _coarse_predictions(
        self, regions: _Regions, branches: Mapping[str, BranchOutput]
    ) -> dict[str, CoarsePrediction]:
        """The prediction of each indicator, with the frames that its maps span."""
        predictions = {}
        for name, kind in self.indicators.items():
            if name not in branches:
                raise ValueError(
                    f"MODEL.ROI_REFINE_HEAD.INDICATORS has {name!r}, but the refine head was given no output of the "
                    f"{name} branch"
                )
            branch = branches[name]
            own = kind.select_own(branch.logits, regions.labels)
            prediction = CoarsePrediction(kind, own, branch.features, kind.frames(regions.boxes))
            prediction = prediction.detach() if self.detach_indicators else prediction
            if name in self.projections:
                prediction = replace(prediction, features=self.projections[name](prediction.features))
            predictions[name] = prediction
        return predictions

    def _correct(
        self, start: Mapping[str, Tensor], corrections: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        """Add corrections to the logits that outputs start from, if any; float32.

        If there is a correction per class, (R, J, S, S), each RoI takes the one of its class.
        """
        logits = {}
        for name, correction in corrections.items():
            own = self.outputs[name].select_own(correction, labels).float()
            logits[name] = start[name] + own if name in start else own
        return logits


class PrivateRefineHeads(nn.ModuleDict):
    """A refine head for each output, without shared weights: the baseline that shows the effect of a shared trunk.

    Each head gets only the indicator of its own kind. State-dict keys start with the output's name.

    Args:
        heads: name -> a head with this single output.
    Raises: ValueError without heads.
    """

    def __init__(self, heads: Mapping[str, RefineHead]) -> None:
        if not heads:
            raise ValueError(
                "PrivateRefineHeads needs at least one head; name the outputs to refine in "
                "MODEL.ROI_REFINE_HEAD.OUTPUTS"
            )
        super().__init__(heads)

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        *,
        branches: Mapping[str, BranchOutput],
    ) -> RefineHeadOutput:
        """As `RefineHead.forward`; at inference each head adds its fields to the detections of the one before it."""
        logits: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for head in self.values():
            output = head(features, rois, targets, branches=branches)
            logits.update(output.logits)
            losses.update(output.losses)
            rois = rois if isinstance(rois, SampledProposals) else output.detections
        detections = [] if isinstance(rois, SampledProposals) else list(rois)
        return RefineHeadOutput(logits, output.extents, losses, detections)

    def predict(
        self, features: Sequence[Tensor], detections: Sequence[BoxList], *, branches: Mapping[str, BranchOutput]
    ) -> RefineHeadOutput:
        """As `RefineHead.predict`, of all heads."""
        outputs = [head.predict(features, detections, branches=branches) for head in self._heads]
        logits = {name: value for output in outputs for name, value in output.logits.items()}
        return RefineHeadOutput(logits, outputs[0].extents)  # all heads have the same regions

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """As `RefineHead.use_keypoint_spec`, of all heads."""
        for head in self._heads:
            head.use_keypoint_spec(spec)

    def own_logits(self, result: RefineHeadOutput) -> list[OutputLogits]:
        """As `RefineHead.own_logits`, of all heads."""
        kinds = {name: kind for head in self._heads for name, kind in head.outputs.items()}
        return [OutputLogits(kinds[name], logits, result.extents) for name, logits in result.logits.items()]

    def attach(self, result: RefineHeadOutput, detections: Sequence[BoxList]) -> list[BoxList]:
        """As `RefineHead.attach`; each head replaces the fields of its own outputs."""
        for head in self._heads:
            own = {name: result.logits[name] for name in head.outputs}
            detections = head.attach(RefineHeadOutput(own, result.extents), detections)
        return list(detections)

    @property
    def _heads(self) -> list[RefineHead]:
        return [head for head in self.values() if isinstance(head, RefineHead)]


def _drawn_features(cfg: CfgNode, indicators: Iterable[str]) -> list[str]:
    """The first indicator of each head, if indicators are the features of heads; else none."""
    if cfg.MODEL.ROI_REFINE_HEAD.INDICATOR_FORM != FEATURES:
        return []
    head_of = {name: head for head, kind in heads_of(cfg).items() for name in kind.output_names(cfg)}
    first = {head_of.get(name, name): name for name in reversed(list(indicators))}
    return [name for name in indicators if name in first.values()]


def _make_projections(
    cfg: CfgNode, indicators: Sequence[str], branch_channels: Mapping[str, int]
) -> dict[str, nn.Module]:
    """For features as indicators: a convolution per head from its features, often hundreds of channels, to CONV_DIM."""
    node = cfg.MODEL.ROI_REFINE_HEAD
    missing = [name for name in indicators if name not in branch_channels]
    if missing:
        raise ValueError(
            f"MODEL.ROI_REFINE_HEAD.INDICATOR_FORM is {FEATURES!r}, and the channels of the features of "
            f"{' and '.join(missing)} are not given; pass branch_channels={{name: channels}}"
        )
    return {name: nn.Conv2d(branch_channels[name], node.CONV_DIM, 1) for name in indicators}


def build_roi_refine_head(
    cfg: CfgNode, in_channels: int, branch_channels: Mapping[str, int] | None = None
) -> RefineHead | PrivateRefineHeads:
    """The refine head as configured: one for all outputs, or one for each if `SHARED` is False.

    Args:
        in_channels: channels of the feature levels.
        branch_channels: name of an output -> channels of the features of its coarse head (`feature_channels`); needed
            if the indicators are these features.
    Raises: ValueError if they are needed and not given.
    """
    _check_cfg(cfg)
    node = cfg.MODEL.ROI_REFINE_HEAD
    known = {name: output for name, output in outputs_of(cfg).items() if isinstance(output, MapKind)}
    chosen: dict[str, list[str]] = {"OUTPUTS": [], "INDICATORS": []}
    if known:
        chosen = {key: _checked_names(cfg, key, known) for key in chosen}
    else:
        switches = dict.fromkeys(head.SWITCH for head in registry.ROI_HEADS.values())
        config_problem(
            "MODEL.REFINE_ON is True, but no head is on whose output can be refined; switch one on "
            f"({', '.join(switches)}), or REFINE_ON off."
        )
    outputs = {name: known[name].refined(cfg) for name in chosen["OUTPUTS"]}
    indicators = {name: known[name] for name in chosen["INDICATORS"]}

    def build(names: Iterable[str], shown: Iterable[str]) -> RefineHead:
        return RefineHead.from_cfg(
            cfg,
            in_channels,
            branch_channels or {},
            outputs={name: outputs[name] for name in names},
            indicators={name: indicators[name] for name in shown},
        )

    if node.SHARED:
        return build(outputs, indicators)
    return PrivateRefineHeads({name: build([name], indicators.keys() & {name}) for name in outputs})


def _check_cfg(cfg: CfgNode) -> None:
    node, section = cfg.MODEL.ROI_REFINE_HEAD, "MODEL.ROI_REFINE_HEAD"
    check_choice(f"{section}.INDICATOR_FORM", node.INDICATOR_FORM, INDICATOR_FORMS)
    check_choice(f"{section}.FEATURE_EXTRACTOR", node.FEATURE_EXTRACTOR, registry.ROI_REFINE_FEATURE_EXTRACTORS)
    check_choice(f"{section}.PREDICTOR", node.PREDICTOR, registry.ROI_REFINE_PREDICTOR)
    if node.ROI_EXPAND < 1:
        config_problem(f"{section}.ROI_EXPAND is {node.ROI_EXPAND}; the region can only grow: expected 1 or more.")
    for key in ("NUM_STACKS", "POOLER_RESOLUTION", "CONV_DIM"):
        check_range(f"{section}.{key}", node[key], 1)


def _checked_names(cfg: CfgNode, key: str, known: Mapping[str, MapKind[Any]]) -> list[str]:
    """The outputs that a key names, each by its own name and once.

    Reports names of outputs that no head predicts, outputs given twice, and OUTPUTS without any.
    """
    names, expected = cfg.MODEL.ROI_REFINE_HEAD[key], ", ".join(map(repr, known))
    own_names = {alias: name for name, output in known.items() for alias in (*output.aliases, name)}
    if key == "OUTPUTS" and not names:
        config_problem(f"MODEL.ROI_REFINE_HEAD.OUTPUTS is empty; expected one or more of {expected}.")
    for name in names:
        if name in own_names:
            continue
        head = next((head for head in registry.ROI_HEADS.values() if name in head.output_names(cfg)), None)
        if head is None or head.is_on(cfg):
            config_problem(f"MODEL.ROI_REFINE_HEAD.{key} has {name!r}; expected one or more of {expected}.")
        else:
            reason = "does not name it" if head.SWITCH == ROIHead.SWITCH else "is False"
            others = tuple(other for other in names if other != name)
            config_problem(
                f"MODEL.ROI_REFINE_HEAD.{key} has {name!r}, but {head.SWITCH} {reason}, so there is no such head; "
                f"switch it on, or set {key} to {others!r}."
            )
    chosen = [own_names[name] for name in names if name in own_names]
    if len(set(names)) != len(names) or len(set(chosen)) != len(chosen):
        config_problem(f"MODEL.ROI_REFINE_HEAD.{key} is {names}: it names an output twice; name each once.")
    return list(dict.fromkeys(chosen))

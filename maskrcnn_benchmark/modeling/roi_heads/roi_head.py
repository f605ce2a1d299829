"""The frame of a RoI head: features of RoIs, a predictor, and the kinds of output that it predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.batching import is_of_classes
from maskrcnn_benchmark.modeling.poolers import rois_from_boxlists
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind, OutputLogits
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.detector_kind import has_roi_heads

if TYPE_CHECKING:
    from yacs.config import CfgNode

BOX_TASK = "bbox"


@dataclass(frozen=True)
class BranchOutput:
    """Result of a RoI head for R RoIs: the positives in training, else the detections of all images in order."""

    logits: Tensor  # (R, ...) of the predictor
    features: Tensor  # (R, C, ...), input of the predictor
    losses: dict[str, Tensor] = field(default_factory=dict)  # training
    detections: list[BoxList] = field(default_factory=list)  # inference: the given ones with the head's fields
    own_logits: dict[str, Tensor] = field(default_factory=dict)  # output -> (R, ...) of a predictor of its own

    def logits_of(self, output: OutputKind) -> Tensor:
        """(R, ...) of the predictor that predicts this output."""
        return self.own_logits.get(output.name, self.logits)

    def spread(self, rows: Tensor, count: int) -> BranchOutput:
        """These R results at the positions `rows` (R,) among `count`, with zero logits and features elsewhere."""

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(count, *values.shape[1:]).index_copy(0, rows, values)

        own_logits = {name: spread(logits) for name, logits in self.own_logits.items()}
        return replace(self, logits=spread(self.logits), features=spread(self.features), own_logits=own_logits)


class ROIHead(nn.Module):
    """A head after the box head: a feature extractor, a predictor, and the outputs that the predictor yields.

    A head of a user's own subclasses this, sets `NAME`, defines `outputs_from_cfg` and `from_cfg`, and registers the
    class: `@registry.ROI_HEADS.register("age")`. docs/EXTENDING.md has an example.

    Args:
        feature_extractor: (features, rois (R, 5)) -> (R, C, ...); None if the head reads the box head's features,
            which `forward` is then given.
        predictor: (R, C, ...) -> logits (R, ...).
        outputs: kinds of output to read from the logits.
        own_predictors: output -> (R, C, ...) -> logits (R, ...), for outputs that the predictor does not predict.
        feature_channels: C.
        learns: compute losses; False if the detector is frozen.
    """

    NAME: ClassVar[str]  # key in ROI_HEADS and of the head's weights, `roi_heads.<NAME>`
    SWITCH: ClassVar[str] = "MODEL.ROI_HEADS.EXTRA"  # config key that turns the head on: a bool, or a list of names

    def __init__(
        self,
        feature_extractor: nn.Module | None,
        predictor: nn.Module,
        *,
        outputs: Sequence[OutputKind],
        own_predictors: Mapping[str, nn.Module] | None = None,
        feature_channels: int,
        learns: bool = True,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor
        self.own_predictors = nn.ModuleDict(dict(own_predictors or {}))
        self.outputs = {output.name: output for output in outputs}
        self.feature_channels = feature_channels
        self.learns = learns

    @classmethod
    def is_on(cls, cfg: CfgNode) -> bool:
        """Does the config turn this head on?"""
        node = cfg
        for key in cls.SWITCH.split("."):
            node = node[key]
        return node if isinstance(node, bool) else cls.NAME in node

    @classmethod
    def shares_box_features(cls, cfg: CfgNode) -> bool:
        """Does the head read the box head's features instead of computing its own?"""
        return False

    @classmethod
    def outputs_from_cfg(cls, cfg: CfgNode) -> list[OutputKind]:
        """The kinds of output as configured. Called without a model too, to name the tasks of a config."""
        raise NotImplementedError(f"{cls.__name__} needs a classmethod `outputs_from_cfg(cfg)`")

    @classmethod
    def output_names(cls, cfg: CfgNode) -> Sequence[str]:
        """Names of the outputs that the head has if the config turns it on."""
        return (cls.NAME,)

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, *, learns: bool = True, shared_resolution: int | None = None
    ) -> ROIHead:
        """The head as configured.

        Args:
            in_channels: channels of the feature levels; of the box head's features if the head shares them.
            learns: compute losses.
            shared_resolution: cells per side of the box head's features; None if unknown, or if they are vectors.
        """
        raise NotImplementedError(f"{cls.__name__} needs a classmethod `from_cfg(cfg, in_channels, ...)`")

    def forward(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        targets: Sequence[BoxList] | None = None,
        box_features: Tensor | None = None,
    ) -> BranchOutput:
        """
        Args:
            features: L maps (N, in_channels, H_l, W_l).
            rois: the positives to train on; or detections with `labels`, one BoxList per image, to complete.
            targets: ground truth with the outputs' target fields, one BoxList per image; training only.
            box_features: (R, C, s, s) of the same RoIs; read only if the box head's extractor is shared.
        Raises: ValueError if the features of a shared extractor, or the targets, are not given.
        """
        result = self.predict(features, rois, box_features)
        if not isinstance(rois, SampledProposals):
            detections = list(rois)
            for own in self.own_logits(result, rois):
                detections = own.kind.attach(own.logits, detections)
            return replace(result, detections=detections)
        if not self.learns:
            return result
        if targets is None:
            raise ValueError(f"in training the {self.NAME} head needs `targets`, one BoxList per image")
        return replace(result, losses=self.compute_losses(result, rois, targets))

    def compute_losses(
        self, result: BranchOutput, positives: SampledProposals, targets: Sequence[BoxList]
    ) -> dict[str, Tensor]:
        """The loss of each output. Override this if outputs share work, or if there are losses of several outputs.

        Args:
            result: of `predict`.
            positives: the R RoIs that matched an instance. R may be 0.
            targets: ground truth with the outputs' target fields, one BoxList per image.
        """
        return {
            output.loss_name: output.loss(
                output.select_own(result.logits_of(output), positives.labels), positives, targets
            )
            for output in self.outputs.values()
        }

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """Tell the outputs what the keypoints are, see `OutputKind.use_keypoint_spec`."""
        for output in self.outputs.values():
            output.use_keypoint_spec(spec)

    def predict(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        box_features: Tensor | None = None,
    ) -> BranchOutput:
        """As `forward`, but without losses, and without writing anything to detections.

        RoIs of classes that no output is predicted for are not computed: their features and logits are zero.

        Override this if the head computes its logits differently.
        """
        wanted = self._wanted(rois)
        rows = None if wanted is None else wanted.nonzero()[:, 0]  # on a GPU this synchronises, to learn their number
        x = self._extract(features, rois, box_features, rows)
        own_logits = {name: predictor(x) for name, predictor in self.own_predictors.items()}
        result = BranchOutput(self.predictor(x), x, own_logits=own_logits)
        return result if wanted is None or rows is None else result.spread(rows, len(wanted))

    def own_logits(self, result: BranchOutput, detections: Sequence[BoxList]) -> list[OutputLogits]:
        """The part of each output in the result of `predict`, for detections with `labels`."""
        labels = _labels_of(detections)
        return [
            OutputLogits(output, output.select_own(result.logits_of(output), labels))
            for output in self.outputs.values()
        ]

    def _wanted(self, rois: SampledProposals | Sequence[BoxList]) -> Tensor | None:
        """(R,) bool, the RoIs of classes that an output is predicted for; None if it is every class."""
        if not all(output.classes for output in self.outputs.values()):
            return None
        classes = sorted({label for output in self.outputs.values() for label in output.classes})
        return is_of_classes(rois.labels if isinstance(rois, SampledProposals) else _labels_of(rois), classes)

    def _extract(
        self,
        features: Sequence[Tensor],
        rois: SampledProposals | Sequence[BoxList],
        box_features: Tensor | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Features of all RoIs, or of those in `rows`."""
        if self.feature_extractor is not None:
            boxes = rois.rois if isinstance(rois, SampledProposals) else rois_from_boxlists(rois)
            x: Tensor = self.feature_extractor(features, boxes if rows is None else boxes[rows])
            return x
        if box_features is None:
            raise ValueError(
                f"the {self.NAME} head shares the box head's features and needs `box_features`; for features of its "
                f"own set MODEL.ROI_{self.NAME.upper()}_HEAD.SHARE_BOX_FEATURE_EXTRACTOR to False"
            )
        return box_features if rows is None else box_features[rows]


def _labels_of(detections: Sequence[BoxList]) -> Tensor:
    return torch.cat([boxes.get_field(LABELS) for boxes in detections])


def heads_of(cfg: CfgNode) -> dict[str, type[ROIHead]]:
    """The registered heads that the config turns on, in order of registration: the package's own come first."""
    return {name: head for name, head in registry.ROI_HEADS.items() if head.is_on(cfg)}


def outputs_of(cfg: CfgNode) -> dict[str, OutputKind]:
    """The outputs of a model of this config, by name, in the order of its heads."""
    return {output.name: output for head in heads_of(cfg).values() for output in head.outputs_from_cfg(cfg)}


def tasks_of(cfg: CfgNode) -> tuple[str, ...]:
    """Names of the evaluations that a model of this config allows; "bbox" comes first."""
    if not has_roi_heads(cfg):
        return (BOX_TASK,)
    return task_names(outputs_of(cfg).values())


def task_names(outputs: Iterable[OutputKind]) -> tuple[str, ...]:
    """The box task and the tasks of the outputs, each once."""
    return tuple(dict.fromkeys([BOX_TASK, *(task for output in outputs for task in (output.task, *output.more_tasks))]))

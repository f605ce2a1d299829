"""Keypoints as a kind of output: a heat map per keypoint to a target, a loss and a field of detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.keypoint_ops import RELU, SOFTMAX, cell_probabilities
from maskrcnn_benchmark.modeling.batching import is_of_classes, to_device
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import KeypointLoss, matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.detector_kind import num_classes
from maskrcnn_benchmark.utils.problems import check_choice, check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Outside the coarse heat map a cell is a twentieth as likely as the average cell inside. All cells around the RoI
# together then have a few percent, however peaked the map is, and the maximum stays inside.
OUTSIDE_LOGIT = -3.0

_MIN_SIDE = 1.0  # pixels
_LEAST_PROBABILITY = 1e-6  # of a cell, whose logarithm has to be finite

NORMALIZERS = ("visible", "batch_size")


def _classes(cfg: CfgNode) -> tuple[int, ...]:
    """MODEL.ROI_KEYPOINT_HEAD.CLASSES, checked."""
    classes = tuple(cfg.MODEL.ROI_KEYPOINT_HEAD.CLASSES)
    key, count = num_classes(cfg)
    if len(set(classes)) < len(classes) or not all(0 < label < count for label in classes):
        config_problem(
            f"MODEL.ROI_KEYPOINT_HEAD.CLASSES is {classes}; expected different labels from 1 to {count - 1}, as {key} "
            f"is {count} with the background. () means every class."
        )
    return classes


def _keypoints_per_image(cfg: CfgNode) -> float:
    """The number of keypoints of the most RoIs that are sampled from an image, as Detectron2's static normaliser."""
    node, keypoint_node = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_KEYPOINT_HEAD
    keypoints_per_roi = keypoint_node.OHKM_TOP or keypoint_node.NUM_CLASSES
    return float(keypoints_per_roi * node.BATCH_SIZE_PER_IMAGE * node.POSITIVE_FRACTION)


def keypoint_frames(boxes: Tensor) -> Tensor:
    """(R, 4) boxes -> (R, 4) what a coarse heat map spans: the box from corner to corner, at least a pixel wide."""
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + _MIN_SIDE)], dim=1)


@dataclass(eq=False)
class KeypointKind(MapKind[Tensor]):
    """K keypoints, each with a heat map: of logits, or of heights if the loss is the squared error.

    Args:
        num_maps: K.
        resolution: cells per side that the predictor has to yield; None does not check.
        loss_name, loss_weight: key and factor of the loss.
        learns: the target of a map, and the loss.
        coarse_activation: of the coarse maps that refinement starts from; None if they are as these maps.
        keypoints_per_image: the loss is divided by this number for each image; None divides by the number of keypoints
            that have a target.
        post_processor: writes keypoints to detections.
        classes: labels of the classes that have keypoints; () for every class. Detections of other classes get
            keypoints whose visibility, coordinates and scores are zero.
        spec: names, flip pairs and sigmas of the keypoints. None until the data or a checkpoint tell
            (`use_keypoint_spec`); 17 are taken for a person's until then.
    """

    name = "keypoint"
    task = "keypoints"
    target_field = fields.KEYPOINTS
    flip_test = "FLIP_KEYPOINTS"
    refined_fields = (
        (fields.KEYPOINTS, fields.COARSE_KEYPOINTS),
        (fields.KEYPOINT_SCORES, fields.COARSE_KEYPOINT_SCORES),
    )

    num_maps: int
    _: KW_ONLY
    resolution: int | None = None
    loss_name: str = "loss_kp"
    loss_weight: float = 1.0
    learns: KeypointLoss = KeypointLoss()
    coarse_activation: str | None = None
    keypoints_per_image: float | None = None
    post_processor: KeypointPostProcessor = field(default_factory=KeypointPostProcessor)
    classes: Sequence[int] = ()
    spec: KeypointSpec | None = None

    def __post_init__(self) -> None:
        self.num_own_maps = self.num_maps
        if self.spec is None and self.num_maps == len(COCO_PERSON):
            self.spec = COCO_PERSON

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> KeypointKind:
        node = cfg.MODEL.ROI_KEYPOINT_HEAD
        check_range("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", node.NUM_CLASSES, 1)
        check_choice("MODEL.ROI_KEYPOINT_HEAD.LOSS_NORMALIZER", node.LOSS_NORMALIZER, NORMALIZERS)
        sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
        if sigmas and len(sigmas) != node.NUM_CLASSES:
            config_problem(
                f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers, MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is "
                f"{node.NUM_CLASSES}; expected a number for each keypoint."
            )
        return cls(
            node.NUM_CLASSES,
            resolution=node.RESOLUTION,
            loss_weight=node.LOSS_WEIGHT,
            learns=KeypointLoss.from_cfg(cfg),
            keypoints_per_image=_keypoints_per_image(cfg) if node.LOSS_NORMALIZER == "batch_size" else None,
            post_processor=KeypointPostProcessor.from_cfg(cfg, "ROI_KEYPOINT_HEAD"),
            classes=_classes(cfg),
        )

    def refined(self, cfg: CfgNode) -> KeypointKind:
        return KeypointKind(
            self.num_maps,
            loss_name="loss_refine_kp",
            loss_weight=cfg.MODEL.ROI_REFINE_HEAD.LOSS_WEIGHT_KEYPOINT,
            learns=KeypointLoss.from_cfg(cfg, "ROI_REFINE_HEAD"),
            coarse_activation=self.activation,
            post_processor=KeypointPostProcessor.from_cfg(cfg, "ROI_REFINE_HEAD"),
            classes=self.classes,
            spec=self.spec,
        )

    @property
    def activation(self) -> str:
        """What the maps are, see `cell_probabilities`."""
        return self.learns.activation

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """As `OutputKind.use_keypoint_spec`. Raises: ValueError for another number of keypoints."""
        if len(spec) != self.num_maps:
            whose = f" of {spec.source}" if spec.source else ""
            raise ValueError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {self.num_maps}, but there are {spec}{whose}; set it to "
                f"{len(spec)}"
            )
        self.spec = spec

    def frames(self, boxes: Tensor) -> Tensor:
        return keypoint_frames(boxes)

    def probabilities(self, logits: Tensor) -> Tensor:
        return cell_probabilities(logits, self.activation)

    def start(self, coarse: Tensor) -> Tensor:
        """Coarse maps with another activation become maps with this one and the same probabilities.

        Heights have the sum of the Gaussians that they learn, so that vague maps are low, or a maximum of 1 if that
        would be higher.
        """
        if self.coarse_activation in (None, self.activation):
            return coarse
        probabilities = cell_probabilities(coarse, self.coarse_activation)
        if self.activation == SOFTMAX:
            return probabilities.clamp(min=_LEAST_PROBABILITY).log()
        largest = probabilities.amax(dim=(2, 3), keepdim=True)
        return probabilities / largest.clamp(min=1 / (2 * math.pi * self.learns.sigma**2))

    def mirror(self, logits: Tensor) -> Tensor:
        """Mirrors the maps, and swaps the maps of the keypoints that change places."""
        return logits.flip(-1).index_select(1, to_device(self.flip_inds, logits.device))

    @property
    def flip_inds(self) -> tuple[int, ...]:
        """As `KeypointSpec.flip_inds`. Raises: ValueError if it is not known which keypoints change places."""
        spec = self.spec or KeypointSpec.unnamed(self.num_maps)
        if spec.flip_inds is None:
            raise ValueError(spec.flip_problem)
        return spec.flip_inds

    @property
    def mirror_problem(self) -> str | None:
        """As `OutputKind.mirror_problem`; None too while the keypoints are not known, since the data may tell."""
        return None if self.spec is None else self.spec.flip_problem

    def normalize_drawn(self, probabilities: Tensor) -> Tensor:
        """Divide each map by its largest value, so that it peaks at 1; its spread says how sure the prediction is."""
        peaks = probabilities.flatten(2).amax(-1)[..., None, None]
        return probabilities / peaks.clamp(min=torch.finfo(probabilities.dtype).tiny)

    def outside_logit(self, logits: Tensor) -> Tensor | float:
        if self.activation == RELU:
            return 0.0
        cells = logits.shape[-2] * logits.shape[-1]
        log_mean = logits.flatten(2).logsumexp(-1)[..., None, None] - math.log(cells)
        return log_mean + OUTSIDE_LOGIT

    def loss(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """As `OutputKind.loss`; the RoI's box frames the targets.

        Raises: ValueError if the logits' resolution is not the configured one.
        """
        self.check_resolution(logits)
        divisor = None if self.keypoints_per_image is None else self.keypoints_per_image * len(targets)
        return self._loss(logits, matched_keypoints(positives, targets), positives.boxes, divisor)

    def match_targets(
        self, positives: SampledProposals, targets: Sequence[BoxList], host_frames: Tensor, size: int
    ) -> Tensor:
        """(R, K, 3) keypoints in image pixels. They do not depend on the frames."""
        return matched_keypoints(positives, targets)

    def frame_loss(self, logits: Tensor, matched: Tensor, frames: Tensor) -> Tensor:
        """As `MapKind.frame_loss`.

        Raises: ValueError if the targets and the logits differ in the number of keypoints.
        """
        return self._loss(logits, matched, frames)

    def _loss(self, logits: Tensor, matched: Tensor, frames: Tensor, divisor: float | None = None) -> Tensor:
        if matched.shape[1] != logits.shape[1]:
            raise ValueError(
                f"the targets have {matched.shape[1]} keypoints per instance, the keypoint predictor "
                f"{logits.shape[1]}; set MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES to {matched.shape[1]}"
            )
        return self.loss_weight * self.learns(logits, matched, frames, divisor)

    def attach(self, logits: Tensor, detections: Sequence[BoxList], frames: Tensor | None = None) -> list[BoxList]:
        results: list[BoxList] = self.post_processor(logits, detections, frames, self.spec)
        if self.classes:
            for result in results:
                _clear_keypoints(result, ~is_of_classes(result.get_field(fields.LABELS), self.classes))
        return results


def _clear_keypoints(detections: BoxList, rows: Tensor) -> None:
    """Set everything about the keypoints of these detections, (R,) bool, to zero: they have none."""
    found: Keypoints = detections.get_field(fields.KEYPOINTS)
    cleared = found[slice(None)]
    cleared.keypoints = _with_zeros(found.keypoints, rows)
    for name, value in found.extra_fields.items():
        cleared.add_field(name, _with_zeros(value, rows))
    detections.add_field(fields.KEYPOINTS, cleared)
    for name in (fields.KEYPOINT_SCORES, fields.KEYPOINT_VISIBILITY):
        if detections.has_field(name):
            detections.add_field(name, _with_zeros(detections.get_field(name), rows))


def _with_zeros(values: Tensor, rows: Tensor) -> Tensor:
    """(R, ...) values that are zero where `rows` (R,) is set."""
    return values.masked_fill(rows.view(-1, *[1] * (values.dim() - 1)), 0)

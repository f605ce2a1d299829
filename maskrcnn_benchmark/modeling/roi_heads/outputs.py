"""What a RoI head predicts. Each kind of output is an object that knows its target, its loss and its place in results.

`OutputKind` is the least that a head needs. `MapKind` is for outputs that are maps over the RoI, such as masks and heat
maps; the refine head can refine those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor

from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

if TYPE_CHECKING:
    from yacs.config import CfgNode

Matched = TypeVar("Matched")


class OutputKind(ABC):
    """One kind of output of a RoI head.

    Attributes:
        name: unique among the outputs of a model; ROI_REFINE_HEAD.OUTPUTS and INDICATORS use it.
        task: name of its evaluation, as in the results: "segm", "keypoints".
        loss_name: key of its loss among the losses of a training step.
        target_field: field of the ground truth that it learns from.
        classes: labels that it is predicted for; () for every class.
        flip_test: key of TEST that averages the output with that of the mirrored image, in `FLIP_TESTS`; None for none.
        aliases: other names that ROI_REFINE_HEAD.OUTPUTS and INDICATORS may use.
        more_tasks: evaluations besides `task` that score the same predictions.
    """

    name: str
    task: str
    loss_name: str
    target_field: str
    classes: Sequence[int] = ()
    flip_test: str | None = None
    aliases: Sequence[str] = ()
    more_tasks: Sequence[str] = ()

    def select_own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The part of the head's logits that belongs to this output and to the class of each RoI.

        Args:
            logits: (R, ...) of the head's predictor.
            labels: (R,) int64, labelled in training, else predicted.
        """
        return logits

    @abstractmethod
    def loss(self, logits: Tensor, positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
        """
        Args:
            logits: (R, ...) from `select_own`.
            positives: the R RoIs that matched an instance. R may be 0.
            targets: ground truth with `target_field`, one BoxList per image.
        Returns: scalar; attached to the graph of `logits` and zero if there is nothing to learn from.
        """

    @abstractmethod
    def attach(self, logits: Tensor, detections: Sequence[BoxList]) -> list[BoxList]:
        """Write the output to new BoxLists, besides the fields that the detections have.

        Args:
            logits: (R, ...) from `select_own`; rows in the order of the detections of all images.
            detections: one BoxList per image.
        """

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """Take what is known about the data's keypoints. Called when the model meets its data or its checkpoint."""
        return

    # Several views of an image (test-time augmentation)

    def averaged_values(self, logits: Tensor) -> Tensor:
        """What is averaged over views: (R, ...) from `select_own` -> (R, ...) float32. By default the logits."""
        return logits.float()

    def logits_of_average(self, values: Tensor) -> Tensor:
        """Invert `averaged_values`: an average -> logits for `attach`."""
        return values

    def mirror(self, logits: Tensor) -> Tensor:
        """(R, ...) from `select_own`, predicted in a mirrored image -> what they say about the image itself."""
        raise NotImplementedError(self.mirror_problem)

    @property
    def mirror_problem(self) -> str | None:
        """Why `mirror` cannot be used, and what to do about it; None if it can."""
        if type(self).mirror is not OutputKind.mirror:
            return None
        return (
            f"the output {self.name!r} does not say what a mirrored image means for it: define "
            f"`mirror(logits)` in {type(self).__name__}"
        )


@dataclass(frozen=True)
class OutputLogits:
    """Logits of one output for R RoIs, before they are written to detections."""

    kind: OutputKind
    logits: Tensor  # (R, ...) from `select_own`
    frames: Tensor | None = None  # (R, 4) that refined maps span; None for a coarse output


class MapKind(OutputKind, Generic[Matched]):
    """An output that is one or more maps over each RoI.

    Maps span a frame: a rectangle (x1, y1, x2, y2) in pixels, half-open. The coarse head's frame is the RoI itself
    (`frames`), the refine head's is larger.

    Attributes:
        num_maps: maps that a predictor yields per RoI: J for one per class, K for one per keypoint.
        num_own_maps: maps per RoI after `select_own`.
        resolution: cells per side that MODEL.<section>.RESOLUTION asks of the predictor; None for any.
        section: of the head's keys in the config, such as "ROI_MASK_HEAD".
        refined_fields: fields of detections that refinement replaces, each with the field for the coarse value.
    """

    num_maps: int
    num_own_maps: int
    resolution: int | None
    refined_fields: Sequence[tuple[str, str]]

    @property
    def section(self) -> str:
        return f"ROI_{self.name.upper()}_HEAD"

    @abstractmethod
    def refined(self, cfg: CfgNode) -> MapKind[Matched]:
        """This kind as output of the refine head: with the loss and the post-processing of MODEL.ROI_REFINE_HEAD."""

    @abstractmethod
    def frames(self, boxes: Tensor) -> Tensor:
        """(R, 4) boxes -> (R, 4) frames of the coarse head's maps."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """(R, num_own_maps, S, S) logits -> probabilities of the same shape."""

    def start(self, coarse: Tensor) -> Tensor:
        """Coarse logits (R, num_own_maps, S, S), redrawn in the refined frame -> what the correction is added to."""
        return coarse

    def normalize_drawn(self, probabilities: Tensor) -> Tensor:
        """Scale probabilities that were drawn into another frame, before they become input channels of a trunk."""
        return probabilities

    @abstractmethod
    def outside_logit(self, logits: Tensor) -> Tensor | float:
        """The logit to continue (R, num_own_maps, S, S) with outside the coarse frame; broadcasts over the cells."""

    def check_resolution(self, logits: Tensor) -> None:
        """Raises: ValueError if the logits' resolution is not the configured one."""
        if self.resolution is not None and logits.shape[-1] != self.resolution:
            section = f"MODEL.{self.section}"
            raise ValueError(
                f"the {self.name} predictor yields {logits.shape[-1]} cells per side, {section}.RESOLUTION is "
                f"{self.resolution}; set it to {logits.shape[-1]} or change {section}.POOLER_RESOLUTION"
            )

    @abstractmethod
    def match_targets(
        self, positives: SampledProposals, targets: Sequence[BoxList], host_frames: Tensor, size: int
    ) -> Matched:
        """Targets of each RoI's instance, for `frame_loss`.

        Args:
            host_frames: (R, 4) frames of the maps, on the CPU.
            size: cells per side of the maps.
        """

    @abstractmethod
    def frame_loss(self, logits: Tensor, matched: Matched, frames: Tensor) -> Tensor:
        """
        Args:
            logits: (R, num_own_maps, S, S).
            matched: from `match_targets` for the same frames.
            frames: (R, 4), on the device of the logits.
        Returns: weighted loss, a scalar; zero and attached to the graph if there is nothing to learn from.
        """

    @abstractmethod
    def attach(self, logits: Tensor, detections: Sequence[BoxList], frames: Tensor | None = None) -> list[BoxList]:
        """As `OutputKind.attach`. `frames` (R, 4) is what the maps span; None for the detections' own boxes."""


def attach_rows(detections: Sequence[BoxList], name: str, values: Tensor) -> list[BoxList]:
    """New BoxLists with the field `name`: (R, ...) values, rows in the order of the detections of all images."""
    results = [boxes.copy_with_fields(boxes.fields()) for boxes in detections]
    for result, rows in zip(results, values.split([len(boxes) for boxes in detections]), strict=True):
        result.add_field(name, rows)
    return results

"""The tasks that COCO's evaluation scores. Each is one object that packs, writes and measures a kind of result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from torch import Tensor

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.named_masks import mask_names, with_mask
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

from ..base import EvaluationSettings
from .crowding import images_by_level
from .from_groundtruth import coco_from_groundtruth
from .ground_truth import build_ground_truth, new_coco
from .keypoint_matching import ImageKeypoints
from .keypoint_scores import gather_instances, score_keypoints
from .measures import BOUNDARY, headline_metrics, run_cocoeval
from .run_lengths import RLE, encode_detected_masks

COARSE = "_coarse"  # ending of the names of results from before refinement
NAMED_MASK = "segm_"  # beginning of the name of the task of a named mask


@dataclass(frozen=True)
class Stage:
    """Results of a task before or after refinement; each has its own file and its own row in the table.

    Attributes:
        name: of the file and the row, such as "segm" or "segm_coarse".
        field: BoxList field that holds the results; None for the boxes themselves.
        score_field: field of the scores to rank by; without this field, the scores of the boxes are used.
        boxes_field: field of the boxes that a mask spans; without this field, it spans the boxes of the detections.
    """

    name: str
    field: str | None = None
    score_field: str | None = None
    boxes_field: str | None = None


class DetectionsOfImage(Protocol):
    """What a task reads of `ImageResult`."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def packed(self) -> Mapping[str, Any]: ...

    def scores_of(self, name: str) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class StageResults:
    """All results of a stage.

    Attributes:
        dataset: that is evaluated.
        image_ids, results: of each image.
        entries: of the result file.
    """

    dataset: DetectionDataset
    image_ids: Sequence[Any]
    results: Sequence[DetectionsOfImage]
    entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class MoreScores:
    """Metrics for the row of a stage, and for each keypoint: name -> metric -> value."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    per_keypoint: dict[str, dict[str, float]] = field(default_factory=dict)


class Task(ABC):
    """A kind of result: what it is in the detections, in COCO's result files, and how it is scored.

    A task of your own is added by `TASKS[task.name] = task`.

    Attributes:
        name: "bbox", "segm", ...
        stages: the final one, with the name of the task, and the one before refinement, if the task can be refined.
        iou_type: name of its measure in `MEASURES`; "segm" and "keypoints" also need complete annotations.
        entry_key: key of the result in an entry of the result file.
        group: key of the results in predictions.pth; None if they are not kept there.
    """

    name: str
    stages: Sequence[Stage]
    iou_type: str
    entry_key: str
    group: str | None

    def pack(self, stage: Stage, detections: BoxList, resized: BoxList) -> Any:
        """The results of one image, small and on the CPU. Only called for a stage with a field that is there.

        Args:
            detections: in pixels of the image that the model was given.
            resized: the same in pixels of the image file.
        """
        raise NotImplementedError(f"{type(self).__name__} has a stage with the field {stage.field!r}, but no `pack`")

    @abstractmethod
    def entries(self, packed: Any) -> Sequence[Any]:
        """One JSON value per detection, from what `pack` returned."""

    def unpack(self, entries: Sequence[Any]) -> Any:
        """The inverse of `entries`: what `pack` returned, from one JSON value per detection."""
        return np.asarray(entries, dtype=np.float32)

    def plain(self, packed: Any) -> Any:
        """What `pack` returned, as tensors, strings and numbers."""
        return torch.from_numpy(packed)

    def check(self, coco: COCO, settings: EvaluationSettings) -> None:
        """Raise ValueError if these annotations cannot be scored. Called before anything is detected."""
        return

    def annotations(self, dataset: DetectionDataset, coco: COCO) -> COCO:
        """The annotations of the data set for this task; `coco` are those for most tasks."""
        return coco

    def ground_truth(self, coco: COCO, image_ids: Sequence[Any], settings: EvaluationSettings) -> COCO:
        """The annotations of these images, complete enough for pycocotools."""
        return build_ground_truth(coco, image_ids, self.iou_type, len(settings.keypoint_oks_sigmas))

    def category_ids(self, coco: COCO) -> Set[Any] | None:
        """The categories that can have such results; None for all. Detections of others are not written."""
        return None

    def measures(self, settings: EvaluationSettings) -> Mapping[str, str]:
        """Row of the table -> name in `MEASURES`, for the final stage; other stages add their ending to the row."""
        return {self.name: self.iou_type}

    def score_more(
        self, stage: Stage, found: StageResults, ground_truth: COCO, settings: EvaluationSettings
    ) -> MoreScores:
        """What the measures of a stage do not give.

        Args:
            ground_truth: as from `ground_truth`.
        """
        return MoreScores()


class BoxTask(Task):
    """Boxes. Every detection has one, and `ImageResult.boxes` holds them."""

    name, iou_type, entry_key, group = "bbox", "bbox", "bbox", None
    stages = (Stage("bbox"),)

    def entries(self, packed: NDArray[np.float32]) -> Sequence[Any]:
        boxes: list[Any] = packed.tolist()
        return boxes

    def unpack(self, entries: Sequence[Any]) -> NDArray[np.float32]:
        return np.asarray(entries, dtype=np.float32).reshape(-1, 4)


class MaskTask(Task):
    """The plain mask, pasted into the image on the detections' device and kept as run lengths.

    A subclass with its own `name` and `stages` scores other masks of the detections.

    Attributes:
        mask_name: name of the mask if instances have several; empty for the plain one.
    """

    mask_name = ""

    name, iou_type, entry_key, group = "segm", "segm", "segmentation", "masks"
    stages = (
        Stage("segm", fields.MASK, fields.MASK_SCORES, fields.MASK_BOXES),
        Stage(f"segm{COARSE}", fields.COARSE_MASK, fields.COARSE_MASK_SCORES),
    )

    def pack(self, stage: Stage, detections: BoxList, resized: BoxList) -> list[RLE]:
        assert stage.field is not None
        width, height = resized.size
        return encode_detected_masks(detections, stage.field, stage.boxes_field, (int(width), int(height)))

    def entries(self, packed: list[RLE]) -> Sequence[Any]:
        return packed

    def unpack(self, entries: Sequence[Any]) -> list[RLE]:
        return list(entries)

    def plain(self, packed: list[RLE]) -> list[RLE]:
        return packed

    def measures(self, settings: EvaluationSettings) -> Mapping[str, str]:
        rows = {self.name: self.iou_type}
        if settings.boundary_ap:
            rows[f"{BOUNDARY}{self.name.removeprefix(self.iou_type)}"] = BOUNDARY
        return rows


class NamedMaskTask(MaskTask):
    """One of several masks of each instance.

    Args:
        mask_name: its name, such as "visible".
    Raises: ValueError if masks cannot have this name.
    """

    def __init__(self, mask_name: str) -> None:
        names = fields.mask_fields(mask_name)
        self.mask_name, self.name = mask_name, f"{NAMED_MASK}{mask_name}"
        self.stages = (
            Stage(self.name, names.mask, names.scores, names.boxes),
            Stage(f"{self.name}{COARSE}", names.coarse, names.coarse_scores),
        )

    def annotations(self, dataset: DetectionDataset, coco: COCO) -> COCO:
        """Made from the ground truth of the data set."""
        return coco_from_groundtruth(dataset, self.mask_name)

    def pack(self, stage: Stage, detections: BoxList, resized: BoxList) -> list[RLE]:
        plain = MaskTask.stages[self.stages.index(stage)]
        return super().pack(plain, with_mask(detections, self.mask_name), resized)


class KeypointTask(Task):
    """Keypoints, (R, K, 3) float32: x, y and visibility."""

    name, iou_type, entry_key, group = "keypoints", "keypoints", "keypoints", "keypoints"
    stages = (
        Stage("keypoints", fields.KEYPOINTS, fields.KEYPOINT_SCORES),
        Stage(f"keypoints{COARSE}", fields.COARSE_KEYPOINTS, fields.COARSE_KEYPOINT_SCORES),
    )

    def pack(self, stage: Stage, detections: BoxList, resized: BoxList) -> NDArray[np.float32]:
        assert stage.field is not None
        return to_numpy(resized.get_field(stage.field).keypoints.float())

    def entries(self, packed: NDArray[np.float32]) -> Sequence[Any]:
        return [points.reshape(-1).tolist() for points in packed]

    def unpack(self, entries: Sequence[Any]) -> NDArray[np.float32]:
        points = len(entries[0]) // 3 if entries else 0
        return np.asarray(entries, dtype=np.float32).reshape(len(entries), points, 3)

    def category_ids(self, coco: COCO) -> Set[Any] | None:
        """Those whose entry lists keypoints, or of which an annotation has some; None if there are none."""
        listed = {entry["id"] for entry in coco.dataset.get("categories", ()) if entry.get("keypoints")}
        annotations = coco.dataset.get("annotations", ())
        return listed | {entry["category_id"] for entry in annotations if any(entry.get("keypoints") or ())} or None

    def ground_truth(self, coco: COCO, image_ids: Sequence[Any], settings: EvaluationSettings) -> COCO:
        truth = super().ground_truth(coco, image_ids, settings)
        wanted = self.category_ids(coco)
        if wanted is None or wanted >= set(truth.getCatIds()):
            return truth
        columns = {"categories": "id", "annotations": "category_id"}
        chosen = {name: [row for row in truth.dataset[name] if row[key] in wanted] for name, key in columns.items()}
        return new_coco({**truth.dataset, **chosen})

    def check(self, coco: COCO, settings: EvaluationSettings) -> None:
        annotations = coco.dataset.get("annotations", ())
        lengths = {len(entry["keypoints"]) // 3 for entry in annotations if entry.get("keypoints")}
        sigmas = len(settings.keypoint_oks_sigmas)
        if lengths - {sigmas}:
            numbers = ", ".join(map(str, sorted(lengths)))
            raise ValueError(
                f"the annotations have {numbers} keypoints, but there are {sigmas} sigmas. "
                "They are those of TEST.KEYPOINT_OKS_SIGMAS; if it is empty, of the data set's keypoints, or COCO's 17 "
                "if it does not describe any. Give one per keypoint (COCO's lie between 0.025 for eyes and 0.107 for "
                "hips)."
            )

    def score_more(
        self, stage: Stage, found: StageResults, ground_truth: COCO, settings: EvaluationSettings
    ) -> MoreScores:
        """AP of CrowdPose's levels, where images have a crowd index; and, if asked for, scores of each keypoint."""
        sigmas, metrics = settings.keypoint_oks_sigmas, {}
        for level, ids in images_by_level(ground_truth, found.image_ids).items():
            in_level = set(ids)
            of_level = [entry for entry in found.entries if entry["image_id"] in in_level]
            evaluation = run_cocoeval(ground_truth, of_level, self.iou_type, ids, sigmas)
            metrics[f"AP{level}"] = headline_metrics(evaluation, self.iou_type)["AP"]
        if not settings.per_keypoint:
            return MoreScores(metrics)
        name = stage.name
        images = [
            ImageKeypoints(image_id, result.labels, result.packed[name], result.boxes, result.scores_of(name))
            for image_id, result in zip(found.image_ids, found.results, strict=True)
            if name in result.packed
        ]
        category_ids = found.dataset.contiguous_category_id_to_json_id
        instances = gather_instances(images, ground_truth, found.image_ids, category_ids, len(sigmas))
        spec = found.dataset.keypoint_spec or COCO_PERSON
        names = spec.names if len(spec) == len(sigmas) else KeypointSpec.unnamed(len(sigmas)).names
        per_keypoint, total = score_keypoints(*instances, names, sigmas)
        return MoreScores({**metrics, **total}, per_keypoint)


TASKS: dict[str, Task] = {task.name: task for task in (BoxTask(), MaskTask(), KeypointTask())}
named_mask_task = lru_cache(NamedMaskTask)


def find_task(name: str) -> Task | None:
    """The task of this name: one of `TASKS`, or "segm_<name>" of a named mask; None for another name."""
    if name in TASKS:
        return TASKS[name]
    mask_name = name.removeprefix(NAMED_MASK)
    try:
        return named_mask_task(mask_name) if mask_name not in ("", name) else None
    except ValueError:
        return None


def tasks_in(detections: BoxList) -> list[Task]:
    """All `TASKS`, and those of the named masks that the detections have."""
    return [*TASKS.values(), *(named_mask_task(name) for name in mask_names(detections) if name)]


def task_of(stage_name: str) -> Task:
    """The task that has a stage of this name. Raises: ValueError."""
    tasks = {stage.name: task for task in TASKS.values() for stage in task.stages}
    task = tasks.get(stage_name) or find_task(stage_name.removesuffix(COARSE))
    if task is None:
        raise ValueError(
            f"there are no results called {stage_name!r}; there are {', '.join(tasks)}, and {NAMED_MASK}<name> for "
            "masks with names"
        )
    return task


def stage_names(found: Iterable[str] = ()) -> list[str]:
    """Names of the result files that a test can write.

    Args:
        found: names that may belong to named masks; others among them are left out.
    """
    known = [stage.name for task in TASKS.values() for stage in task.stages]
    named = [name for name in found if name.startswith(NAMED_MASK) and find_task(name.removesuffix(COARSE))]
    return [*known, *(name for name in named if name not in known)]


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array

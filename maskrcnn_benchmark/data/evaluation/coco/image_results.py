"""The detections of one image, as COCO's evaluation needs them: small and easy to send between processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints, visibility_of
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

from .run_lengths import RLE
from .tasks import TASKS, MaskTask, find_task, task_of, tasks_in, to_numpy


@dataclass(frozen=True)
class ImageResult:
    """R detections of one image, in pixels of the image file.

    Attributes:
        size_wh: width and height of the image.
        boxes: (R, 4) float32 x, y, width, height, as COCO writes boxes.
        scores: (R,) float32.
        labels: (R,) int64, contiguous from 1.
        packed: results of the other tasks by stage: "segm", "segm_<name>", "segm_coarse", ... R run lengths,
            "keypoints" and "keypoints_coarse" (R, K, 3) float32 x, y, visibility.
        own_scores: (R,) float32 by stage, for stages that are not ranked by `scores`.
    """

    size_wh: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    packed: dict[str, Any] = field(default_factory=dict)
    own_scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def from_detections(cls, detections: BoxList, size_wh: tuple[int, int]) -> ImageResult:
        """Convert detections from pixels of the model's input image to pixels of an image of `size_wh`.

        Proposals, which have no SCORES and LABELS, are scored by their objectness and get the label 1.
        """
        resized = detections.resize(size_wh)
        count = len(detections)
        box_scores = fields.SCORES if detections.has_field(fields.SCORES) else fields.OBJECTNESS
        labels = (
            detections.get_field(fields.LABELS)
            if detections.has_field(fields.LABELS)
            else torch.ones(count, dtype=torch.int64)
        )
        tasks = tasks_in(detections)
        return cls(
            size_wh=(int(size_wh[0]), int(size_wh[1])),
            boxes=to_numpy(resized.convert("xywh").bbox.reshape(count, 4).float()),
            scores=to_numpy(detections.get_field(box_scores).reshape(count).float()),
            labels=to_numpy(labels.reshape(count)),
            packed={
                stage.name: task.pack(stage, detections, resized)
                for task in tasks
                for stage in task.stages
                if stage.field is not None and detections.has_field(stage.field)
            },
            own_scores={
                stage.name: to_numpy(detections.get_field(stage.score_field).float())
                for task in tasks
                for stage in task.stages
                if stage.score_field is not None and detections.has_field(stage.score_field)
            },
        )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> dict[str, list[RLE]]:
        """Run lengths of R masks by stage."""
        return self._group("masks")

    @property
    def keypoints(self) -> dict[str, NDArray[np.float32]]:
        """(R, K, 3) by stage."""
        return self._group("keypoints")

    def scores_of(self, name: str) -> NDArray[np.float32]:
        """(R,) scores by which the results of a stage are ranked."""
        return self.own_scores.get(name, self.scores)

    def best_rows(self, score_threshold: float, max_count: int) -> list[int]:
        """Rows of the detections that score at least `score_threshold`, best first, at most `max_count`."""
        best_first = np.argsort(-self.scores, kind="stable")[:max_count]
        return [int(row) for row in best_first if self.scores[row] >= score_threshold]

    def to_boxlist(
        self, rows: Sequence[int] | None = None, keypoint_spec: KeypointSpec | None = None, suffix: str = ""
    ) -> BoxList:
        """Detections as a BoxList in the image's own pixels.

        Args:
            rows: the detections to take, in this order; None takes all.
            keypoint_spec: of the keypoints, which defines the limbs. If it is None or its number of points differs,
                there are no limbs.
            suffix: "_coarse" takes refined masks and keypoints as they were before refinement.
        """
        rows = list(range(len(self)) if rows is None else rows)
        # offset=0: boxes as COCO writes them do not depend on the model's box convention
        boxes = BoxList(torch.from_numpy(self.boxes[rows]).reshape(-1, 4), self.size_wh, mode="xywh", offset=0)
        boxes = boxes.convert("xyxy")
        boxes.add_field(fields.SCORES, torch.from_numpy(self.scores[rows]))
        boxes.add_field(fields.LABELS, torch.from_numpy(self.labels[rows]))
        for name, masks in self.masks_by_name(suffix).items():
            truth = fields.mask_fields(name).truth
            boxes.add_field(truth, SegmentationMask([masks[row] for row in rows], self.size_wh))
        keypoints = self.keypoints.get(f"keypoints{suffix}", self.keypoints.get("keypoints"))
        if keypoints is not None:
            points = torch.from_numpy(keypoints[rows])
            points[..., 2] = visibility_of(points[..., 2])
            if keypoint_spec is not None and len(keypoint_spec) != points.shape[1]:
                keypoint_spec = None
            boxes.add_field(fields.KEYPOINTS, Keypoints(points, self.size_wh, spec=keypoint_spec))
        return boxes

    def coco_results(self, name: str, image_id: Any, category_ids: Mapping[int, Any]) -> Iterator[dict[str, Any]]:
        """Entries of COCO's result format; `category_ids` maps labels to the annotation file's ids."""
        task = task_of(name)
        if not len(self):
            return
        stage = next(stage for stage in task.stages if stage.name == name)
        entries = task.entries(self.boxes if stage.field is None else self.packed.get(name, ()))
        rows = zip(self.labels.tolist(), entries, self.scores_of(name).tolist(), strict=True)
        for label, entry, score in rows:
            yield {"image_id": image_id, "category_id": category_ids[label], task.entry_key: entry, "score": score}

    def plain(self) -> dict[str, Any]:
        """The content as tensors, strings and numbers, which `torch.load(..., weights_only=True)` reads."""
        groups = {task.group: self._group(task.group) for task in TASKS.values() if task.group is not None}
        plain = {
            group: {name: task_of(name).plain(packed) for name, packed in results.items()}
            for group, results in groups.items()
        }
        return {
            "size_wh": self.size_wh,
            "boxes_xywh": torch.from_numpy(self.boxes),
            "scores": torch.from_numpy(self.scores),
            "labels": torch.from_numpy(self.labels),
            **plain,
            "own_scores": {name: torch.from_numpy(values) for name, values in self.own_scores.items()},
        }

    def masks_by_name(self, suffix: str = "") -> dict[str, list[RLE]]:
        """Run lengths of R masks by the name of the mask, "" for the plain one.

        Args:
            suffix: "_coarse" takes refined masks as they were before refinement.
        """
        masks = self.masks
        finals = {name: find_task(name) for name in masks}
        return {
            task.mask_name: masks.get(f"{name}{suffix}", masks[name])
            for name, task in finals.items()
            if isinstance(task, MaskTask)
        }

    def _group(self, group: str) -> dict[str, Any]:
        """The results of the tasks of one group, by stage."""
        return {name: packed for name, packed in self.packed.items() if task_of(name).group == group}

"""Read the result files of a test."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.data.evaluation.coco.tasks import NAMED_MASK, MaskTask, stage_names, task_of

from .files import ReportError

logger = logging.getLogger(__name__)

TEST_COMMAND = "python tools/test_net.py --config-file FILE"
_WRITTEN_BY = {  # name of a result file -> models whose tests write it
    "bbox": "any model",
    "segm": "a model with MODEL.MASK_ON",
    "segm_coarse": 'a model with MODEL.REFINE_ON and "mask" in MODEL.ROI_REFINE_HEAD.OUTPUTS',
    "keypoints": "a model with MODEL.KEYPOINT_ON",
    "keypoints_coarse": 'a model with MODEL.REFINE_ON and "keypoint" in MODEL.ROI_REFINE_HEAD.OUTPUTS',
}


@dataclass(frozen=True)
class Results:
    """The detections of a data set. Entry i of every file belongs to the same detection.

    Attributes:
        folder: folder of the result files.
        entries: name of the file -> its entries, in COCO's result format.
        scores: name of the file -> (D,) scores; masks and keypoints may have separate scores.
        rows: image id -> indices of its detections.
    """

    folder: Path
    entries: Mapping[str, Sequence[Mapping[str, Any]]]
    scores: Mapping[str, NDArray[np.float64]]
    rows: Mapping[Any, NDArray[np.int64]]

    def rows_of(self, image_id: Any, name: str) -> NDArray[np.int64]:
        """Indices of an image's detections, sorted by their scores in the file `name`, best first."""
        rows = self.rows.get(image_id, np.empty(0, dtype=np.int64))
        return rows[np.argsort(-self.scores[name][rows], kind="stable")]

    def image_result(
        self, rows: NDArray[np.int64], size_wh: tuple[int, int], label_of: Mapping[Any, int]
    ) -> ImageResult:
        """Detections of one image of `size_wh`, with all that the files contain.

        Args:
            rows: indices of the detections.
            label_of: category id of the file -> contiguous label.
        """
        first_name, first = next(iter(self.entries.items()))
        scores = {name: values[rows].astype(np.float32) for name, values in self.scores.items()}
        packed = {name: task_of(name).unpack(self.values(name, rows)) for name in self.entries}
        return ImageResult(
            size_wh=size_wh,
            boxes=self._boxes(packed),
            scores=scores.pop(first_name),
            labels=np.array([label_of[first[row]["category_id"]] for row in rows.tolist()], dtype=np.int64),
            packed={name: values for name, values in packed.items() if name != "bbox"},
            own_scores=scores,
        )

    def values(self, name: str, rows: NDArray[np.int64]) -> list[Any]:
        """The boxes, run lengths or keypoints of some detections, as the file `name` contains them."""
        key = task_of(name).entry_key
        return [self.entries[name][row][key] for row in rows.tolist()]

    def num_keypoints(self, name: str = "keypoints") -> int:
        """Number of keypoints per detection; 0 if there are no detections."""
        entries = self.entries.get(name)
        return len(entries[0]["keypoints"]) // 3 if entries else 0

    def _boxes(self, packed: Mapping[str, Any]) -> NDArray[np.float32]:
        """(R, 4) x, y, width, height: from bbox.json; without it, around the masks or around the keypoints."""
        if "bbox" in packed:
            return np.asarray(packed["bbox"], dtype=np.float32)
        for name, values in packed.items():
            if isinstance(task_of(name), MaskTask):
                return np.asarray(mask_utils.toBbox(values) if values else (), dtype=np.float32).reshape(-1, 4)
        for name, values in packed.items():
            if task_of(name).name == "keypoints":
                if len(values) == 0:
                    return np.zeros((0, 4), dtype=np.float32)
                low, high = values[..., :2].min(axis=1), values[..., :2].max(axis=1)
                return np.concatenate([low, high - low], axis=1)
        raise ReportError(f"{self.folder} has no boxes, masks or keypoints, only {', '.join(packed)}")


def read_results(folder: str | os.PathLike[str], required: Sequence[str] = ()) -> Results:
    """Read all result files in a folder.

    Args:
        folder: OUTPUT_DIR/inference/<dataset> of a test.
        required: names (without .json) of files that must exist; at least one file must exist in any case.
    Raises: FileNotFoundError for a missing folder or file, with the command that writes it; ReportError for files that
        are not in COCO's result format, or are of different tests.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: --results must name the folder in which `{TEST_COMMAND}` wrote its results, "
            "OUTPUT_DIR/inference/<dataset>"
        )
    paths = {name: folder / f"{name}.json" for name in stage_names([*_names_in(folder), *required])}
    missing = [name for name in required if not paths[name].is_file()]
    if missing or not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(_missing_text(folder, missing or ["bbox"]))
    entries = {name: _read_entries(path, task_of(name).entry_key) for name, path in paths.items() if path.is_file()}
    _check_same_detections(folder, entries)
    scores = {
        name: np.array([entry["score"] for entry in entries_of_file], dtype=np.float64)
        for name, entries_of_file in entries.items()
    }
    return Results(folder, entries, scores, _rows_by_image(next(iter(entries.values()))))


def _names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))


def _missing_text(folder: Path, missing: Iterable[str]) -> str:
    models = {name: _WRITTEN_BY.get(name, _model_with(name)) for name in missing}
    lines = [f"no {name}.json in {folder}: it is written by the test of {model}" for name, model in models.items()]
    nested = sorted(path.parent for path in folder.glob("inference/*/bbox.json"))
    if nested:
        lines.append(f"This is the folder of a run; results are in {' and '.join(map(str, nested))}.")
    lines.append(f"To write it: `{TEST_COMMAND} OUTPUT_DIR DIR`, then name DIR/inference/<dataset>.")
    return "\n".join(lines)


def _model_with(name: str) -> str:
    masks = f"a model with MODEL.MULTI_MASK_ON and {name.removeprefix(NAMED_MASK)!r} in MODEL.ROI_MULTI_MASK_HEAD.MASKS"
    return masks if name.startswith(NAMED_MASK) else "a model that has this task"


def _read_entries(path: Path, payload: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(
            f"{path} is not JSON ({error}). Was the test stopped while writing it? `{TEST_COMMAND}` writes it again"
        ) from error
    needed = {"image_id", "category_id", "score", payload}
    if not isinstance(entries, list):
        raise ReportError(f"{path} contains a {type(entries).__name__}, not a list of results in COCO's format")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not needed <= entry.keys():
            shown = ", ".join(sorted(entry)) if isinstance(entry, dict) else repr(entry)
            raise ReportError(f"{path}: entry {position} has {shown}; a result has {', '.join(sorted(needed))}")
    return entries


def _check_same_detections(folder: Path, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise ReportError unless entry i of every file belongs to the same image and category."""
    (first_name, first), *others = entries.items()
    for name, other in others:
        pairs = enumerate(zip(first, other, strict=False))
        different = next((row for row, (one, two) in pairs if _identity(one) != _identity(two)), None)
        if different is None and len(first) == len(other):
            continue
        where = f"they differ at entry {different}" if different is not None else "one is shorter"
        raise ReportError(
            f"{first_name}.json ({len(first)} detections) and {name}.json ({len(other)}) in {folder} are not of the "
            f"same test: {where}. `{TEST_COMMAND}` writes all of them again"
        )


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What all files must agree on. Scores may differ: each file may have its own."""
    return entry["image_id"], entry["category_id"]


def _rows_by_image(entries: Sequence[Mapping[str, Any]]) -> dict[Any, NDArray[np.int64]]:
    rows: dict[Any, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(entry["image_id"], []).append(row)
    return {image_id: np.array(numbers, dtype=np.int64) for image_id, numbers in rows.items()}

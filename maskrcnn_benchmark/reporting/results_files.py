"""Read back the result files that a test has written."""

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

from .files import ReportError

logger = logging.getLogger(__name__)

TEST_COMMAND = "python tools/test_net.py --config-file FILE"
PAYLOADS = {  # name of a result file -> key of its entries that holds what was found
    "bbox": "bbox",
    "segm": "segmentation",
    "segm_coarse": "segmentation",
    "keypoints": "keypoints",
    "keypoints_coarse": "keypoints",
}
_WRITTEN_BY = {  # which model's test writes a file
    "bbox": "any model",
    "segm": "a model with MODEL.MASK_ON",
    "segm_coarse": 'a model with MODEL.REFINE_ON and "mask" in MODEL.ROI_REFINE_HEAD.OUTPUTS',
    "keypoints": "a model with MODEL.KEYPOINT_ON",
    "keypoints_coarse": 'a model with MODEL.REFINE_ON and "keypoint" in MODEL.ROI_REFINE_HEAD.OUTPUTS',
}


@dataclass(frozen=True)
class Results:
    """The detections of a dataset: entries of COCO's result format by file; the i-th of every file is one detection.

    scores: (D,) by file; masks and keypoints may have a ranking of their own. rows: numbers of each image's detections.
    """

    folder: Path
    entries: Mapping[str, Sequence[Mapping[str, Any]]]
    scores: Mapping[str, NDArray[np.float64]]
    rows: Mapping[Any, NDArray[np.int64]]

    def rows_of(self, image_id: Any, name: str) -> NDArray[np.int64]:
        """Numbers of an image's detections, the best score in a file first."""
        rows = self.rows.get(image_id, np.empty(0, dtype=np.int64))
        return rows[np.argsort(-self.scores[name][rows], kind="stable")]

    def image_result(
        self, rows: NDArray[np.int64], size_wh: tuple[int, int], label_of: Mapping[int, int]
    ) -> ImageResult:
        """These detections, all of one image of `size_wh`, with everything that the files say about them.

        label_of: contiguous label by category id of the file.
        """
        first_name, first = next(iter(self.entries.items()))
        scores = {name: values[rows].astype(np.float32) for name, values in self.scores.items()}
        payloads = {
            name: [entries[row][PAYLOADS[name]] for row in rows.tolist()] for name, entries in self.entries.items()
        }
        masks = {name: list(values) for name, values in payloads.items() if name.startswith("segm")}
        keypoints = {
            name: np.asarray(values, dtype=np.float32).reshape(len(values), -1, 3)
            if values
            else np.zeros((0, self.num_keypoints(name), 3), dtype=np.float32)
            for name, values in payloads.items()
            if name.startswith("keypoints")
        }
        return ImageResult(
            size_wh=size_wh,
            boxes=_boxes(payloads, keypoints),
            scores=scores.pop(first_name),
            labels=np.array([label_of[first[row]["category_id"]] for row in rows.tolist()], dtype=np.int64),
            packed={**masks, **keypoints},
            own_scores=scores,
        )

    def num_keypoints(self, name: str = "keypoints") -> int:
        """Keypoints of a detection; 0 where nothing was found."""
        entries = self.entries.get(name)
        return len(entries[0]["keypoints"]) // 3 if entries else 0


def read_results(folder: str | os.PathLike[str], required: Sequence[str] = ()) -> Results:
    """All result files in a folder.

    Args:
        folder: OUTPUT_DIR/inference/<dataset> of a test.
        required: files (names without .json) that must be there; at least one must in any case.
    Raises: FileNotFoundError for a missing folder or file, with the command that writes it; ReportError for files that
        are not of COCO's result format, or not of the same test.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: --results names the folder that `{TEST_COMMAND}` writes its results into, "
            "OUTPUT_DIR/inference/<dataset>"
        )
    paths = {name: folder / f"{name}.json" for name in PAYLOADS}
    missing = [name for name in required if not paths[name].is_file()]
    if missing or not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(_missing_text(folder, missing or ["bbox"]))
    entries = {name: _read_entries(path, PAYLOADS[name]) for name, path in paths.items() if path.is_file()}
    _check_same_detections(folder, entries)
    scores = {
        name: np.array([entry["score"] for entry in entries_of_file], dtype=np.float64)
        for name, entries_of_file in entries.items()
    }
    return Results(folder, entries, scores, _rows_by_image(next(iter(entries.values()))))


def _missing_text(folder: Path, missing: Iterable[str]) -> str:
    lines = [f"no {name}.json in {folder}: the test of {_WRITTEN_BY[name]} writes it" for name in missing]
    nested = sorted(path.parent for path in folder.glob("inference/*/bbox.json"))
    if nested:
        lines.append(f"This is the folder of a run; results are in {' and '.join(map(str, nested))}.")
    lines.append(f"To write it: `{TEST_COMMAND} OUTPUT_DIR DIR`, then name DIR/inference/<dataset>.")
    return "\n".join(lines)


def _read_entries(path: Path, payload: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(
            f"{path} is not JSON ({error}); was the test stopped while it wrote? `{TEST_COMMAND}` writes it anew"
        ) from error
    needed = {"image_id", "category_id", "score", payload}
    if not isinstance(entries, list):
        raise ReportError(f"{path} holds a {type(entries).__name__}, not a list of results in COCO's format")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not needed <= entry.keys():
            shown = ", ".join(sorted(entry)) if isinstance(entry, dict) else repr(entry)
            raise ReportError(f"{path}: entry {position} has {shown}; a result has {', '.join(sorted(needed))}")
    return entries


def _check_same_detections(folder: Path, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A picture shows box, mask and keypoints of a detection together, so the files must go together."""
    (first_name, first), *others = entries.items()
    for name, other in others:
        pairs = enumerate(zip(first, other, strict=False))
        different = next((row for row, (one, two) in pairs if _identity(one) != _identity(two)), None)
        if different is None and len(first) == len(other):
            continue
        where = f"they differ from entry {different} on" if different is not None else "one is shorter"
        raise ReportError(
            f"{first_name}.json ({len(first)} detections) and {name}.json ({len(other)}) in {folder} are not of the "
            f"same test: {where}. `{TEST_COMMAND}` writes all of them anew"
        )


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Not the score: each file may rank by one of its own."""
    return entry["image_id"], entry["category_id"]


def _rows_by_image(entries: Sequence[Mapping[str, Any]]) -> dict[Any, NDArray[np.int64]]:
    rows: dict[Any, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(entry["image_id"], []).append(row)
    return {image_id: np.array(numbers, dtype=np.int64) for image_id, numbers in rows.items()}


def _boxes(payloads: Mapping[str, Sequence[Any]], keypoints: Mapping[str, np.ndarray]) -> NDArray[np.float32]:
    """(R, 4) x, y, width, height: from bbox.json, else around the masks, else around the keypoints."""
    if "bbox" in payloads:
        return np.asarray(payloads["bbox"], dtype=np.float32).reshape(-1, 4)
    for name in ("segm", "segm_coarse"):
        if name in payloads:
            masks = list(payloads[name])
            return np.asarray(mask_utils.toBbox(masks) if masks else (), dtype=np.float32).reshape(-1, 4)
    points = next(iter(keypoints.values()))[..., :2]
    if points.shape[0] == 0:
        return np.zeros((0, 4), dtype=np.float32)
    low, high = points.min(axis=1), points.max(axis=1)
    return np.concatenate([low, high - low], axis=1)

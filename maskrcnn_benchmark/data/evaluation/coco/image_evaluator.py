"""`ImageEvaluator`: what the evaluators have in common that keep the detections of each image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.structures.bounding_box import BoxList

from ..base import Evaluator
from .image_results import ImageResult
from .pictures import write_pictures


class ImageEvaluator(Evaluator):
    """Keeps the detections of each image in pixels of the image file. A subclass scores them in `evaluate`."""

    results: dict[int, ImageResult]  # by index into the data set

    def process(self, indices: Sequence[int], detections: Sequence[BoxList]) -> None:
        for index, detections_per_image in zip(indices, detections, strict=True):
            info = self.dataset.get_img_info(int(index))
            size_wh = (info["width"], info["height"])
            self.results[int(index)] = ImageResult.from_detections(detections_per_image, size_wh)

    def write_pictures(self, folder: Path, count: int) -> Path | None:
        return write_pictures(self.dataset, self.results, folder, count) if self.dataset.can_draw else None

    def save_predictions(self, folder: Path) -> None:
        """Write predictions.pth into the folder, which is made if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = [
            {"image_id": image_id, **result.plain()}
            for image_id, result in zip(self.image_ids(), self.results.values(), strict=True)
        ]
        torch.save(plain, folder / "predictions.pth")

    def save_coco_results(self, folder: Path) -> None:
        """Write the detections in COCO's format, which reports read: bbox.json, and one file per kind of result."""
        packed = {name: None for result in self.results.values() for name in result.packed}
        for name in ("bbox", *packed):
            write_coco_results(folder, name, self.coco_results(name))

    def coco_results(self, name: str) -> list[dict[str, Any]]:
        """All detections in COCO's result format: "bbox", "segm", "segm_coarse", "segm_<name>", ..."""
        ids = self.dataset.id_to_img_map
        category_ids = self.dataset.contiguous_category_id_to_json_id
        return [
            entry
            for index, result in self.results.items()
            for entry in result.coco_results(name, ids[index], category_ids)
        ]

    def image_ids(self) -> list[Any]:
        return [self.dataset.id_to_img_map[index] for index in self.results]


def write_coco_results(folder: Path, name: str, entries: Sequence[dict[str, Any]]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")

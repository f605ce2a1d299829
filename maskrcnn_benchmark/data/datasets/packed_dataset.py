"""`PackedDataset`: what the data sets have in common that read image files and packed annotations."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.datasets.annotations import (
    MaskPath,
    PackedAnnotations,
    PackedStrings,
    pack_annotations,
    select_images,
    spell_path,
)
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample
from maskrcnn_benchmark.data.datasets.image_files import check_files_exist, read_image
from maskrcnn_benchmark.data.datasets.validation import ValidationReport
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

logger = logging.getLogger(__name__)

Transforms = Callable[[Image.Image, BoxList], tuple[Any, BoxList]]


class PackedDataset(DetectionDataset):
    """Image files of a folder, with annotations that were validated and packed when the data set was built.

    A subclass reads its files in the constructor, and passes what it has read to `_use`.

    Args:
        root: folder of the images.
        source: file or folder of the annotations, for messages.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        offset: the box convention of the targets, see `BoxList`.
    Attributes:
        ids: id of each image.
        categories: id of a category in the annotations -> its name, in the order of the labels.
        validation_report: what is wrong with the annotations.
    """

    ids: list[Any]
    categories: dict[Any, str]
    num_keypoints = 0

    def __init__(
        self,
        root: str | os.PathLike[str],
        source: str | os.PathLike[str],
        transforms: Transforms | None = None,
        *,
        offset: int = INCLUSIVE,
    ) -> None:
        self.root, self.source = os.fspath(root), os.fspath(source)
        self.transforms = transforms
        self.offset = offset

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.read_image(index), self.get_groundtruth(index)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def read_image(self, index: int) -> Image.Image:
        """The image as it is on disk, RGB. Raises: OSError with the names of the image and of the annotations."""
        path = os.path.join(self.root, self._file_names[index])
        try:
            return read_image(path, self._size(index))
        except OSError as error:
            raise type(error)(f"{error} (image id {self.ids[index]} of {self.source})") from error

    def get_groundtruth(self, index: int) -> BoxList:
        """The target in pixels of the image file, which is not opened."""
        size, packed = self._size(index), self._annotations
        rows = packed.rows(index)
        target = BoxList(_tensor(packed.boxes[rows]), size, mode="xywh", offset=self.offset).convert("xyxy")
        target.add_field(fields.LABELS, _tensor(packed.labels[rows]))
        target.add_field(fields.ANNOTATION_IDS, _tensor(packed.ids[rows]))
        for name, segmentations in packed.segmentations.items():
            masks = [segmentations.get(row, size) for row in range(rows.start, rows.stop)]
            names = fields.mask_fields(name)
            target.add_field(names.truth, SegmentationMask(masks, size))
            target.add_field(names.present, _tensor(segmentations.present[rows]))
        if packed.keypoints is not None:
            points = _tensor(packed.keypoints[rows])
            target.add_field(fields.KEYPOINTS, Keypoints(points, size, spec=self.keypoint_spec))
        for field, values in packed.extra.items():
            target.add_field(field, _tensor(values[rows]))
        return target

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The image's "id", "file_name", "width" and "height"."""
        width, height = self._size(index)
        return {"id": self.ids[index], "file_name": self._file_names[index], "width": width, "height": height}

    @functools.cached_property
    def id_to_img_map(self) -> dict[int, Any]:
        """Index of an image here -> its id."""
        return dict(enumerate(self.ids))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Name of each label; 0 is the background."""
        return ["__background__", *self.categories.values()]

    def __getstate__(self) -> dict[str, Any]:
        """The state that is sent to a loader worker, without `coco`, which only the evaluation uses."""
        return {name: value for name, value in self.__dict__.items() if name != "coco"}

    def __repr__(self) -> str:
        return f"{self.kind}({len(self)} images of {self.source}, {len(self.categories)} categories)"

    def _size(self, index: int) -> tuple[int, int]:
        width, height = self.sizes_wh[index].tolist()
        return width, height

    def _use(
        self,
        annotations: Sequence[Any],
        images: Sequence[Mapping[str, Any]],
        labels: Mapping[Any, int],
        *,
        remove_empty: bool,
        masks: Mapping[str, MaskPath] | None = None,
        num_keypoints: int | None = None,
        min_keypoints: int = 0,
        extra_fields: Mapping[str, str] | None = None,
        names: Sequence[str] = (),
    ) -> PackedAnnotations:
        """Validate and pack annotations in COCO's form, choose the images to use, and check that these exist.

        Args:
            images: dictionaries with "id", "file_name" below the root, "width" and "height".
            remove_empty: leave out images without a usable annotation.
            min_keypoints: leave out annotated images with fewer labelled keypoints; 0 keeps them.
            names: for messages, the name of the annotation with the id 1, 2, ...; empty if the ids are names.
            labels, masks, num_keypoints, extra_fields: as in `pack_annotations`.
        Returns: the annotations of all images, also of those that are left out.
        Raises: ValueError if no image is left; FileNotFoundError for missing image files.
        """
        sizes_wh = np.array([(image["width"], image["height"]) for image in images], dtype=np.int64).reshape(-1, 2)
        report = self.validation_report = ValidationReport(self.source)
        rows_of_images = {image["id"]: row for row, image in enumerate(images)}
        packed = pack_annotations(
            annotations, rows_of_images, sizes_wh, labels, report,
            masks=masks or {}, num_keypoints=num_keypoints, extra_fields=extra_fields,
        )  # fmt: skip
        if names:
            report.examples = {reason: [names[id_ - 1] for id_ in ids] for reason, ids in report.examples.items()}
        if summary := report.summary():
            logger.warning("%s", summary)
        for name, segmentations in packed.segmentations.items():
            absent = len(packed.ids) - np.count_nonzero(segmentations.present)
            if absent:
                logger.info(
                    "%s: %d of %d annotations have no usable %s; only their boxes and other fields are used",
                    self.source, absent, len(packed.ids), spell_path((masks or {})[name]),
                )  # fmt: skip

        annotated = packed.counts() > 0
        removed = {"without a usable annotation": ~annotated & remove_empty}
        if min_keypoints > 0:
            few = annotated & (packed.visible_keypoints() < min_keypoints)
            removed[f"with fewer than {min_keypoints} labelled keypoints"] = few
        kept = np.flatnonzero(~np.logical_or.reduce(list(removed.values())))
        self._report_removed(len(annotated), len(kept), {reason: int(rows.sum()) for reason, rows in removed.items()})

        self._annotations = select_images(packed, kept)
        self.sizes_wh = sizes_wh[kept]
        self.ids = [images[row]["id"] for row in kept.tolist()]
        self._file_names = PackedStrings(images[row]["file_name"] for row in kept.tolist())
        check_files_exist(self.root, self._file_names, self.source)
        return packed

    def _report_removed(self, total: int, left: int, removed: Mapping[str, int]) -> None:
        reasons = "; ".join(f"{count} {reason}" for reason, count in removed.items() if count)
        if total and left:
            without = f", not {reasons}" if reasons else ""
            logger.info("%s: %d of %d images are used%s", self.source, left, total, without)
            return
        text = f"no image of {self.source} is left to use: it lists {total}"
        if reasons:
            text += f", left out are {reasons}. DATASETS.FILTER_EMPTY and DATASETS.MIN_KEYPOINTS decide which are"
        if summary := self.validation_report.summary():
            text += f". {summary}"
        if self.validation_report.crowd:
            text += f" {self.validation_report.crowd} annotations are crowd regions, which are not used in training."
        raise ValueError(text)


def _tensor(rows: NDArray[Any]) -> Tensor:
    return torch.from_numpy(rows.copy())  # copied because all workers share the packed arrays

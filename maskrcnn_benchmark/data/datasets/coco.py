"""`COCODataset`: images with the annotations of a COCO file (instances or person keypoints)."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from maskrcnn_benchmark.data.datasets.annotations import PackedStrings, pack_annotations, select_images
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample
from maskrcnn_benchmark.data.datasets.coco_file import CocoFile, garbage_collection_paused
from maskrcnn_benchmark.data.datasets.image_files import check_files_exist, read_image
from maskrcnn_benchmark.data.datasets.validation import ValidationReport
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

_OWN_FIELDS = (fields.LABELS, fields.ANNOTATION_IDS, fields.MASKS, fields.KEYPOINTS)

Transforms = Callable[[Image.Image, BoxList], tuple[Any, BoxList]]


class COCODataset(DetectionDataset):
    """Images and targets of a COCO annotation file.

    A target is a `BoxList` (xyxy) with the fields LABELS and ANNOTATION_IDS, and MASKS, KEYPOINTS and extra fields if
    they are requested. Every image has the same fields, even if it has no annotations. The keypoints of an instance
    without any are zero. Categories are numbered from 1 in the order of the file. Regions marked `iscrowd` are not
    targets. Unusable annotations are left out; one warning tells how many, why and which (see `validation_report`).

    Args:
        ann_file: JSON in COCO's format; without "annotations" (test sets) no image has any.
        root: folder of the images; "file_name" may have folders in it.
        remove_images_without_annotations: leave out images without a usable annotation, as is usual in training; False
            keeps them as negatives.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        offset: the box convention of the targets, see `BoxList`.
        with_masks, with_keypoints: None reads them if the file has any.
        num_keypoints: K; None takes it from the file, or COCO's 17.
        min_keypoints: leave out images that have annotations, but fewer labelled keypoints than this in all of them
            together. Only used with keypoints, and if the file has any.
        extra_fields: field name -> JSON key; a number of each annotation becomes this field of the target, (R,) float32
            with NaN where an annotation does not have the key. {"ages": "age"} reads `"age": 31` into "ages".
    Raises: FileNotFoundError for a missing file or missing images; ValueError for a file that is not of this format,
        and when no image is left. Both name the file.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str],
        root: str | os.PathLike[str],
        remove_images_without_annotations: bool = False,
        transforms: Transforms | None = None,
        *,
        offset: int = INCLUSIVE,
        with_masks: bool | None = None,
        with_keypoints: bool | None = None,
        num_keypoints: int | None = None,
        min_keypoints: int = 0,
        extra_fields: Mapping[str, str] | None = None,
    ) -> None:
        self.extra_fields = dict(extra_fields or {})
        self.ann_file, self.root = os.fspath(ann_file), os.fspath(root)
        self.transforms = transforms
        self.offset = offset
        with garbage_collection_paused():
            self._load(
                with_masks=with_masks,
                with_keypoints=with_keypoints,
                num_keypoints=num_keypoints,
                remove_empty=remove_images_without_annotations,
                min_keypoints=min_keypoints,
            )
        check_files_exist(self.root, self._file_names, self.ann_file)

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, *, is_train: bool, transforms: Transforms | None, ann_file: str, root: str
    ) -> COCODataset:
        """The data set for the model of `cfg`. Images are filtered for training only."""
        return cls(
            ann_file,
            root,
            is_train and cfg.DATASETS.FILTER_EMPTY,
            transforms,
            offset=cfg.MODEL.BOX_OFFSET,
            with_masks=cfg.MODEL.MASK_ON,
            with_keypoints=cfg.MODEL.KEYPOINT_ON,
            num_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
            min_keypoints=cfg.DATASETS.MIN_KEYPOINTS if is_train else 0,
            extra_fields=extra_fields_of(cfg.DATASETS.EXTRA_FIELDS),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.read_image(index), self.get_groundtruth(index)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def read_image(self, index: int) -> Image.Image:
        """The image as it is on disk, RGB. Raises: OSError with the names of the image and of the annotation file."""
        path = os.path.join(self.root, self._file_names[index])
        try:
            return read_image(path, self._size(index))
        except OSError as error:
            raise type(error)(f"{error} (image id {self.ids[index]} of {self.ann_file})") from error

    def get_groundtruth(self, index: int) -> BoxList:
        """The target in pixels of the image file, which is not opened."""
        size, packed = self._size(index), self._annotations
        rows = packed.rows(index)
        target = BoxList(_tensor(packed.boxes[rows]), size, mode="xywh", offset=self.offset).convert("xyxy")
        target.add_field(fields.LABELS, _tensor(packed.labels[rows]))
        target.add_field(fields.ANNOTATION_IDS, _tensor(packed.ids[rows]))
        if packed.segmentations is not None:
            masks = [packed.segmentations.get(row, size) for row in range(rows.start, rows.stop)]
            target.add_field(fields.MASKS, SegmentationMask(masks, size))
        if packed.keypoints is not None:
            target.add_field(fields.KEYPOINTS, self._skeleton(_tensor(packed.keypoints[rows]), size))
        for field, values in packed.extra.items():
            target.add_field(field, _tensor(values[rows]))
        return target

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The image's "id", "file_name", "width" and "height" in the annotation file."""
        width, height = self._size(index)
        return {"id": self.ids[index], "file_name": self._file_names[index], "width": width, "height": height}

    @functools.cached_property
    def id_to_img_map(self) -> dict[int, Any]:
        """Index of an image here -> its id in the file."""
        return dict(enumerate(self.ids))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Name of each label; 0 is the background."""
        return ["__background__", *self.categories.values()]

    @functools.cached_property
    def keypoint_names(self) -> tuple[str, ...]:
        """COCO's names for COCO's number of keypoints; else empty."""
        return tuple(self._skeleton.NAMES)

    @functools.cached_property
    def coco(self) -> COCO:
        """The whole annotation file as pycocotools has it, read at the first access. Training does not need it."""
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(self.ann_file)

    def __getstate__(self) -> dict[str, Any]:
        """The state that is sent to a loader worker, without `coco`, which only the evaluation uses."""
        return {name: value for name, value in self.__dict__.items() if name != "coco"}

    def __repr__(self) -> str:
        return f"COCODataset({len(self)} images of {self.ann_file}, {len(self.categories)} categories)"

    @property
    def _skeleton(self) -> type[Keypoints]:
        return PersonKeypoints if self.num_keypoints == len(PersonKeypoints.NAMES) else Keypoints

    def _size(self, index: int) -> tuple[int, int]:
        width, height = self.sizes_wh[index].tolist()
        return width, height

    def _load(
        self,
        *,
        with_masks: bool | None,
        with_keypoints: bool | None,
        num_keypoints: int | None,
        remove_empty: bool,
        min_keypoints: int,
    ) -> None:
        """Read, check and pack the annotation file; arguments as of the constructor."""
        content = CocoFile(self.ann_file)
        self.with_masks = content.has("segmentation") if with_masks is None else with_masks
        self.with_keypoints = content.has("keypoints") if with_keypoints is None else with_keypoints
        self.num_keypoints = content.num_keypoints(num_keypoints) if self.with_keypoints else 0
        self.categories: dict[Any, str] = content.categories  # id in the file -> name
        self.json_category_id_to_contiguous_id = {category: i for i, category in enumerate(self.categories, start=1)}
        self.contiguous_category_id_to_json_id = {i: c for c, i in self.json_category_id_to_contiguous_id.items()}

        self.validation_report = ValidationReport(self.ann_file)
        packed = pack_annotations(
            content.annotations,
            {image["id"]: row for row, image in enumerate(content.images)},
            content.sizes_wh,
            self.json_category_id_to_contiguous_id,
            self.validation_report,
            with_masks=self.with_masks,
            num_keypoints=self.num_keypoints if self.with_keypoints else None,
            extra_fields=self.extra_fields,
        )
        if summary := self.validation_report.summary():
            logger.warning("%s", summary)

        for field, values in packed.extra.items():
            if len(values) and np.isnan(values).all():
                logger.warning(
                    "no annotation of %s has a number under %r: the field %r is NaN everywhere. "
                    "DATASETS.EXTRA_FIELDS names the key",
                    self.ann_file, self.extra_fields[field], field,
                )  # fmt: skip

        annotated = packed.counts() > 0
        removed = {"without a usable annotation": ~annotated & remove_empty}
        if self.with_keypoints and min_keypoints > 0 and content.has("keypoints"):
            few = annotated & (packed.visible_keypoints() < min_keypoints)
            removed[f"with fewer than {min_keypoints} labelled keypoints"] = few
        kept = np.flatnonzero(~np.logical_or.reduce(list(removed.values())))
        self._report_removed(len(annotated), len(kept), {reason: int(rows.sum()) for reason, rows in removed.items()})

        self._annotations = select_images(packed, kept)
        self.sizes_wh = content.sizes_wh[kept]  # (number of images, 2) in pixels
        self.ids = [content.images[row]["id"] for row in kept.tolist()]
        self._file_names = PackedStrings(content.images[row]["file_name"] for row in kept.tolist())

    def _report_removed(self, total: int, left: int, removed: dict[str, int]) -> None:
        reasons = "; ".join(f"{count} {reason}" for reason, count in removed.items() if count)
        if total and left:
            without = f", not {reasons}" if reasons else ""
            logger.info("%s: %d of %d images are used%s", self.ann_file, left, total, without)
            return
        text = f"no image of {self.ann_file} is left to use: it lists {total}"
        if reasons:
            text += f", left out are {reasons}. DATASETS.FILTER_EMPTY and DATASETS.MIN_KEYPOINTS decide which are"
        if summary := self.validation_report.summary():
            text += f". {summary}"
        if self.validation_report.crowd:
            text += f" {self.validation_report.crowd} annotations are crowd regions, which are not used in training."
        raise ValueError(text)


def extra_fields_of(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    """DATASETS.EXTRA_FIELDS as {field name: JSON key}. Raises: ConfigError (see `utils.problems`)."""
    extra: dict[str, str] = {}
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(name, str) and name for name in pair):
            config_problem(
                f"an entry of DATASETS.EXTRA_FIELDS is {pair!r}; expected (BoxList field, JSON key), "
                "such as ('ages', 'age'). One entry is written with a comma: (('ages', 'age'),)."
            )
        elif pair[0] in extra or pair[0] in _OWN_FIELDS:
            taken = "named twice" if pair[0] in extra else "a field that every target has already"
            config_problem(f"DATASETS.EXTRA_FIELDS reads {pair[1]!r} into {pair[0]!r}, which is {taken}; rename it.")
        else:
            extra[pair[0]] = pair[1]
    return extra


def _tensor(rows: NDArray[Any]) -> Tensor:
    return torch.from_numpy(rows.copy())  # copied because all workers share the packed arrays

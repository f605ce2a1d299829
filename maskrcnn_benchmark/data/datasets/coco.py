"""`COCODataset`: images with the annotations of a COCO file (instances or person keypoints)."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets.coco_file import CocoFile, garbage_collection_paused
from maskrcnn_benchmark.data.datasets.packed_dataset import PackedDataset, Transforms
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

_OWN_FIELDS = (fields.LABELS, fields.ANNOTATION_IDS, fields.MASKS, fields.KEYPOINTS)


class COCODataset(PackedDataset):
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
        super().__init__(root, ann_file, transforms, offset=offset)
        self.ann_file = self.source
        self.extra_fields = dict(extra_fields or {})
        with garbage_collection_paused():
            self._load(
                with_masks=with_masks,
                with_keypoints=with_keypoints,
                num_keypoints=num_keypoints,
                remove_empty=remove_images_without_annotations,
                min_keypoints=min_keypoints,
            )

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

    @functools.cached_property
    def coco(self) -> COCO:
        """The whole annotation file as pycocotools has it, read at the first access. Training does not need it."""
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(self.ann_file)

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
        self.categories = content.categories  # id in the file -> name
        self.json_category_id_to_contiguous_id = {category: i for i, category in enumerate(self.categories, start=1)}
        self.contiguous_category_id_to_json_id = {i: c for c, i in self.json_category_id_to_contiguous_id.items()}

        packed = self._use(
            content.annotations,
            content.images,
            self.json_category_id_to_contiguous_id,
            remove_empty=remove_empty,
            with_masks=self.with_masks,
            num_keypoints=self.num_keypoints if self.with_keypoints else None,
            min_keypoints=min_keypoints if self.with_keypoints and content.has("keypoints") else 0,
            extra_fields=self.extra_fields,
        )
        for field, values in packed.extra.items():
            if len(values) and np.isnan(values).all():
                logger.warning(
                    "no annotation of %s has a number under %r: the field %r is NaN everywhere. "
                    "DATASETS.EXTRA_FIELDS names the key",
                    self.ann_file, self.extra_fields[field], field,
                )  # fmt: skip


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

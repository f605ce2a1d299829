"""`COCODataset`: images with the annotations of a COCO file (instances or person keypoints)."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets.annotations import NAMED_MASKS, PLAIN_MASK, PackedAnnotations
from maskrcnn_benchmark.data.datasets.coco_file import CocoFile, garbage_collection_paused, read_coco_json
from maskrcnn_benchmark.data.datasets.joined_keypoints import join_keypoints
from maskrcnn_benchmark.data.datasets.packed_dataset import PackedDataset, Transforms
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

_OWN_FIELDS = (fields.LABELS, fields.ANNOTATION_IDS, fields.MASKS, fields.MASKS_PRESENT, fields.KEYPOINTS)


class COCODataset(PackedDataset):
    """Images and targets of a COCO annotation file.

    A target is a `BoxList` (xyxy) with the fields LABELS and ANNOTATION_IDS, and masks, KEYPOINTS and extra fields if
    they are requested. Every image has the same fields, even if it has no annotations. Categories are numbered from 1
    in the order of the file. Regions marked `iscrowd` are not targets.

    The keypoints of an instance without any are zero. An instance without a mask, or with an unusable one, has an empty
    mask that is not present (see `fields.MaskFields`). Other unusable annotations are left out. One warning tells how
    many, why and which (see `validation_report`).

    Args:
        ann_file: JSON in COCO's format; without "annotations" (test sets) no image has any.
        root: folder of the images; "file_name" may have folders in it.
        remove_images_without_annotations: leave out images without a usable annotation, as is usual in training; False
            keeps them as negatives.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        offset: the box convention of the targets, see `BoxList`.
        with_masks, with_keypoints: None reads them if the file has any. A mask is the "segmentation" of an annotation.
        named_masks: names of further masks to read; None reads all that the file has under "segmentations", and all of
            `mask_keys`.
        mask_keys: name of a mask -> its JSON key, with dots for keys of nested dictionaries: "segmentations.amodal". A
            name without one is read from "segmentations": {name: mask}.
        num_keypoints: K; None takes it from the file, or COCO's 17.
        keypoints: what the keypoints are: a `KeypointSpec`, or the name of one in `KNOWN_SKELETONS`; it adds to what
            the categories of the file tell (docs/KEYPOINTS.md).
        min_keypoints: leave out images that have annotations, but fewer labelled keypoints than this in all of them
            together. Only used with keypoints, and if the file has any.
        keypoints_file: file with the keypoints of the same annotations, such as COCO's `person_keypoints_*.json` for
            its `instances_*.json`; see `join_keypoints`.
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
        keypoints: KeypointSpec | str | None = None,
        min_keypoints: int = 0,
        keypoints_file: str | os.PathLike[str] | None = None,
        extra_fields: Mapping[str, str] | None = None,
        named_masks: Sequence[str] | None = None,
        mask_keys: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(root, ann_file, transforms, offset=offset)
        self.ann_file = self.source
        self.keypoints_file = None if keypoints_file is None else os.fspath(keypoints_file)
        self.extra_fields = dict(extra_fields or {})
        self.mask_keys = dict(mask_keys or {})
        with garbage_collection_paused():
            self._load(
                with_masks=with_masks,
                named_masks=named_masks,
                with_keypoints=with_keypoints,
                num_keypoints=num_keypoints,
                keypoints=keypoints,
                remove_empty=remove_images_without_annotations,
                min_keypoints=min_keypoints,
            )

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        *,
        is_train: bool,
        transforms: Transforms | None,
        ann_file: str,
        root: str,
        keypoints: KeypointSpec | str | None = None,
        keypoints_file: str | None = None,
    ) -> COCODataset:
        """The data set for the model of `cfg`. Images are filtered for training only.

        If only some classes have keypoints, images without any are kept.
        """
        named_masks = cfg.MODEL.ROI_MULTI_MASK_HEAD.MASKS if cfg.MODEL.MULTI_MASK_ON else ()
        return cls(
            ann_file,
            root,
            is_train and cfg.DATASETS.FILTER_EMPTY,
            transforms,
            offset=cfg.MODEL.BOX_OFFSET,
            with_masks=cfg.MODEL.MASK_ON,
            with_keypoints=cfg.MODEL.KEYPOINT_ON,
            num_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
            keypoints=keypoints,
            min_keypoints=0 if cfg.MODEL.ROI_KEYPOINT_HEAD.CLASSES or not is_train else cfg.DATASETS.MIN_KEYPOINTS,
            keypoints_file=keypoints_file if cfg.MODEL.KEYPOINT_ON else None,
            extra_fields=extra_fields_of(cfg.DATASETS.EXTRA_FIELDS, named_masks),
            named_masks=named_masks,
            mask_keys=mask_keys_of(cfg.DATASETS.MASK_KEYS),
        )

    @functools.cached_property
    def coco(self) -> COCO:
        """The whole annotation file as pycocotools has it, read at the first access. Training does not need it."""
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(self.ann_file)
        if self.keypoints_file is not None:
            join_keypoints(coco.dataset, read_coco_json(self.keypoints_file), self.ann_file, self.keypoints_file)
        return coco

    def _load(
        self,
        *,
        with_masks: bool | None,
        named_masks: Sequence[str] | None,
        with_keypoints: bool | None,
        num_keypoints: int | None,
        keypoints: KeypointSpec | str | None,
        remove_empty: bool,
        min_keypoints: int,
    ) -> None:
        """Read, check and pack the annotation file; arguments as of the constructor."""
        content = CocoFile(self.ann_file, self.keypoints_file)
        self.with_masks = content.has("segmentation") if with_masks is None else with_masks
        names = dict.fromkeys([*content.keys_of(NAMED_MASKS), *self.mask_keys] if named_masks is None else named_masks)
        self.mask_paths = dict(PLAIN_MASK) if self.with_masks else {}
        for name in names:
            fields.mask_fields(name)  # raises ValueError if it cannot be the name of a mask
            key = self.mask_keys.get(name)
            self.mask_paths[name] = tuple(key.split(".")) if key else (NAMED_MASKS, name)
        self.with_keypoints = content.has("keypoints") if with_keypoints is None else with_keypoints
        self.keypoint_spec = content.keypoint_spec(num_keypoints, keypoints) if self.with_keypoints else None
        self.num_keypoints = len(self.keypoint_spec) if self.keypoint_spec else 0
        self.categories = content.categories  # id in the file -> name
        self.json_category_id_to_contiguous_id = {category: i for i, category in enumerate(self.categories, start=1)}
        self.contiguous_category_id_to_json_id = {i: c for c, i in self.json_category_id_to_contiguous_id.items()}

        packed = self._use(
            content.annotations,
            content.images,
            self.json_category_id_to_contiguous_id,
            remove_empty=remove_empty,
            masks=self.mask_paths,
            num_keypoints=self.num_keypoints if self.with_keypoints else None,
            min_keypoints=min_keypoints if self.with_keypoints and content.has("keypoints") else 0,
            extra_fields=self.extra_fields,
        )
        self.keypoint_labels = self._labels_with_keypoints(content, packed)
        absent = [name for name, masks in packed.segmentations.items() if len(packed.ids) and not masks.present.any()]
        self.mask_names = [name for name in names if name not in absent]
        if absent:
            self.masks_described = content.masks_described()
        if "" in absent:
            logger.warning("no annotation of %s has a mask (a usable 'segmentation')", self.ann_file)
        for field, values in packed.extra.items():
            if len(values) and np.isnan(values).all():
                logger.warning(
                    "no annotation of %s has a number under %r: the field %r is NaN everywhere. "
                    "DATASETS.EXTRA_FIELDS names the key",
                    self.ann_file, self.extra_fields[field], field,
                )  # fmt: skip

    def _labels_with_keypoints(self, content: CocoFile, packed: PackedAnnotations) -> tuple[int, ...]:
        """Labels of the categories whose entry lists keypoints, or of which an annotation has some."""
        if packed.keypoints is None:
            return ()
        listed = [self.json_category_id_to_contiguous_id[category] for category in content.categories_with_keypoints()]
        annotated = packed.labels[(packed.keypoints[..., 2] > 0).any(axis=1)]
        return tuple(sorted({*listed, *np.unique(annotated).tolist()}))


def extra_fields_of(pairs: Sequence[Sequence[str]], named_masks: Sequence[str] = ()) -> dict[str, str]:
    """DATASETS.EXTRA_FIELDS as {field name: JSON key}. Raises: ConfigError (see `utils.problems`)."""
    masks = [fields.mask_fields(name) for name in named_masks]
    own = {*_OWN_FIELDS, *(field for names in masks for field in (names.truth, names.present))}
    extra: dict[str, str] = {}
    for field, key in _pairs_of("EXTRA_FIELDS", pairs, "BoxList field", ("ages", "age")):
        if field in extra or field in own:
            taken = "named twice" if field in extra else "a field that every target has already"
            config_problem(f"DATASETS.EXTRA_FIELDS reads {key!r} into {field!r}, which is {taken}; rename it.")
        else:
            extra[field] = key
    return extra


def mask_keys_of(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    """DATASETS.MASK_KEYS as {name of a mask: JSON key}. Raises: ConfigError (see `utils.problems`)."""
    keys: dict[str, str] = {}
    for name, key in _pairs_of("MASK_KEYS", pairs, "name of a mask", ("visible", "i_segm")):
        if name in keys:
            config_problem(f"DATASETS.MASK_KEYS reads {name!r} from {keys[name]!r} and from {key!r}; name it once.")
        keys[name] = key
    return keys


def keypoint_files_of(pairs: Sequence[Sequence[str]], names: Collection[str]) -> dict[str, str]:
    """DATASETS.KEYPOINT_FILES as {name of a data set: file}. Raises: ConfigError (see `utils.problems`).

    Args:
        names: of the data sets that the config uses.
    """
    example = ("my_train", "my_keypoints.json")
    files = dict(_pairs_of("KEYPOINT_FILES", pairs, "name of a data set", example, "file"))
    unused = ", ".join(name for name in files if name not in names)
    if unused:
        config_problem(
            f"DATASETS.KEYPOINT_FILES names {unused}, but DATASETS.TRAIN and DATASETS.TEST do not; they name "
            f"{', '.join(names) or 'none'}."
        )
    return files


def _pairs_of(
    key: str, pairs: Sequence[Sequence[str]], first: str, example: tuple[str, str], second: str = "JSON key"
) -> Iterator[tuple[str, str]]:
    """The pairs (`first`, `second`) of a key of DATASETS; reports what is no such pair."""
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(name, str) and name for name in pair):
            config_problem(
                f"an entry of DATASETS.{key} is {pair!r}; expected ({first}, {second}), such as {example}. "
                f"One entry is written with a comma: {(example,)}."
            )
        else:
            yield pair[0], pair[1]

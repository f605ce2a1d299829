"""`PascalVOCDataset`: the folders of Pascal VOC 2007 and 2012, or others of that layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskrcnn_benchmark.data.datasets.image_files import list_folder, read_size
from maskrcnn_benchmark.data.datasets.packed_dataset import PackedDataset, Transforms
from maskrcnn_benchmark.data.datasets.voc_file import VocFile
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

_IMAGES, _ANNOTATIONS, _SPLITS = "JPEGImages", "Annotations", os.path.join("ImageSets", "Main")


class PascalVOCDataset(PackedDataset):
    """Images, boxes and classes of a split of Pascal VOC.

    The folder has `Annotations/<id>.xml`, `JPEGImages/<id>.jpg`, and `ImageSets/Main/<split>.txt` with one id per line.
    The files count pixels from 1 to the width; targets count from 0, as upstream does, so 1 is subtracted from all four
    sides. In a target, DIFFICULT tells which objects are marked as difficult. If no image of the split has an XML file,
    as in the test set of 2012, there are no annotations. Unusable annotations are left out with one warning.

    Args:
        data_dir: the folder, such as `VOC2007`.
        split: name of the list of images: "train", "val", "trainval", "test".
        use_difficult: keep objects that are marked as difficult. They are usually left out in training, and evaluation
            needs them, to ignore detections of them.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        offset: the box convention of the targets, see `BoxList`.
        remove_images_without_annotations: leave out images without an object that is kept.
        classes: names of the labels from 1; the 20 of VOC by default.
    Raises: FileNotFoundError for missing files; ValueError for an XML file that cannot be read, and if no image is
        left.
    """

    evaluator = "VOC"
    CLASSES = (
        "__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        use_difficult: bool = False,
        transforms: Transforms | None = None,
        *,
        offset: int = INCLUSIVE,
        remove_images_without_annotations: bool = False,
        classes: Sequence[str] = CLASSES[1:],
    ) -> None:
        self.data_dir, self.image_set = os.fspath(data_dir), split
        list_file = os.path.join(self.data_dir, _SPLITS, f"{split}.txt")
        super().__init__(os.path.join(self.data_dir, _IMAGES), list_file, transforms, offset=offset)
        self.keep_difficult = use_difficult
        self.categories = dict(enumerate(classes, start=1))
        ids = _read_ids(list_file)
        files = self._read_files(ids)
        annotations, names = _as_coco(ids, files, use_difficult)
        self._use(
            annotations,
            self._describe_images(ids, files),
            {name: label for label, name in self.categories.items()},
            remove_empty=remove_images_without_annotations,
            extra_fields={fields.DIFFICULT: "difficult"},
            names=names,
        )

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        *,
        is_train: bool,
        transforms: Transforms | None,
        data_dir: str,
        split: str,
        use_difficult: bool | None = None,
        classes: Sequence[str] = CLASSES[1:],
    ) -> PascalVOCDataset:
        """The data set for the model of `cfg`. Images are filtered and difficult objects left out in training only."""
        if cfg.MODEL.MASK_ON or cfg.MODEL.MULTI_MASK_ON or cfg.MODEL.KEYPOINT_ON:
            config_problem(
                "PascalVOCDataset has boxes only, but MODEL.MASK_ON, MODEL.MULTI_MASK_ON or MODEL.KEYPOINT_ON is True. "
                "Masks of VOC are in the data sets voc_2012_train_cocostyle and voc_2012_val_cocostyle."
            )
        return cls(
            data_dir,
            split,
            not is_train if use_difficult is None else use_difficult,
            transforms,
            offset=cfg.MODEL.BOX_OFFSET,
            remove_images_without_annotations=is_train and cfg.DATASETS.FILTER_EMPTY,
            classes=classes,
        )

    def get_groundtruth(self, index: int) -> BoxList:
        target = super().get_groundtruth(index)
        target.add_field(fields.DIFFICULT, target.get_field(fields.DIFFICULT) > 0)
        return target

    def map_class_id_to_class_name(self, class_id: int) -> str:
        return self.class_names[class_id]

    def _read_files(self, ids: Sequence[str]) -> list[VocFile]:
        """The annotation files; empty ones if there is none at all."""
        folder = os.path.join(self.data_dir, _ANNOTATIONS)
        existing = list_folder(folder)
        missing = [id_ for id_ in ids if f"{id_}.xml" not in existing]
        if len(missing) == len(ids):
            return [VocFile("", None, ())] * len(ids)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(ids)} images that {self.source} lists have no annotation file in "
                f"{os.path.abspath(folder)}: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            )
        return [VocFile.read(os.path.join(folder, f"{id_}.xml")) for id_ in ids]

    def _describe_images(self, ids: Sequence[str], files: Sequence[VocFile]) -> list[dict[str, Any]]:
        """The images as COCO describes them. An image that is not a JPEG is found by the name in the XML file."""
        existing, images = list_folder(self.root), []
        for id_, file in zip(ids, files, strict=True):
            usual = f"{id_}.jpg"
            name = file.file_name if file.file_name in existing and usual not in existing else usual
            width, height = file.size_wh or read_size(os.path.join(self.root, name))
            images.append({"id": id_, "file_name": name, "width": width, "height": height})
        return images


def _read_ids(list_file: str) -> list[str]:
    """The first word of each line. Lists of one class have a second one, which tells whether the image shows it."""
    try:
        with open(list_file, encoding="utf-8") as file:
            return list(dict.fromkeys(line.split()[0] for line in file if line.strip()))
    except FileNotFoundError:
        raise FileNotFoundError(f"list of images {os.path.abspath(list_file)} does not exist") from None


def _as_coco(
    ids: Sequence[str], files: Sequence[VocFile], use_difficult: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects as annotations in COCO's form, numbered from 1, and a name of each for messages."""
    annotations: list[dict[str, Any]] = []
    names = []
    for id_, file in zip(ids, files, strict=True):
        for number, item in enumerate(file.objects, start=1):
            if item.difficult and not use_difficult:
                continue
            names.append(f"{id_}.xml object {number} {item.name!r}")
            annotations.append(
                {
                    "id": len(names),
                    "image_id": id_,
                    "category_id": item.name,
                    "bbox": item.box and _from_one_based(*item.box),
                    "difficult": item.difficult,
                }
            )
    return annotations, names


def _from_one_based(xmin: float, ymin: float, xmax: float, ymax: float) -> list[float]:
    """x, y, width and height of the pixels xmin to xmax, both included and counted from 1."""
    return [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]

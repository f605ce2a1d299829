"""`CityScapesDataset`: the folders leftImg8bit and gtFine (or gtCoarse) of Cityscapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.datasets import cityscapes_file
from maskrcnn_benchmark.data.datasets.annotations import PLAIN_MASK
from maskrcnn_benchmark.data.datasets.image_files import list_folder, read_ids
from maskrcnn_benchmark.data.datasets.packed_dataset import PackedDataset, Transforms
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

_IMAGE_ENDING, _IDS_ENDING, _POLYGONS_ENDING = "_leftImg8bit.png", "_instanceIds.png", "_polygons.json"

Instance = dict[str, Any]  # "category_id", "bbox", "segmentation" and "iscrowd", as COCO has them


class CityScapesDataset(PackedDataset):
    """Images of a split of Cityscapes with boxes, classes and masks of the instances.

    Files are `<img_dir>/<split>/<city>/<name>_leftImg8bit.png` and `<ann_dir>/<split>/<city>/<name>_gtFine_*`. All
    annotations are read when the data set is built. Groups of instances (such as "cargroup") are not targets. Unusable
    annotations are left out with one warning.

    Args:
        img_dir, ann_dir: the folders leftImg8bit and gtFine, which have a folder for each split.
        split: "train", "val" or "test".
        mode: "mask" takes the visible pixels of each instance from `*_instanceIds.png`; "poly" takes the polygons of
            `*_polygons.json`, which may also span what is hidden by objects in front.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        min_area: leave out instances with a smaller (x2 - x1) * (y2 - y1) in pixels.
        mini: use at most this many images, spread over the split.
        offset: the box convention of the targets, see `BoxList`.
        classes: names of the labels from 1; by default the eight that the official evaluation scores. Upstream's
            configs of 11 classes also have "caravan" and "trailer" (`cityscapes_file.WITH_INSTANCES`).
        with_masks: whether targets have masks.
        remove_images_without_annotations: leave out images without a usable instance.
    Raises: FileNotFoundError for missing files; ValueError for a file of another format, an unknown mode, and if no
        image is left.
    """

    evaluator = "Cityscapes"

    def __init__(
        self,
        img_dir: str | os.PathLike[str],
        ann_dir: str | os.PathLike[str],
        split: str,
        mode: str = "mask",
        transforms: Transforms | None = None,
        min_area: float = 0,
        mini: int | None = None,
        *,
        offset: int = INCLUSIVE,
        classes: Sequence[str] = cityscapes_file.EVALUATED,
        with_masks: bool = True,
        remove_images_without_annotations: bool = False,
    ) -> None:
        readers: dict[str, tuple[str, Callable[[str], tuple[tuple[int, int], list[Instance]]]]] = {
            "mask": (_IDS_ENDING, _read_masks),
            "poly": (_POLYGONS_ENDING, _read_polygons),
        }
        if mode not in readers:
            raise ValueError(f"the mode of CityScapesDataset is {mode!r}; expected one of {', '.join(readers)}")
        ending, read = readers[mode]
        super().__init__(os.path.join(img_dir, split), os.path.join(ann_dir, split), transforms, offset=offset)
        self.split, self.mode, self.min_area = split, mode, min_area
        self.categories = dict(enumerate(classes, start=1))
        names = _image_names(self.root)
        if mini is not None:
            names = names[:: len(names) // mini + 1]
        files = _find_annotations(self.source, names, ending)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = list(pool.map(read, files))
        annotations, titles = self._number(names, [instances for _, instances in contents])
        self._use(
            annotations,
            [
                {"id": os.path.basename(name), "file_name": name + _IMAGE_ENDING, "width": width, "height": height}
                for name, ((width, height), _) in zip(names, contents, strict=True)
            ],
            {name: label for label, name in self.categories.items()},
            remove_empty=remove_images_without_annotations,
            masks=PLAIN_MASK if with_masks else {},
            names=titles,
        )

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        *,
        is_train: bool,
        transforms: Transforms | None,
        img_dir: str,
        ann_dir: str,
        split: str,
        mode: str = "mask",
        min_area: float = 0,
        mini: int | None = None,
    ) -> CityScapesDataset:
        """The data set for the model of `cfg`: eight classes, or ten if MODEL.ROI_BOX_HEAD.NUM_CLASSES is 11."""
        if cfg.MODEL.KEYPOINT_ON:
            config_problem("CityScapesDataset has no keypoints, but MODEL.KEYPOINT_ON is True.")
        if cfg.MODEL.MULTI_MASK_ON:
            config_problem("CityScapesDataset has one mask per instance, but MODEL.MULTI_MASK_ON is True.")
        all_classes = cityscapes_file.WITH_INSTANCES
        return cls(
            img_dir,
            ann_dir,
            split,
            mode,
            transforms,
            min_area,
            mini,
            offset=cfg.MODEL.BOX_OFFSET,
            classes=all_classes
            if len(all_classes) + 1 == cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
            else cityscapes_file.EVALUATED,
            with_masks=cfg.MODEL.MASK_ON,
            remove_images_without_annotations=is_train and cfg.DATASETS.FILTER_EMPTY,
        )

    def read_instance_ids(self, index: int) -> NDArray[np.int32]:
        """The official ground truth (H, W) of an image: instance i of label l is l * 1000 + i, a group of them is l.

        It is `*_instanceIds.png`, or is drawn from the polygons as the official scripts do, if there is no such file.
        """
        name = self._file_names[index].removesuffix(_IMAGE_ENDING)
        for ending in (_IDS_ENDING, _POLYGONS_ENDING):
            for path in _find_annotations(self.source, [name], ending, required=False):
                return read_ids(path) if ending == _IDS_ENDING else cityscapes_file.Polygons(path).draw_ids()
        raise FileNotFoundError(f"{name} has no annotation file in {os.path.abspath(self.source)}")

    def _number(
        self, names: Sequence[str], instances_of_images: Sequence[Sequence[Instance]]
    ) -> tuple[list[Instance], list[str]]:
        """The instances of the classes, numbered from 1, and a name of each for messages."""
        annotations, titles, wanted = [], [], set(self.categories.values())
        for name, instances in zip(names, instances_of_images, strict=True):
            image_id = os.path.basename(name)
            for number, instance in enumerate(instances, start=1):
                box = instance["bbox"]
                if instance["category_id"] not in wanted or (
                    box is not None and (box[2] - 1) * (box[3] - 1) < self.min_area
                ):
                    continue
                titles.append(f"{image_id} instance {number} {instance['category_id']!r}")
                annotations.append({"id": len(titles), "image_id": image_id, **instance})
        return annotations, titles


def _image_names(folder: str) -> list[str]:
    """`<city>/<name>` of each image, without the ending, sorted."""
    names = sorted(
        os.path.join(city, file.removesuffix(_IMAGE_ENDING))
        for city in list_folder(folder)
        for file in list_folder(os.path.join(folder, city))
        if file.endswith(_IMAGE_ENDING)
    )
    if not names:
        raise FileNotFoundError(
            f"there are no images {os.path.join(os.path.abspath(folder), '*', '*' + _IMAGE_ENDING)}"
        )
    return names


def _find_annotations(folder: str, names: Sequence[str], ending: str, required: bool = True) -> list[str]:
    """The annotation file of each image, whose name goes on with "_gtFine" or "_gtCoarse"."""
    found = {
        os.path.join(city, file[: file.rindex("_gt")]): os.path.join(folder, city, file)
        for city in {os.path.dirname(name) for name in names}
        for file in list_folder(os.path.join(folder, city))
        if file.endswith(ending) and "_gt" in file
    }
    missing = [name for name in names if name not in found]
    if missing and required:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} images have no annotation file *{ending} in {os.path.abspath(folder)}"
            f": {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )
    return [found[name] for name in names if name in found]


def _read_polygons(path: str) -> tuple[tuple[int, int], list[Instance]]:
    """The size of the image, and its instances with polygons."""
    polygons = cityscapes_file.Polygons(path)
    instances = []
    for label, is_group, points in polygons.objects:
        if label in cityscapes_file.WITH_INSTANCES:
            box, outline = _outline(points)
            instances.append({"category_id": label, "bbox": box, "segmentation": outline, "iscrowd": int(is_group)})
    return polygons.size_wh, instances


def _outline(points: Any) -> tuple[list[float] | None, list[list[float]] | None]:
    """COCO's box and segmentation of a polygon whose points are pixels, which the box includes; None if unusable."""
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None, None
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        return None, None
    near, far = array.min(axis=0), array.max(axis=0)
    return [*near.tolist(), *(far - near + 1).tolist()], [array.reshape(-1).tolist()]


def _read_masks(path: str) -> tuple[tuple[int, int], list[Instance]]:
    """The size of the image, and its instances with run lengths."""
    ids = read_ids(path)
    instances = []
    for label, is_group, mask in _visible_instances(ids):
        box = mask_utils.toBbox(mask).tolist()
        instances.append({"category_id": label, "bbox": box, "segmentation": mask, "iscrowd": int(is_group)})
    return (ids.shape[1], ids.shape[0]), instances


def _visible_instances(ids: NDArray[np.int32]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Label, whether it is a group, and run lengths of each instance or group."""
    for value, mask in cityscapes_file.encode_ids(ids).items():
        is_group = value < cityscapes_file.INSTANCES_PER_LABEL
        label = value if is_group else value // cityscapes_file.INSTANCES_PER_LABEL
        name = cityscapes_file.LABELS[label] if 0 <= label < len(cityscapes_file.LABELS) else ""
        if name in cityscapes_file.WITH_INSTANCES:
            yield name, is_group, mask

"""What a detection data set offers: three required methods, and optional members that have defaults."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

Sample = tuple[Any, BoxList, int]  # image (a tensor after the transforms), target, index


class MinimalDataset(Protocol):
    """The required part: enough to train, and to be tested by an evaluator that needs no more."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Sample:
        """Image and target after the transforms, and the index itself."""

    def get_img_info(self, index: int, /) -> dict[str, Any]:
        """At least "width" and "height" of the image file, in pixels; "id" and "file_name" if there are any.

        It is called for every image when a run starts, so it must not open the image.
        """


class DetectionDataset(Dataset[Sample]):
    """Base class of detection data sets: `MinimalDataset`, and the optional part with its defaults.

    A data set of your own may derive from this class and override the defaults, or be any class with the three
    required methods: `as_detection_dataset` then adds the defaults.

    Attributes:
        evaluator: name in `EVALUATORS` of the evaluator for this data set; TEST.EVALUATORS takes precedence.
        class_names: name of each label, 0 being the background; empty if they are not known.
        categories: category id of the annotation file -> name, without the background; empty if they are not known.
        contiguous_category_id_to_json_id: label -> category id of the annotation file.
        mask_names: names of the masks that objects have besides the plain one, see `fields.mask_fields`; a name that
            no object has is not among them.
        masks_described: for messages, if the annotations are known to lack a mask: which ones they have.
        keypoint_spec: names, flip pairs, limbs and sigmas of the keypoints; None if there are none, or if the data set
            does not tell.
        keypoint_labels: labels of the classes that have keypoints; empty if they are not known.
        coco: the annotations as a pycocotools `COCO`, for COCO's evaluation; None if there are none in that form.
        sizes_wh: (number of images, 2) int64, width and height of each image file in pixels.
        id_to_img_map: index -> image id, as result files have it.
        kind: name of the class, for messages.
        has_groundtruth: whether `get_groundtruth` works, so that an evaluator can ask for it.
        can_draw: whether `read_image` works too, so that pictures can show truth beside prediction.
    """

    evaluator: str = "COCO"

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    def get_img_info(self, index: int) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} must define get_img_info")

    def read_image(self, index: int) -> Image.Image:
        """The image as it is on disk, RGB."""
        raise NotImplementedError(f"{type(self).__name__} does not define read_image")

    def get_groundtruth(self, index: int) -> BoxList:
        """The target in pixels of the image file."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_groundtruth")

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def has_groundtruth(self) -> bool:
        return type(self).get_groundtruth is not DetectionDataset.get_groundtruth

    @property
    def can_draw(self) -> bool:
        return self.has_groundtruth and type(self).read_image is not DetectionDataset.read_image

    # Cached properties, which a data set may override or assign to.

    @functools.cached_property
    def class_names(self) -> Sequence[str]:
        return ()

    @functools.cached_property
    def categories(self) -> Mapping[Any, str]:
        return {
            self.contiguous_category_id_to_json_id[label]: name for label, name in enumerate(self.class_names) if label
        }

    @functools.cached_property
    def contiguous_category_id_to_json_id(self) -> Mapping[int, Any]:
        return {label: label for label in range(1, len(self.class_names))}

    @functools.cached_property
    def mask_names(self) -> Sequence[str]:
        return ()

    @functools.cached_property
    def masks_described(self) -> str:
        return ""

    @functools.cached_property
    def keypoint_spec(self) -> KeypointSpec | None:
        return None

    @functools.cached_property
    def keypoint_labels(self) -> Sequence[int]:
        return ()

    @functools.cached_property
    def coco(self) -> COCO | None:
        return None

    @functools.cached_property
    def sizes_wh(self) -> NDArray[np.int64]:
        infos = map(self.get_img_info, range(len(self)))
        return np.array([(info["width"], info["height"]) for info in infos], dtype=np.int64).reshape(-1, 2)

    @functools.cached_property
    def id_to_img_map(self) -> Mapping[int, Any]:
        return {index: self.get_img_info(index).get("id", index) for index in range(len(self))}


class AdaptedDataset(DetectionDataset):
    """A data set that does not derive from `DetectionDataset`, with defaults for the attributes that it lacks.

    All other attributes are taken from the wrapped data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattribute__(self, name: str) -> Any:
        if name in _MEMBERS:
            own = getattr(super().__getattribute__("dataset"), name, _MISSING)
            if own is not _MISSING:
                return own
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not there yet during unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[index]
        return sample

    @property
    def kind(self) -> str:
        return type(self.dataset).__name__

    @property
    def has_groundtruth(self) -> bool:
        return hasattr(self.dataset, "get_groundtruth")

    @property
    def can_draw(self) -> bool:
        return self.has_groundtruth and hasattr(self.dataset, "read_image")


_MISSING = object()
_MEMBERS = {name for name in vars(DetectionDataset) if not name.startswith("_")} - {
    "kind",
    "has_groundtruth",
    "can_draw",
}


def as_detection_dataset(dataset: Any) -> DetectionDataset:
    """The data set itself if it derives from `DetectionDataset`, else an adapter that adds the defaults."""
    return dataset if isinstance(dataset, DetectionDataset) else AdaptedDataset(dataset)


def check_minimal(dataset: Any, name: str) -> None:
    """Raise TypeError if the data set of this name lacks a required method."""
    missing = [member for member in ("__len__", "__getitem__", "get_img_info") if not hasattr(dataset, member)]
    if missing:
        raise TypeError(
            f"the data set {name} is a {type(dataset).__name__}, which has no {' and no '.join(missing)}; "
            "`maskrcnn_benchmark.data.datasets.base.MinimalDataset` lists what a data set must offer"
        )

"""Several data sets as one."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import ConcatDataset as TorchConcatDataset

from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample, as_detection_dataset
from maskrcnn_benchmark.data.datasets.keypoint_specs import merge_specs
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.skeleton import KeypointSpec


class ConcatDataset(TorchConcatDataset[Sample], DetectionDataset):
    """The images of all data sets, one data set after the other. Indices count over all of them."""

    datasets: list[DetectionDataset]  # type: ignore[assignment]  # a narrower type than in PyTorch

    def __init__(self, datasets: Iterable[Any]) -> None:
        super().__init__([as_detection_dataset(dataset) for dataset in datasets])

    def __getitem__(self, index: int) -> Sample:
        dataset, position = self.get_idxs(index)
        image, target, _ = self.datasets[dataset][position]
        return image, target, index

    def get_idxs(self, index: int) -> tuple[int, int]:
        """The number of the data set that has this index, and the index there."""
        dataset = bisect.bisect_right(self.cumulative_sizes, index)
        return dataset, index - (self.cumulative_sizes[dataset - 1] if dataset else 0)

    def get_img_info(self, index: int) -> dict[str, Any]:
        dataset, position = self.get_idxs(index)
        return self.datasets[dataset].get_img_info(position)

    def get_groundtruth(self, index: int) -> BoxList:
        dataset, position = self.get_idxs(index)
        return self.datasets[dataset].get_groundtruth(position)

    def read_image(self, index: int) -> Image.Image:
        dataset, position = self.get_idxs(index)
        return self.datasets[dataset].read_image(position)

    @property
    def has_groundtruth(self) -> bool:
        return all(dataset.has_groundtruth for dataset in self.datasets)

    @property
    def can_draw(self) -> bool:
        return all(dataset.can_draw for dataset in self.datasets)

    @functools.cached_property
    def sizes_wh(self) -> NDArray[np.int64]:
        """(number of images, 2): width and height in pixels."""
        return np.concatenate([dataset.sizes_wh for dataset in self.datasets])

    @functools.cached_property
    def categories(self) -> dict[Any, str]:
        """Category ids of all the files -> names."""
        return {category: name for dataset in self.datasets for category, name in dataset.categories.items()}

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The names in the data set with the most categories. The builder has checked that the others agree."""
        names = [list(dataset.class_names) for dataset in self.datasets]
        return max(names, key=len)

    @functools.cached_property
    def mask_names(self) -> tuple[str, ...]:
        """The names in any of the data sets."""
        return tuple(dict.fromkeys(name for dataset in self.datasets for name in dataset.mask_names))

    @functools.cached_property
    def keypoint_spec(self) -> KeypointSpec | None:
        """Of the first data set that tells, completed by the others. The builder has checked that they agree."""
        specs = [dataset.keypoint_spec for dataset in self.datasets if dataset.keypoint_spec is not None]
        return functools.reduce(merge_specs, sorted(specs, key=lambda spec: not spec.is_named)) if specs else None

    @functools.cached_property
    def keypoint_labels(self) -> tuple[int, ...]:
        """Those of all data sets."""
        return tuple(sorted({label for dataset in self.datasets for label in dataset.keypoint_labels}))

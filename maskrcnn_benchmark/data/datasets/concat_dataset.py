"""Several datasets as one."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset as TorchConcatDataset


class ConcatDataset(TorchConcatDataset):
    """The images of all datasets one after the other; the indices that come with the samples count over all of them."""

    datasets: list[Any]

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        dataset, position = self.get_idxs(index)
        image, target, _ = self.datasets[dataset][position]
        return image, target, index

    def get_idxs(self, index: int) -> tuple[int, int]:
        """Which dataset an index falls into, and the index there."""
        dataset = bisect.bisect_right(self.cumulative_sizes, index)
        return dataset, index - (self.cumulative_sizes[dataset - 1] if dataset else 0)

    def get_img_info(self, index: int) -> dict[str, Any]:
        dataset, position = self.get_idxs(index)
        return self.datasets[dataset].get_img_info(position)

    def get_groundtruth(self, index: int) -> Any:
        dataset, position = self.get_idxs(index)
        return self.datasets[dataset].get_groundtruth(position)

    @property
    def sizes_wh(self) -> NDArray[np.int64]:
        """(number of images, 2): width and height in pixels."""
        return np.concatenate([image_sizes(dataset) for dataset in self.datasets])

    @property
    def categories(self) -> dict[Any, str]:
        """Category ids of all the files -> names."""
        return {category: name for dataset in self.datasets for category, name in dataset.categories.items()}

    @property
    def class_names(self) -> list[str]:
        """Of the dataset with the most categories; the builder has checked that the others agree."""
        return max((dataset.class_names for dataset in self.datasets), key=len)


def image_sizes(dataset: Any) -> NDArray[np.int64]:
    """(number of images, 2): width and height of every image of any dataset, in pixels, without opening an image.

    Takes the attribute `sizes_wh` where there is one, else asks `get_img_info` for every image.
    """
    if hasattr(dataset, "sizes_wh"):
        return np.asarray(dataset.sizes_wh)
    infos = map(dataset.get_img_info, range(len(dataset)))
    return np.array([(info["width"], info["height"]) for info in infos], dtype=np.int64).reshape(-1, 2)

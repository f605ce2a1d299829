"""Combine samples into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize


class ViewCollator:
    """Samples whose images are in several sizes -> (`ImageViews`, targets, indices).

    Args:
        collators: one for each size.
        sizes: the sizes and their views.
    """

    def __init__(self, collators: Sequence[BatchCollator], sizes: Sequence[ViewSize]) -> None:
        self.collators = list(collators)
        self.sizes = tuple(sizes)

    def __call__(
        self, batch: Sequence[tuple[Sequence[Tensor], Any, int]]
    ) -> tuple[ImageViews, tuple[Any, ...], tuple[int, ...]]:
        in_sizes, targets, indices = zip(*batch, strict=True)
        images = tuple(
            collate([(resized, None, index) for resized, index in zip(of_size, indices, strict=True)])[0]
            for collate, of_size in zip(self.collators, zip(*in_sizes, strict=True), strict=True)
        )
        return ImageViews.of(images, self.sizes), targets, indices


class BatchCollator:
    """Samples (image (3, H, W), target, index) -> (`ImageList` padded to one size, targets, indices).

    Args:
        size_divisible: the padded height and width are multiples of this; 0 and 1 have no effect.
        canvas_hw: (number of images, 2), the smallest (height, width) of the batch that an image is in, by index of the
            image. With it, the padding of an image does not depend on the other images of its batch. None pads to the
            largest image.
    """

    def __init__(self, size_divisible: int = 0, canvas_hw: NDArray[np.int64] | None = None) -> None:
        self.size_divisible = size_divisible
        self.canvas_hw = canvas_hw

    def __call__(self, batch: Sequence[tuple[Tensor, Any, int]]) -> tuple[ImageList, tuple[Any, ...], tuple[int, ...]]:
        images, targets, indices = zip(*batch, strict=True)
        if self.canvas_hw is None:
            return to_image_list(images, self.size_divisible), targets, indices
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = np.concatenate([self.canvas_hw[list(indices)], sizes]).max(axis=0).tolist()
        divisor = max(1, self.size_divisible)
        height, width = -(-height // divisor) * divisor, -(-width // divisor) * divisor
        padded = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for image, slot in zip(images, padded, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(padded, sizes), targets, indices

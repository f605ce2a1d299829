"""A list of images, for inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample
from maskrcnn_benchmark.data.datasets.image_files import read_image, read_size
from maskrcnn_benchmark.data.datasets.packed_dataset import Transforms
from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.structures.bounding_box import BoxList


class ListDataset(DetectionDataset):
    """A list of images without annotations; each comes with an empty target of the image's size.

    Args:
        image_lists: paths, PIL images, or arrays (H, W, 3) uint8 in RGB.
        transforms: called with the image (PIL, RGB) and the target, returns both.
        offset: the box convention of the targets, see `BoxList`.
    """

    def __init__(
        self,
        image_lists: Sequence[str | os.PathLike[str] | Image.Image | np.ndarray],
        transforms: Transforms | None = None,
        *,
        offset: int = INCLUSIVE,
    ) -> None:
        self.image_lists = list(image_lists)
        self.transforms = transforms
        self.offset = offset

    def __len__(self) -> int:
        return len(self.image_lists)

    def __getitem__(self, index: int) -> Sample:
        image: Any = self.read_image(index)
        target = BoxList([], image.size, offset=self.offset)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def read_image(self, index: int) -> Image.Image:
        """The image as RGB. Raises: OSError with the name of a file that cannot be read."""
        entry = self.image_lists[index]
        if isinstance(entry, np.ndarray):
            return Image.fromarray(entry).convert("RGB")
        return entry.convert("RGB") if isinstance(entry, Image.Image) else read_image(entry)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The image's "id" (its index), "file_name" (None for an image in memory), "width" and "height"."""
        entry = self.image_lists[index]
        if isinstance(entry, np.ndarray):
            (height, width), name = entry.shape[:2], None
        elif isinstance(entry, Image.Image):
            (width, height), name = entry.size, None
        else:
            (width, height), name = read_size(entry), os.fspath(entry)
        return {"id": index, "file_name": name, "width": width, "height": height}

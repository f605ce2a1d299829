"""`ImageList`: a batch of images of different sizes, padded to one size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageList:
    """A batch of images, padded with zeros at the right and the bottom.

    Attributes:
        tensors: (N, C, H, W).
        image_sizes: (height, width) of each image without padding, in pixels.
    """

    tensors: Tensor
    image_sizes: Sequence[tuple[int, int]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ImageList":
        """Copy to a device."""
        return ImageList(self.tensors.to(device, non_blocking=non_blocking), self.image_sizes)

    def pin_memory(self) -> "ImageList":
        """Copy to page-locked memory; called by `DataLoader(pin_memory=True)`."""
        return ImageList(self.tensors.pin_memory(), self.image_sizes)

    def __len__(self) -> int:
        return len(self.image_sizes)


def to_image_list(
    tensors: ImageList | Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]], size_divisible: int = 0
) -> ImageList:
    """Pad images with zeros at the right and the bottom to one size.

    Args:
        tensors: a sequence of images (C, H, W), one image (C, H, W), a batch (N, C, H, W), or an ImageList, which is
            returned unchanged.
        size_divisible: round height and width up to a multiple of this; 0 and 1 do not round.
    Raises: TypeError for another type, ValueError for no image or for different numbers of channels.
    """
    if isinstance(tensors, ImageList):
        return tensors
    if isinstance(tensors, Tensor):
        if tensors.dim() not in (3, 4):
            raise ValueError(f"to_image_list takes images (C, H, W) or (N, C, H, W), not {tuple(tensors.shape)}")
        batch = tensors if tensors.dim() == 4 else tensors[None]
        size = _round_up(batch.shape[-2:], size_divisible)
        if size == tuple(batch.shape[-2:]):
            return ImageList(batch, [size] * batch.shape[0])
        tensors = list(batch)
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(image, Tensor) for image in tensors):
        raise TypeError(f"to_image_list takes tensors or a list of them, not {type(tensors).__name__}")
    if not tensors:
        raise ValueError("to_image_list was given no image")
    channels = {tuple(image.shape[:-2]) for image in tensors}
    if any(image.dim() != 3 for image in tensors) or len(channels) != 1:
        shapes = ", ".join(str(tuple(image.shape)) for image in tensors)
        raise ValueError(f"to_image_list takes images (C, H, W) with the same number of channels, not {shapes}")

    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
    height, width = _round_up((max(h for h, _ in sizes), max(w for _, w in sizes)), size_divisible)
    padded = tensors[0].new_zeros((len(tensors), tensors[0].shape[0], height, width))
    for image, slot in zip(tensors, padded, strict=True):
        slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
    return ImageList(padded, sizes)


def _round_up(size_hw: Sequence[int], divisor: int) -> tuple[int, int]:
    if divisor <= 1:
        return int(size_hw[0]), int(size_hw[1])
    height, width = (-(-int(side) // divisor) * divisor for side in size_hw)
    return height, width

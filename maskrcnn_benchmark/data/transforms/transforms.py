"""Transforms of an image together with its target.

A transform is called with an image and a target (a `BoxList`, or None) and returns both. It does not change its inputs.
Images are 8-bit RGB (PIL) before `ToTensor`. Random numbers come from PyTorch's global CPU generator, which the
training loader seeds for every sample (see `maskrcnn_benchmark.data.seeding`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList

RESIZE_KINDS = ("PIL", "torchvision", "detectron2")
IMAGE_FORMATS = ("RGB", "BGR", "RGB255", "BGR255")  # order of the channels; 255: values 0 to 255 instead of 0 to 1


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any, BoxList | None], tuple[Any, BoxList | None]]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any, target: BoxList | None = None) -> tuple[Any, BoxList | None]:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


class InSizes:
    """The image in several sizes: a tuple of the images that each of the given transforms makes of it.

    The target is that of the first size.
    """

    def __init__(self, transforms: Sequence[Callable[[Any, BoxList | None], tuple[Any, BoxList | None]]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any, target: BoxList | None = None) -> tuple[tuple[Any, ...], BoxList | None]:
        first, *others = self.transforms
        resized, new_target = first(image, target)
        return (resized, *(transform(image, None)[0] for transform in others)), new_target

    def __repr__(self) -> str:
        return f"InSizes({', '.join(map(repr, self.transforms))})"


class Resize:
    """Resize an image so that its short side has a given length, or its long side the longest length allowed.

    Args:
        kind: how; one of RESIZE_KINDS.
            "PIL": bilinear on 8-bit pixels, with antialiasing when the image shrinks, as released weights expect.
            "detectron2": the same, with both sides rounded to the nearest pixel.
            "torchvision": bilinear on floats without antialiasing, with both sides rounded down, as in torchvision's
            detectors. The image is then the tensor that `ToTensor` returns, and the result is float, 0 to 1.
        min_size: length of the short side in pixels, or several lengths, of which one is drawn per image.
        max_size: longest long side in pixels: one, or one for each of `min_size`; None for no limit.
    Raises: ValueError if the numbers do not fit together.
    """

    def __init__(
        self, min_size: int | Sequence[int], max_size: int | Sequence[int] | None = None, *, kind: str = "PIL"
    ) -> None:
        if kind not in RESIZE_KINDS:
            raise ValueError(f"Resize was given the kind {kind!r} (INPUT.RESIZE); it can be {', '.join(RESIZE_KINDS)}")
        self.kind = kind
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        limits = (max_size,) if max_size is None or isinstance(max_size, int) else tuple(max_size)
        if not self.min_size or len(limits) not in (1, len(self.min_size)):
            raise ValueError(
                f"Resize was given short sides {min_size} and limits of the long side {max_size}: there must be one "
                "limit, or one for each short side (INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN)"
            )
        self.max_size = limits * len(self.min_size) if len(limits) == 1 else limits
        if any(size <= 0 for size in (*self.min_size, *filter(None, limits))):
            raise ValueError(f"Resize was given short sides {min_size}, long sides {max_size}; they must be positive")

    def get_size(self, size_wh: tuple[int, int], choice: int = 0) -> tuple[int, int]:
        """(height, width) of an image of size (width, height) after resizing; `choice` is an index into `min_size`."""
        if self.kind != "PIL":
            width, height = self._scaled(size_wh, choice)
            return height, width
        short, long = min(size_wh), max(size_wh)
        new_short, limit = self.min_size[choice], self.max_size[choice]
        if limit is not None and long / short * new_short > limit:
            new_short = max(1, round(limit * short / long))
        if short == new_short:
            return size_wh[1], size_wh[0]
        new_long = int(new_short * long / short)
        return (new_long, new_short) if size_wh[0] < size_wh[1] else (new_short, new_long)

    def _scaled(self, size_wh: tuple[int, int], choice: int) -> tuple[int, int]:
        """(width, height) by one factor for both sides, as torchvision and Detectron2 compute them."""
        scale = self.min_size[choice] / min(size_wh)
        limit = self.max_size[choice]
        if self.kind == "torchvision":
            if limit is not None:
                scale = min(scale, limit / max(size_wh))
            return max(1, math.floor(size_wh[0] * scale)), max(1, math.floor(size_wh[1] * scale))
        # the short side is exact, as a product it may round below
        sides = [float(self.min_size[choice]) if side == min(size_wh) else side * scale for side in size_wh]
        if limit is not None and max(sides) > limit:
            scale = limit / max(sides)
            sides = [side * scale for side in sides]
        return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))

    def __call__(
        self, image: Image.Image | Tensor, target: BoxList | None = None
    ) -> tuple[Image.Image | Tensor, BoxList | None]:
        choice = int(torch.randint(len(self.min_size), ())) if len(self.min_size) > 1 else 0
        size_wh = (image.shape[-1], image.shape[-2]) if isinstance(image, Tensor) else image.size
        height, width = self.get_size(size_wh, choice)
        if isinstance(image, Tensor):
            image = _resize_floats(image, (height, width))
        elif (width, height) != size_wh:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return image, target if target is None else target.resize((width, height))

    def __repr__(self) -> str:
        return f"Resize(min_size={self.min_size}, max_size={self.max_size}, kind={self.kind!r})"


def _resize_floats(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(3, h, w) uint8 -> (3, *size_hw) float32, 0 to 1, bilinear."""
    pixels = image.to(torch.float32, memory_format=torch.contiguous_format) / 255
    return F.interpolate(pixels[None], size=size_hw, mode="bilinear", align_corners=False)[0]


class _RandomFlip:
    """Flip image, boxes, masks and keypoints with a probability."""

    image_method: Image.Transpose
    target_method: int

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> tuple[Image.Image, BoxList | None]:
        if float(torch.rand(())) >= self.prob:
            return image, target
        return image.transpose(self.image_method), target if target is None else target.transpose(self.target_method)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob})"


class RandomHorizontalFlip(_RandomFlip):
    """Flip left-right. Left and right keypoints swap names."""

    image_method, target_method = Image.Transpose.FLIP_LEFT_RIGHT, FLIP_LEFT_RIGHT


class RandomVerticalFlip(_RandomFlip):
    """Flip up-down. A left hand then looks like a right one, so left and right keypoints swap names here too."""

    image_method, target_method = Image.Transpose.FLIP_TOP_BOTTOM, FLIP_TOP_BOTTOM


class ColorJitter:
    """torchvision's random brightness, contrast, saturation (factors 1 - x to 1 + x) and hue (shift of -x to x)."""

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        self.color_jitter = torchvision.transforms.ColorJitter(brightness, contrast, saturation, hue)

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> tuple[Image.Image, BoxList | None]:
        return self.color_jitter(image), target

    def __repr__(self) -> str:
        return repr(self.color_jitter)


class ToTensor:
    """PIL image -> (3, H, W) uint8, values 0 to 255. `Normalize` converts them to float."""

    def __call__(self, image: Image.Image, target: BoxList | None = None) -> tuple[Tensor, BoxList | None]:
        pixels = torch.from_numpy(np.array(image))  # (H, W, 3), a writable copy
        return pixels.permute(2, 0, 1), target

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """(3, H, W) RGB -> float32 in the given format, minus the mean, divided by the standard deviation.

    Input is uint8 (0 to 255) or float (0 to 1).

    Args:
        mean, std: per channel, in the order and range of the format.
        to_bgr255: used if there is no `image_format`: "BGR255" (True) or "RGB" (False).
        image_format: one of IMAGE_FORMATS, or "".
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], to_bgr255: bool = True, image_format: str = ""
    ) -> None:
        image_format = image_format or ("BGR255" if to_bgr255 else "RGB")
        if image_format not in IMAGE_FORMATS:
            raise ValueError(f"INPUT.FORMAT is {image_format!r}; it can be {', '.join(IMAGE_FORMATS)} or empty")
        if len(mean) != 3 or len(std) != 3 or not all(std):
            raise ValueError(f"INPUT.PIXEL_MEAN {mean} and PIXEL_STD {std} must be three numbers each, STD not zero")
        self.image_format = image_format
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, image: Tensor, target: BoxList | None = None) -> tuple[Tensor, BoxList | None]:
        top = 255.0 if self.image_format.endswith("255") else 1.0  # white, in the format
        factor = top if image.is_floating_point() else top / 255
        shift = torch.tensor(self.mean)[:, None, None] / factor
        scale = torch.tensor(self.std)[:, None, None] / factor
        if self.image_format.startswith("BGR"):
            image = image.flip(0)
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return pixels.sub_(shift).div_(scale), target

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std}, image_format={self.image_format!r})"

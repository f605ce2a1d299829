"""Image and target transforms."""

from maskrcnn_benchmark.data.transforms.build import TRANSFORMS, build_transforms
from maskrcnn_benchmark.data.transforms.transforms import (
    ColorJitter,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Resize,
    ToTensor,
)

__all__ = [
    "ColorJitter",
    "Compose",
    "Normalize",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "Resize",
    "TRANSFORMS",
    "ToTensor",
    "build_transforms",
]

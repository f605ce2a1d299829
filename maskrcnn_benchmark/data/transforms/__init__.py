"""Image and target transforms."""

from maskrcnn_benchmark.data.transforms.augmentation import HalfBodyCrop, LargeScaleJitter, RandomAffine, RandomCrop
from maskrcnn_benchmark.data.transforms.build import TRANSFORMS, build_test_transforms, build_transforms
from maskrcnn_benchmark.data.transforms.transforms import (
    ColorJitter,
    Compose,
    InSizes,
    Normalize,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Resize,
    ToTensor,
)

__all__ = [
    "ColorJitter",
    "Compose",
    "HalfBodyCrop",
    "InSizes",
    "LargeScaleJitter",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "Resize",
    "TRANSFORMS",
    "ToTensor",
    "build_test_transforms",
    "build_transforms",
]

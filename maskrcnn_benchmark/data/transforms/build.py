"""The transforms that a config asks for, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskrcnn_benchmark.data.transforms import transforms as T
from maskrcnn_benchmark.data.transforms.augmentation import HalfBodyCrop, LargeScaleJitter, RandomAffine, RandomCrop
from maskrcnn_benchmark.structures.image_views import ViewSize
from maskrcnn_benchmark.utils.problems import check_choice, config_problem
from maskrcnn_benchmark.utils.registry import Registry

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Name -> callable (cfg, is_train) that returns a transform, or None if the config does not ask for it.
TRANSFORMS = Registry()

# A transform of your own runs between the two: on the augmented 8-bit image, before it becomes a tensor. The image is
# resized already, unless INPUT.RESIZE is torchvision, which resizes tensors.
IMAGE_TRANSFORMS = (
    "ColorJitter",
    "HalfBodyCrop",
    "RandomCrop",
    "Resize",
    "LargeScaleJitter",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "RandomAffine",
)
TENSOR_TRANSFORMS = ("ToTensor", "ResizeTensor", "Normalize")


def build_transforms(cfg: CfgNode, is_train: bool = True) -> T.Compose:
    """Augmentation (training only), resizing to the network's input size, and normalization, from `cfg.INPUT`.

    The transforms that INPUT.TRANSFORMS_TRAIN names are added in training.

    Raises: ConfigError for a name that is not registered.
    """
    own = [name for name in cfg.INPUT.TRANSFORMS_TRAIN if _is_registered(name)] if is_train else []
    steps = [TRANSFORMS[name](cfg, is_train) for name in (*IMAGE_TRANSFORMS, *own, *TENSOR_TRANSFORMS)]
    return T.Compose([step for step in steps if step is not None])


def build_test_transforms(cfg: CfgNode) -> T.Compose | T.InSizes:
    """The transforms of a test: those of `build_transforms`, or for each size of the test-time augmentation."""
    sizes = ViewSize.from_cfg(cfg)
    if not sizes:
        return build_transforms(cfg, is_train=False)
    return T.InSizes([build_transforms(size.applied_to(cfg), is_train=False) for size in sizes])


def _is_registered(name: str) -> bool:
    if name not in TRANSFORMS:
        config_problem(
            f"INPUT.TRANSFORMS_TRAIN names {name!r}; registered: {', '.join(sorted(TRANSFORMS))}. "
            "A transform of your own registers itself in a module that IMPORTS names."
        )
    return name in TRANSFORMS


@TRANSFORMS.register("ColorJitter")
def _color_jitter(cfg: CfgNode, is_train: bool) -> T.ColorJitter | None:
    strengths = (cfg.INPUT.BRIGHTNESS, cfg.INPUT.CONTRAST, cfg.INPUT.SATURATION, cfg.INPUT.HUE)
    return T.ColorJitter(*strengths) if is_train and any(strengths) else None


@TRANSFORMS.register("Resize")
def _resize(cfg: CfgNode, is_train: bool) -> T.Resize | None:
    takes_place = is_train and cfg.INPUT.LARGE_SCALE_JITTER.ENABLED
    return None if takes_place or cfg.INPUT.RESIZE == "torchvision" else resize_from_cfg(cfg, is_train)


TRANSFORMS.register("HalfBodyCrop", HalfBodyCrop.from_cfg)
TRANSFORMS.register("RandomCrop", RandomCrop.from_cfg)
TRANSFORMS.register("LargeScaleJitter", LargeScaleJitter.from_cfg)
TRANSFORMS.register("RandomAffine", RandomAffine.from_cfg)


@TRANSFORMS.register("ResizeTensor")
def _resize_tensor(cfg: CfgNode, is_train: bool) -> T.Resize | None:
    return resize_from_cfg(cfg, is_train) if cfg.INPUT.RESIZE == "torchvision" else None


def resize_from_cfg(cfg: CfgNode, is_train: bool) -> T.Resize:
    """The resizing of training or test images."""
    node = cfg.INPUT
    check_choice("INPUT.RESIZE", node.RESIZE, T.RESIZE_KINDS)
    sizes = (node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN) if is_train else (node.MIN_SIZE_TEST, node.MAX_SIZE_TEST)
    return T.Resize(*sizes, kind=node.RESIZE)


@TRANSFORMS.register("RandomHorizontalFlip")
def _horizontal_flip(cfg: CfgNode, is_train: bool) -> T.RandomHorizontalFlip | None:
    probability = cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN
    return T.RandomHorizontalFlip(probability) if is_train and probability else None


@TRANSFORMS.register("RandomVerticalFlip")
def _vertical_flip(cfg: CfgNode, is_train: bool) -> T.RandomVerticalFlip | None:
    probability = cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN
    return T.RandomVerticalFlip(probability) if is_train and probability else None


@TRANSFORMS.register("ToTensor")
def _to_tensor(cfg: CfgNode, is_train: bool) -> T.ToTensor:
    return T.ToTensor()


@TRANSFORMS.register("Normalize")
def _normalize(cfg: CfgNode, is_train: bool) -> T.Normalize:
    return T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, cfg.INPUT.TO_BGR255, cfg.INPUT.FORMAT)

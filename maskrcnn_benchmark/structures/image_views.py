"""Views of images for test-time augmentation: the same images in several sizes, as they are and mirrored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils.problems import config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode


FLIP_TESTS = ("FLIP_KEYPOINTS", "FLIP_MASKS")  # keys of TEST; an output says which of them applies to it


@dataclass(frozen=True)
class ViewSize:
    """A size to which images are resized, and the views in that size.

    Attributes:
        min_size: length of the shorter side, in pixels.
        max_size: limit of the longer side, in pixels.
        flips: a view for each entry: False shows the images as they are, True mirrored.
        flip_tests: keys in `FLIP_TESTS`. If no view is mirrored, their outputs are also predicted in the mirrored
            images, for the boxes that were found in the views.
    """

    min_size: int
    max_size: int
    flips: tuple[bool, ...] = (False,)
    flip_tests: tuple[str, ...] = ()

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> tuple[ViewSize, ...]:
        """All sizes that TEST.BBOX_AUG, TEST.MULTI_SCALE and the flip tests ask for, each once; () if all are off.

        The first is the size of INPUT, in whose pixels the results are.
        """
        node = cfg.TEST.BBOX_AUG
        flip_tests = tuple(key for key in FLIP_TESTS if cfg.TEST[key])
        if not (node.ENABLED or cfg.TEST.MULTI_SCALE or flip_tests):
            return ()
        scaled: list[tuple[int, int]] = []
        if node.ENABLED:
            scaled += [(scale, node.MAX_SIZE) for scale in _checked_scales(cfg)]
        if cfg.TEST.MULTI_SCALE:
            scaled += _checked_pairs(cfg)
        flips = (False, True) if node.ENABLED and node.H_FLIP else (False,)
        first = cls(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, flips, flip_tests)
        scale_flips = (False, True) if node.ENABLED and node.SCALE_H_FLIP else (False,)
        others = dict.fromkeys(size for size in scaled if size != (first.min_size, first.max_size))
        return (first, *(cls(*size, scale_flips, flip_tests) for size in others))

    def applied_to(self, cfg: CfgNode) -> CfgNode:
        """A copy of the config that resizes test images to this size only."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = self.min_size, self.max_size
        turn_views_off(cfg)
        return cfg


@dataclass(frozen=True)
class ImageViews:
    """The same N images in several views.

    Attributes:
        images: an ImageList for each size; the results are in pixels of the first.
        flips: for each size, its views, as in `ViewSize`.
        flip_tests: keys as in `ViewSize`, of all sizes.
    """

    images: tuple[ImageList, ...]
    flips: tuple[tuple[bool, ...], ...]
    flip_tests: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: Sequence[ImageList], sizes: Sequence[ViewSize]) -> ImageViews:
        """The views of these sizes; an ImageList for each."""
        return cls(tuple(images), tuple(size.flips for size in sizes), sizes[0].flip_tests)

    @property
    def unmirrored(self) -> list[ImageList]:
        """The images in the sizes without a mirrored view, in which a flip test mirrors them."""
        return [images for images, flips in zip(self.images, self.flips, strict=True) if True not in flips]

    @property
    def views(self) -> list[tuple[ImageList, bool]]:
        """Images and whether to mirror them (`mirror_images`), for each view; the first shows them as they are."""
        pairs = zip(self.images, self.flips, strict=True)
        return [(images, mirrored) for images, flips in pairs for mirrored in flips]

    def pin_memory(self) -> ImageViews:
        """Copy to page-locked memory; called by `DataLoader(pin_memory=True)`."""
        return replace(self, images=tuple(images.pin_memory() for images in self.images))

    def __len__(self) -> int:
        return len(self.images[0])


def turn_views_off(cfg: CfgNode) -> None:
    """Change the config so that a test sees each image once, as it is."""
    cfg.TEST.BBOX_AUG.ENABLED = cfg.TEST.MULTI_SCALE = False
    for key in FLIP_TESTS:
        cfg.TEST[key] = False


def mirror_images(images: ImageList) -> ImageList:
    """Mirror each image left to right within its own size; the padding stays at the right."""
    mirrored = torch.zeros_like(images.tensors)
    for source, target, (height, width) in zip(images.tensors, mirrored, images.image_sizes, strict=True):
        target[:, :height, :width] = source[:, :height, :width].flip(-1)
    return ImageList(mirrored, images.image_sizes)


def _checked_scales(cfg: CfgNode) -> Iterator[int]:
    node = cfg.TEST.BBOX_AUG
    if not _are_lengths([node.MAX_SIZE]):
        config_problem(f"TEST.BBOX_AUG.MAX_SIZE is {node.MAX_SIZE!r}; expected a length in pixels, such as 4000.")
        return
    for scale in node.SCALES:
        if _are_lengths([scale]):
            yield scale
        else:
            config_problem(
                f"TEST.BBOX_AUG.SCALES has {scale!r}; expected lengths of the shorter side in pixels, such as (600,)."
            )


def _checked_pairs(cfg: CfgNode) -> Iterator[tuple[int, int]]:
    for pair in cfg.TEST.MULTI_SIZES:
        if isinstance(pair, (tuple, list)) and len(pair) == 2 and _are_lengths(pair):
            yield pair[0], pair[1]
        else:
            config_problem(
                f"TEST.MULTI_SIZES has {pair!r}; expected pairs (shorter side, longer side) in pixels, such as "
                "(800, 1333)."
            )


def _are_lengths(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)

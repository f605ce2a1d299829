"""Copy-paste: instances of one image of a batch are pasted onto another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.data.datasets.base import Sample
from maskrcnn_benchmark.data.transforms.augmentation import min_visible_share
from maskrcnn_benchmark.data.transforms.warping import mask_areas, shift_and_scale, warp_target
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.problems import check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode


class CopyPaste:
    """Paste random instances of the next image of the batch onto each image, together and at a random place.

    Sources are the images as they were loaded, so nothing is pasted twice. The pixels of the plain masks are copied,
    without smoothing. What the pasted instances cover is cut out of the masks of the others, whose boxes follow; an
    instance of which less than `min_visible` is left is removed; visible keypoints that are covered become labelled but
    hidden (visibility 1).

    Args:
        prob: probability for each image.
        max_instances: pasted at most; the number is drawn from 1 on.
        min_visible: least share of an instance that has to be left, of those in the image and of those pasted.
        uncut_masks: fields of masks that include hidden parts, so that they stay whole.
    Source: Ghiasi et al. 2021, Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation.
    """

    def __init__(self, prob: float, max_instances: int, min_visible: float, uncut_masks: Sequence[str] = ()) -> None:
        self.prob, self.max_instances, self.min_visible = prob, max_instances, min_visible
        self.uncut_masks = tuple(uncut_masks)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> CopyPaste | None:
        """None if INPUT.COPY_PASTE is off."""
        node = cfg.INPUT.COPY_PASTE
        check_range("INPUT.COPY_PASTE.PROB", node.PROB, 0, 1)
        if not node.PROB:
            return None
        check_range("INPUT.COPY_PASTE.MAX_INSTANCES", node.MAX_INSTANCES, 1)
        if not cfg.MODEL.MASK_ON:
            config_problem(
                "INPUT.COPY_PASTE.PROB is above 0, but MODEL.MASK_ON is False: masks say which pixels to paste. "
                "Set PROB to 0."
            )
        uncut = [fields.mask_fields(name).truth for name in node.UNCUT_MASKS]
        return cls(node.PROB, node.MAX_INSTANCES, min_visible_share(cfg), uncut)

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """
        Args:
            samples: (image (3, H, W) float, target, index) of a batch.
        Returns: new samples; one alone stays as it is.
        """
        if len(samples) < 2:
            return list(samples)
        sources = [*samples[1:], samples[0]]
        return [
            (*self._paste(image, target, source_image, source), index)
            for (image, target, index), (source_image, source, _) in zip(samples, sources, strict=True)
        ]

    def _paste(self, image: Tensor, target: BoxList, source_image: Tensor, source: BoxList) -> tuple[Tensor, BoxList]:
        if float(torch.rand(())) >= self.prob:
            return image, target
        usable = (source.get_field(fields.MASKS).areas() > 0).nonzero()[:, 0]
        if not len(usable):
            return image, target
        count = int(torch.randint(1, min(self.max_instances, len(usable)) + 1, ()))
        chosen = source[usable[torch.randperm(len(usable))[:count]]]
        shift_x, shift_y = _random_shift(chosen, target.size)
        pasted = warp_target(chosen, shift_and_scale(-shift_x, -shift_y), target.size, self.min_visible)
        if not len(pasted):
            return image, target
        covered = (pasted.get_field(fields.MASKS).get_mask_tensor() > 0).any(dim=0)
        image = image.clone()
        rows, columns = covered.nonzero(as_tuple=True)
        image[:, rows, columns] = source_image[:, rows - shift_y, columns - shift_x]
        return image, cat_boxlist([self._occlude(target, pasted.get_field(fields.MASKS), covered), pasted])

    def _occlude(self, target: BoxList, covers: SegmentationMask, covered: Tensor) -> BoxList:
        """The target without what is hidden; `covered` (H, W) bool are the pixels of `covers`."""
        before = mask_areas(target)
        occluded = target.copy_with_fields(target.fields())
        for name, value in target.extra_fields.items():
            if isinstance(value, SegmentationMask) and name not in self.uncut_masks:
                occluded.add_field(name, value.subtract(covers))
            elif isinstance(value, Keypoints):
                occluded.add_field(name, _hide(value, covered, target.offset))
        after = mask_areas(occluded)
        shares = torch.where(before > 0, after / before, _uncovered_shares(target, covered))
        occluded = occluded.fit_to_masks(after < before)
        return occluded[shares >= max(self.min_visible, torch.finfo(shares.dtype).tiny)]

    def __repr__(self) -> str:
        return f"CopyPaste(prob={self.prob}, max_instances={self.max_instances}, min_visible={self.min_visible})"


def _random_shift(chosen: BoxList, size_wh: Sequence[float]) -> tuple[int, int]:
    """Whole pixels that move the centre of all chosen masks together to a random place in an image."""
    bounds = chosen.get_field(fields.MASKS).bounds()
    centre = (bounds[:, :2].amin(dim=0) + bounds[:, 2:].amax(dim=0)) / 2
    place = torch.rand(2, dtype=torch.float64) * torch.tensor(size_wh, dtype=torch.float64)
    shift_x, shift_y = np.rint((place - centre).numpy()).astype(int).tolist()
    return shift_x, shift_y


def _hide(keypoints: Keypoints, covered: Tensor, offset: int) -> Keypoints:
    """Visible keypoints on covered pixels become labelled but hidden."""
    height, width = covered.shape
    x, y = (keypoints.keypoints[..., :2] + offset / 2).floor().long().unbind(-1)
    is_covered = covered[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    hidden = keypoints[slice(None)]
    hidden.keypoints = keypoints.keypoints.clone()
    hidden.keypoints[..., 2] -= (is_covered & (keypoints.keypoints[..., 2] == 2)).to(hidden.keypoints)
    return hidden


def _uncovered_shares(target: BoxList, covered: Tensor) -> Tensor:
    """(R,) float64, the share of each box that no covered pixel is in."""
    shares = []
    for x1, y1, x2, y2 in target.extents().round().long().tolist():
        inside = covered[max(y1, 0) : max(y2, y1 + 1), max(x1, 0) : max(x2, x1 + 1)]
        shares.append(1 - float(inside.double().mean()) if inside.numel() else 1.0)
    return torch.tensor(shares, dtype=torch.float64)

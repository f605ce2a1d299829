"""Anchors: the boxes that the RPN starts from, the same few on every cell of a feature level."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import INCLUSIVE
from maskrcnn_benchmark.utils.problems import check_choice, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CACHED_GRIDS = 8  # combinations of feature sizes whose anchors are cached; 4 MB for an image of 1333 x 800
STRIDES_KEY = "MODEL.RPN.ANCHOR_STRIDE"
SAME_ANCHOR = 1e-3  # largest difference between corners of equal anchors, in pixels


ROUNDINGS = ("none", "base", "corners")


def default_rounding(offset: int) -> str:
    """The rounding of anchors in a box convention: that of the released weights for INCLUSIVE, none for HALF_OPEN."""
    return "base" if offset == INCLUSIVE else "none"


def generate_anchors(
    stride: int,
    sizes: Sequence[float],
    aspect_ratios: Sequence[float],
    offset: int = INCLUSIVE,
    *,
    rounding: str = "",
    centre: float = 0.5,
) -> Tensor:
    """Anchors of the first cell, at the upper left corner of the image.

    Args:
        stride: side of a cell, in pixels.
        sizes: square roots of the areas, in pixels.
        aspect_ratios: heights divided by widths.
        offset: box convention.
        rounding: one of ROUNDINGS, or "" for `default_rounding`.
            "base": a box of area stride * stride gets the ratio, its sides are rounded to whole pixels (half to even),
            and the box is scaled to the size, as in py-faster-rcnn and the released weights.
            "corners": the corners about the centre are rounded to whole pixels, as in torchvision.
            "none": anchors have the exact area and ratio, as in Detectron2.
        centre: of the anchors, in parts of the cell: 0.5 is the middle of its pixels, 0 its upper left corner.
    Returns: (len(aspect_ratios) * len(sizes), 4) float32 xyxy in pixels; first all sizes of the first ratio.
    """
    rounding = rounding or default_rounding(offset)
    ratios = np.repeat(np.asarray(aspect_ratios, dtype=np.float64), len(sizes))
    areas_root = np.tile(np.asarray(sizes, dtype=np.float64), len(aspect_ratios))
    if rounding == "base":
        base_widths = np.round(np.sqrt(stride * stride / ratios))
        base_heights = np.round(base_widths * ratios)
        widths, heights = base_widths * areas_root / stride, base_heights * areas_root / stride
    else:
        widths, heights = areas_root / np.sqrt(ratios), areas_root * np.sqrt(ratios)
    reach_x, reach_y = (widths - offset) / 2, (heights - offset) / 2
    corners = np.stack([-reach_x, -reach_y, reach_x, reach_y], axis=1)
    if rounding == "corners":
        corners = np.round(corners)
    return torch.tensor((stride - offset) * centre + corners, dtype=torch.float32)


class BufferList(nn.Module):
    """A list of buffers. Their names in the state dict are their indices."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.buffers(recurse=False))


class AnchorGenerator(nn.Module):
    """All anchors of a feature pyramid.

    The anchors are saved in checkpoints, as upstream does. Loading a checkpoint does not change them: it compares them
    with the checkpoint's and warns if they differ.

    Args:
        sizes: one size or several for each level, in pixels.
        aspect_ratios: heights divided by widths, the same on all levels.
        strides: image pixels per feature cell of each level.
        straddle_thresh: an anchor that extends more than this many pixels beyond the image is not visible; with a
            negative number all anchors are visible.
        offset: box convention.
        sizes_key, strides_key: config keys of the sizes and the strides, for messages.
        rounding, centre: see `generate_anchors`.
        step_from_sizes: the step between anchors is the size of the images, with their padding, over that of the map,
            rounded down, as in torchvision; it differs from the stride where the map's size was rounded up.
    Raises: ValueError if the numbers of sizes and strides differ, or if one of them is not positive.
    Source: Ren et al. 2015, Faster R-CNN, section 3.1.1.
    """

    keeps_buffers = True  # loading weights does not change the buffers below this module

    def __init__(
        self,
        sizes: Sequence[float | Sequence[float]] = (128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (8, 16, 32),
        straddle_thresh: float = 0,
        *,
        offset: int = INCLUSIVE,
        sizes_key: str = "MODEL.RPN.ANCHOR_SIZES",
        strides_key: str = STRIDES_KEY,
        rounding: str = "",
        centre: float = 0.5,
        step_from_sizes: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"{sizes_key} has {len(sizes)} entries ({tuple(sizes)}), {strides_key} {len(strides)} "
                f"({tuple(strides)}); each feature level needs a stride and a size (or several sizes)"
            )
        sizes_of_levels = [tuple(size) if isinstance(size, (tuple, list)) else (size,) for size in sizes]
        numbers = [*aspect_ratios, *strides, *(size for level_sizes in sizes_of_levels for size in level_sizes)]
        if len(aspect_ratios) == 0 or min(numbers) <= 0:
            raise ValueError(
                f"{sizes_key} is {tuple(sizes)}, ASPECT_RATIOS {tuple(aspect_ratios)}, {strides_key} "
                f"{tuple(strides)}; expected positive numbers"
            )
        self.strides = tuple(strides)
        self.straddle_thresh = straddle_thresh
        self.offset = offset
        self.sizes_key, self.strides_key = sizes_key, strides_key
        self.step_from_sizes = step_from_sizes
        self.cell_anchors = BufferList(
            [
                generate_anchors(stride, level_sizes, aspect_ratios, offset, rounding=rounding, centre=centre)
                for stride, level_sizes in zip(strides, sizes_of_levels, strict=True)
            ]
        )
        self._grids: OrderedDict[Any, list[Tensor]] = OrderedDict()

    @classmethod
    def from_cfg(cls, cfg: CfgNode, backbone_strides: Sequence[int] | None = None) -> AnchorGenerator:
        """
        Args:
            backbone_strides: strides of the feature levels. MODEL.RPN.ANCHOR_STRIDE must be equal to them, or empty.
                None if they are unknown: ANCHOR_STRIDE is not checked.
        """
        node = cfg.MODEL.RPN
        strides = tuple(node.ANCHOR_STRIDE) or tuple(backbone_strides or ())
        if not strides:
            config_problem(
                "MODEL.RPN.ANCHOR_STRIDE is (), which means the strides of the backbone, but the backbone has no "
                "attribute `strides` (pixels per cell of each map, finest first); add it, or set ANCHOR_STRIDE."
            )
        elif not node.USE_FPN and len(strides) != 1:
            config_problem(
                f"MODEL.RPN.ANCHOR_STRIDE is {strides}, and MODEL.RPN.USE_FPN is False: anchors would lie on one level "
                "only; set USE_FPN to True, or name one stride."
            )
        elif node.USE_FPN and len(strides) != len(node.ANCHOR_SIZES):
            config_problem(
                f"MODEL.RPN.ANCHOR_SIZES has {len(node.ANCHOR_SIZES)} entries, MODEL.RPN.ANCHOR_STRIDE {len(strides)}; "
                "with MODEL.RPN.USE_FPN each level has a stride and a size."
            )
        elif backbone_strides is not None:
            check_anchor_strides(strides, backbone_strides)
        # without a pyramid all sizes belong to the only level
        sizes = node.ANCHOR_SIZES if node.USE_FPN else (node.ANCHOR_SIZES,)
        return cls(sizes, node.ASPECT_RATIOS, strides, node.STRADDLE_THRESH, **anchor_conventions(cfg))

    def num_anchors_per_location(self) -> list[int]:
        return [len(anchors) for anchors in self.cell_anchors]

    def forward(
        self, feature_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """
        Args:
            feature_sizes: (height, width) of each level, in cells.
            image_size: (height, width) of the images with their padding, in pixels; read only with `step_from_sizes`.
        Returns: per level (H * W * A, 4) xyxy in image pixels, row by row, the anchors of a cell together. Later calls
            return the same tensors: do not write to them.
        Raises: ValueError if the numbers of levels and strides differ, or if `step_from_sizes` needs the images' size.
        """
        if len(feature_sizes) != len(self.strides):
            raise ValueError(
                f"the backbone gives {len(feature_sizes)} feature levels, {self.strides_key} names "
                f"{len(self.strides)} strides: {self.strides}"
            )
        steps = self._steps(feature_sizes, image_size)
        cells = [anchors.float() for anchors in self.cell_anchors]  # float32 also in a half-precision model
        key = (tuple(map(tuple, feature_sizes)), tuple(steps), cells[0].device)
        if key not in self._grids:
            self._grids[key] = [
                grid_anchors(anchors, height, width, step)
                for anchors, (height, width), step in zip(cells, feature_sizes, steps, strict=True)
            ]
            if len(self._grids) > CACHED_GRIDS:
                self._grids.popitem(last=False)
        self._grids.move_to_end(key)
        return self._grids[key]

    def _steps(
        self, feature_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None
    ) -> list[tuple[int, int]]:
        """Pixels between neighbouring anchors of each level, down and to the right."""
        if not self.step_from_sizes:
            return [(stride, stride) for stride in self.strides]
        if image_size is None:
            raise ValueError("MODEL.RPN.ANCHOR_STEP_FROM_SIZES needs the size of the images; pass `image_size`")
        return [(image_size[0] // height, image_size[1] // width) for height, width in feature_sizes]

    def visible(self, anchors: Tensor, sizes_wh: Tensor) -> Tensor:
        """Anchors (A, 4) and image sizes (N, 2) in pixels -> (N, A) bool: does the anchor lie in the image?"""
        if self.straddle_thresh < 0:
            return torch.ones((len(sizes_wh), len(anchors)), dtype=torch.bool, device=anchors.device)
        x1, y1, x2, y2 = anchors.unbind(1)
        inside = (x1 >= -self.straddle_thresh) & (y1 >= -self.straddle_thresh)
        limit_x, limit_y = (sizes_wh + self.straddle_thresh).T[..., None].unbind()
        if self.offset == INCLUSIVE:  # the last pixel has the coordinate width - 1
            return inside & (x2 < limit_x) & (y2 < limit_y)
        return inside & (x2 <= limit_x) & (y2 <= limit_y)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnchorGenerator:
        self._grids.clear()
        module: AnchorGenerator = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {f"{prefix}cell_anchors.{index}": anchors for index, anchors in enumerate(self.cell_anchors)}
        if any(anchors.is_meta for anchors in own.values()):
            super()._load_from_state_dict(state_dict, prefix, *args)  # there are no values to keep
            return
        in_file = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(f"{prefix}cell_anchors.")}
        if in_file and (in_file.keys() != own.keys() or not all(_equal(in_file[key], own[key]) for key in own)):
            logger.warning(
                "the anchors of the checkpoint differ from the config's, which are used. The checkpoint's "
                "weights were trained with other anchors and will score badly: compare %s, ASPECT_RATIOS, %s, "
                "MODEL.RPN.ANCHOR_OFFSET, ANCHOR_ROUNDING and MODEL.BOX_OFFSET with the config of its training.",
                self.sizes_key,
                self.strides_key,
            )
        state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _equal(anchors: Tensor, others: Tensor) -> bool:
    return anchors.shape == others.shape and torch.allclose(anchors.to(others), others, atol=SAME_ANCHOR)


def anchor_conventions(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of `AnchorGenerator` that are conventions of a project; MODEL.RPN has them for RetinaNet too."""
    node = cfg.MODEL.RPN
    check_choice("MODEL.RPN.ANCHOR_ROUNDING", node.ANCHOR_ROUNDING, ("", *ROUNDINGS))
    return {
        "offset": cfg.MODEL.BOX_OFFSET,
        "rounding": node.ANCHOR_ROUNDING,
        "centre": node.ANCHOR_OFFSET,
        "step_from_sizes": node.ANCHOR_STEP_FROM_SIZES,
    }


def check_anchor_strides(
    strides: Sequence[int], backbone_strides: Sequence[int], strides_key: str = STRIDES_KEY
) -> None:
    """Report anchor strides that differ from the strides of the backbone's levels."""
    if tuple(strides) != tuple(backbone_strides):
        config_problem(
            f"{strides_key} is {tuple(strides)}, the backbone's levels have the strides {tuple(backbone_strides)}; set "
            "it to these, or to () for the strides of the backbone"
            + (f", and MODEL.RPN.USE_FPN to {len(backbone_strides) > 1}." if strides_key == STRIDES_KEY else ".")
        )


def grid_anchors(cell_anchors: Tensor, height: int, width: int, step: tuple[int, int]) -> Tensor:
    """Repeat the anchors of one cell, (A, 4), over height x width cells that are `step` pixels (down, right) apart.

    Returns: (height * width * A, 4).
    """
    device = cell_anchors.device
    shift_y, shift_x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32) * step[0],
        torch.arange(width, device=device, dtype=torch.float32) * step[1],
        indexing="ij",
    )
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)  # (H, W, 4)
    return (shifts[:, :, None] + cell_anchors).reshape(-1, 4)

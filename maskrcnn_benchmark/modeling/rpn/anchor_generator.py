"""The boxes that the RPN starts from: the same few on every cell of every feature level."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import INCLUSIVE

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CACHED_GRIDS = 8  # feature sizes whose anchors are kept; a grid for 1333 x 800 takes 4 MB


def generate_anchors(
    stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float], offset: int = INCLUSIVE
) -> Tensor:
    """Anchors of the cell at the upper left corner, about the cell's centre.

    Args:
        stride: side of a cell, in pixels.
        sizes: square roots of the areas, in pixels.
        aspect_ratios: heights over widths.
        offset: box convention. INCLUSIVE boxes are those of the released weights: a box of the stride's area takes the
            ratio with its sides rounded to whole pixels (half to even), and is then scaled to the size. HALF_OPEN boxes
            have exactly the size's area and the ratio.
    Returns: (len(aspect_ratios) * len(sizes), 4) float32 xyxy in pixels; the sizes of the first ratio come first.
    """
    ratios = np.repeat(np.asarray(aspect_ratios, dtype=np.float64), len(sizes))
    areas_root = np.tile(np.asarray(sizes, dtype=np.float64), len(aspect_ratios))
    if offset == INCLUSIVE:
        base_widths = np.round(np.sqrt(stride * stride / ratios))
        base_heights = np.round(base_widths * ratios)
        widths, heights = base_widths * areas_root / stride, base_heights * areas_root / stride
    else:
        widths, heights = areas_root / np.sqrt(ratios), areas_root * np.sqrt(ratios)
    centre, reach_x, reach_y = (stride - offset) / 2, (widths - offset) / 2, (heights - offset) / 2
    corners = np.stack([centre - reach_x, centre - reach_y, centre + reach_x, centre + reach_y], axis=1)
    return torch.tensor(corners, dtype=torch.float32)


class BufferList(nn.Module):
    """Tensors that move with the module and travel in its state dict, under their indices."""

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

    Args:
        sizes: per level, a size or several, in pixels.
        aspect_ratios: heights over widths, the same on all levels.
        strides: per level, image pixels per feature cell.
        straddle_thresh: an anchor that reaches further than this beyond the image, in pixels, is not visible; below 0
            all are.
        offset: box convention.
    Raises: ValueError when sizes and strides differ in number, or one of them is not positive.
    Source: Ren et al. 2015, Faster R-CNN, section 3.1.1.
    """

    def __init__(
        self,
        sizes: Sequence[float | Sequence[float]] = (128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (8, 16, 32),
        straddle_thresh: float = 0,
        *,
        offset: int = INCLUSIVE,
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"MODEL.RPN.ANCHOR_SIZES has {len(sizes)} entries ({tuple(sizes)}), MODEL.RPN.ANCHOR_STRIDE "
                f"{len(strides)} ({tuple(strides)}); each feature level needs a stride and a size, or sizes, of its own"
            )
        sizes_of_levels = [tuple(size) if isinstance(size, (tuple, list)) else (size,) for size in sizes]
        numbers = [*aspect_ratios, *strides, *(size for level_sizes in sizes_of_levels for size in level_sizes)]
        if not numbers or min(numbers) <= 0:
            raise ValueError(
                f"anchors of sizes {tuple(sizes)}, aspect ratios {tuple(aspect_ratios)}, strides {tuple(strides)}: "
                "all of them must be positive"
            )
        self.strides = tuple(strides)
        self.straddle_thresh = straddle_thresh
        self.offset = offset
        self.cell_anchors = BufferList(
            [
                generate_anchors(stride, level_sizes, aspect_ratios, offset)
                for stride, level_sizes in zip(strides, sizes_of_levels, strict=True)
            ]
        )
        self._grids: OrderedDict[Any, list[Tensor]] = OrderedDict()

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> AnchorGenerator:
        node = cfg.MODEL.RPN
        # without a pyramid all sizes lie on the one level
        sizes = node.ANCHOR_SIZES if node.USE_FPN else (node.ANCHOR_SIZES,)
        return cls(sizes, node.ASPECT_RATIOS, node.ANCHOR_STRIDE, node.STRADDLE_THRESH, offset=cfg.MODEL.BOX_OFFSET)

    def num_anchors_per_location(self) -> list[int]:
        return [len(anchors) for anchors in self.cell_anchors]

    def forward(self, feature_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """
        Args:
            feature_sizes: (height, width) of each level, in cells.
        Returns: per level (H * W * A, 4) xyxy in image pixels, row by row, the anchors of a cell together. They are
            shared with later calls: not to be written to.
        Raises: ValueError when there are more or fewer levels than strides.
        """
        if len(feature_sizes) != len(self.strides):
            raise ValueError(
                f"the backbone gives {len(feature_sizes)} feature levels, MODEL.RPN.ANCHOR_STRIDE names "
                f"{len(self.strides)} strides: {self.strides}"
            )
        cells = [anchors.float() for anchors in self.cell_anchors]  # also in a model that was turned to half precision
        key = (tuple(map(tuple, feature_sizes)), cells[0].device)
        if key not in self._grids:
            self._grids[key] = [
                grid_anchors(anchors, height, width, stride)
                for anchors, (height, width), stride in zip(cells, feature_sizes, self.strides, strict=True)
            ]
            if len(self._grids) > CACHED_GRIDS:
                self._grids.popitem(last=False)
        self._grids.move_to_end(key)
        return self._grids[key]

    def visible(self, anchors: Tensor, sizes_wh: Tensor) -> Tensor:
        """Which anchors (A, 4) lie in which images, their sizes (N, 2) in pixels: (N, A) bool."""
        if self.straddle_thresh < 0:
            return torch.ones((len(sizes_wh), len(anchors)), dtype=torch.bool, device=anchors.device)
        x1, y1, x2, y2 = anchors.unbind(1)
        inside = (x1 >= -self.straddle_thresh) & (y1 >= -self.straddle_thresh)
        limit_x, limit_y = (sizes_wh + self.straddle_thresh).split(1, dim=1)
        if self.offset == INCLUSIVE:  # the last pixel has the coordinate width - 1
            return inside & (x2 < limit_x) & (y2 < limit_y)
        return inside & (x2 <= limit_x) & (y2 <= limit_y)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnchorGenerator:
        self._grids.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # anchors travel in the checkpoint, and a detector's weights are worth nothing with others; say so
        self._grids.clear()
        for index, anchors in enumerate(self.cell_anchors):
            loaded = state_dict.get(f"{prefix}cell_anchors.{index}")
            if loaded is None or loaded.shape != anchors.shape:
                continue  # reported as missing or mis-shaped
            if not torch.allclose(loaded.to(anchors), anchors, atol=1e-3):
                logger.warning(
                    "the anchors of feature level %d in the checkpoint are not those of MODEL.RPN.ANCHOR_SIZES, "
                    "ASPECT_RATIOS and MODEL.BOX_OFFSET; the checkpoint's are used, as its weights belong to them. "
                    "To train with the configured ones, remove %scell_anchors.%d from the checkpoint.",
                    index,
                    prefix,
                    index,
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def grid_anchors(cell_anchors: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Anchors of one cell (A, 4), in pixels, repeated over height x width cells: (height * width * A, 4)."""
    device = cell_anchors.device
    shift_y, shift_x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32) * stride,
        torch.arange(width, device=device, dtype=torch.float32) * stride,
        indexing="ij",
    )
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)  # (H, W, 4)
    return (shifts[:, :, None] + cell_anchors).reshape(-1, 4)


def make_anchor_generator(cfg: CfgNode) -> AnchorGenerator:
    """The anchors as configured under `MODEL.RPN`."""
    return AnchorGenerator.from_cfg(cfg)

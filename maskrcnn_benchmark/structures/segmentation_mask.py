"""`SegmentationMask`: the ground-truth masks of one image, from polygons, bitmaps or run lengths."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.layers.mask_ops import at_least_half, cover_fractions, rasterize_polygons
from maskrcnn_benchmark.layers.roi_align import roi_align
from maskrcnn_benchmark.structures.geometry import (
    FLIP_LEFT_RIGHT,
    FLIP_TOP_BOTTOM,
    check_crop,
    check_flip,
    check_size,
    index_to_list,
    resize_ratios,
)

__all__ = ["FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "Bitmap", "Polygons", "SegmentationMask"]

_MODES = ("poly", "mask")


@dataclass(frozen=True)
class Polygons:
    """One instance as a union of polygons.

    Attributes:
        parts: polygons (P, 2) with P >= 3, x and y in continuous image coordinates. They are float64 because
            pycocotools rounds to fifths of a pixel and COCO's decimals lie exactly between two of them.
    """

    parts: tuple[NDArray[np.float64], ...]

    def affine(self, scale: Sequence[float], shift: Sequence[float]) -> "Polygons":
        """Map x to scale[0] * x + shift[0] and y to scale[1] * y + shift[1]."""
        factors, offsets = np.asarray(scale), np.asarray(shift)
        return Polygons(tuple(part * factors + offsets for part in self.parts))


@dataclass(frozen=True)
class Bitmap:
    """One instance as a grid of cells over a rectangle of the image; 0 outside the rectangle.

    Resizing or cropping changes only the rectangle. The cells stay as annotated and are resampled once, when the mask
    is used.

    Attributes:
        cells: (h, w) uint8, 0 or 1.
        extents: the rectangle, x1, y1, x2, y2 in continuous image coordinates.
    """

    cells: NDArray[np.uint8]
    extents: tuple[float, float, float, float]

    @classmethod
    def cover(cls, bitmap: NDArray[Any], size: Sequence[float]) -> "Bitmap":
        """From a bitmap (H, W) of the whole image of `size` (width, height); keeps only the part that is not 0."""
        bitmap = (bitmap != 0).astype(np.uint8)
        rows, columns = bitmap.any(axis=1).nonzero()[0], bitmap.any(axis=0).nonzero()[0]
        if len(rows) == 0:
            return cls(np.zeros((1, 1), dtype=np.uint8), (0.0, 0.0, float(size[0]), float(size[1])))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        scale_x, scale_y = size[0] / bitmap.shape[1], size[1] / bitmap.shape[0]
        # a copy, because a view would keep the whole bitmap in memory and in pickles
        cells = bitmap[top:bottom, left:right].copy()
        return cls(cells, (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y))

    def affine(self, scale: Sequence[float], shift: Sequence[float]) -> "Bitmap":
        """Map x to scale[0] * x + shift[0] and y to scale[1] * y + shift[1]; a negative scale flips the cells."""
        x1, y1, x2, y2 = (value * scale[side % 2] + shift[side % 2] for side, value in enumerate(self.extents))
        cells = self.cells[:: -1 if scale[1] < 0 else 1, :: -1 if scale[0] < 0 else 1]
        extents = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        return Bitmap(np.ascontiguousarray(cells), extents)


class SegmentationMask:
    """Masks of R instances of one image. Every operation returns a new object.

    Args:
        instances: one entry per instance, which is one of
            - polygons: a sequence of parts, each [x0, y0, x1, y1, ...] or (P, 2), in pixels;
            - run lengths: a dict with "size" [height, width] and "counts", compressed (str, bytes) or a list;
            - a bitmap (H, W) of 0 and 1, tensor or array.
            A tensor or array (R, H, W) of bitmaps and another SegmentationMask are accepted too. Bitmaps and run
            lengths cover the whole image, even if their size differs from `size`.
        size: (width, height) of the image, in pixels.
        mode: "poly" keeps polygons and bitmaps as they are, "mask" converts all to bitmaps.
    Attributes:
        instances: `Polygons` or `Bitmap` of each instance.
        size: (width, height) of the image, in pixels.
        mode: "poly" or "mask".
    Raises: ValueError with the position of the malformed instance: fewer than 3 points, an odd number of coordinates,
        a coordinate that is not finite, an unknown type.
    """

    def __init__(self, instances: Any, size: Sequence[float], mode: str = "poly") -> None:
        if mode not in _MODES:
            raise ValueError(f"SegmentationMask mode is {mode!r}; it can be {' or '.join(map(repr, _MODES))}")
        self.size = check_size(size, "SegmentationMask")
        self.mode = mode
        if isinstance(instances, SegmentationMask):
            instances = instances.instances
        if isinstance(instances, (Tensor, np.ndarray)) and instances.ndim == 2:
            instances = instances[None]
        parsed = []
        for position, instance in enumerate(instances):
            try:
                parsed.append(_parse_instance(instance, self.size))
            except ValueError as error:
                raise ValueError(f"SegmentationMask, instance {position}: {error}") from error
        if mode == "mask":
            width, height = (int(side) for side in self.size)
            parsed = [
                Bitmap.cover(_rasterize(instance, height, width).numpy(), self.size)
                if isinstance(instance, Polygons)
                else instance
                for instance in parsed
            ]
        self.instances: list[Polygons | Bitmap] = parsed

    # Geometry. Masks are in continuous coordinates, so there is no pixel offset: a flip maps x to width - x.

    def resize(self, size: Sequence[float], *args: Any, **kwargs: Any) -> "SegmentationMask":
        """The masks after the image is resized to `size` (width, height)."""
        ratios = resize_ratios(self.size, size, "SegmentationMask.resize")
        return self._like([instance.affine(ratios, (0.0, 0.0)) for instance in self.instances], size)

    def transpose(self, method: int) -> "SegmentationMask":
        """The masks after FLIP_LEFT_RIGHT or FLIP_TOP_BOTTOM of the image."""
        check_flip(method)
        width, height = self.size
        scale, shift = ((-1.0, 1.0), (width, 0.0)) if method == FLIP_LEFT_RIGHT else ((1.0, -1.0), (0.0, height))
        return self._like([instance.affine(scale, shift) for instance in self.instances], self.size)

    def crop(self, box: Sequence[float] | Tensor) -> "SegmentationMask":
        """The masks after the image is cropped to [x1, x2) x [y1, y2); parts outside are kept, but not drawn."""
        left, top, right, bottom = check_crop(box, "SegmentationMask.crop")
        moved = [instance.affine((1.0, 1.0), (-left, -top)) for instance in self.instances]
        return self._like(moved, (right - left, bottom - top))

    # Rasterization

    def rasterize(self, extents: Tensor, resolution: int, indices: Tensor) -> Tensor:
        """Rasterize one instance in each of R regions.

        Args:
            extents: (R, 4) half-open regions x1, y1, x2, y2 in pixels; they may lie outside the image.
            resolution: cells per side.
            indices: (R,) int64, the instance of each region.
        Returns: (R, resolution, resolution) float32, 0 or 1, on the device of extents. Polygons are drawn by COCO's
            rules on a grid of that size; a cell of a bitmap is 1 if at least half of its area is.
        """
        if extents.shape != (len(indices), 4):
            raise ValueError(
                f"SegmentationMask.rasterize: extents {tuple(extents.shape)} and {len(indices)} indices do not match"
                f"; expected extents ({len(indices)}, 4)"
            )
        device, extents = extents.device, extents.cpu()  # draw on the CPU, then copy all masks at once
        chosen = [self.instances[index] for index in index_to_list(indices, len(self))]
        polygons = {row: instance.parts for row, instance in enumerate(chosen) if isinstance(instance, Polygons)}
        if len(polygons) == len(chosen):
            return rasterize_polygons(list(polygons.values()), extents, resolution).to(device).float()
        bitmaps = {row: instance for row, instance in enumerate(chosen) if isinstance(instance, Bitmap)}
        targets = extents.new_zeros((len(chosen), resolution, resolution), dtype=torch.float32)
        drawn = rasterize_polygons(list(polygons.values()), extents[list(polygons)], resolution)
        cut = _resample_bitmaps(list(bitmaps.values()), extents[list(bitmaps)], (resolution, resolution))
        targets[list(polygons)] = drawn.float()
        targets[list(bitmaps)] = cut.to(targets)
        return targets.to(device)

    def average(self, extents: Tensor, resolution: int, indices: Tensor) -> Tensor:
        """Average the pixels of one instance over the cells of a grid, for each of R regions.

        Args: as `rasterize`.
        Returns: (R, resolution, resolution) float32 in [0, 1], on the device of extents: ROIAlign, not aligned, of the
            instance's bitmap, as torchvision makes the targets of masks.
        """
        device, regions = extents.device, extents.float().cpu()
        chosen = index_to_list(indices, len(self))
        used = sorted(set(chosen))
        place = {index: position for position, index in enumerate(used)}
        rows = torch.tensor([place[index] for index in chosen], dtype=torch.float32).reshape(-1, 1)
        bitmaps = self[used].get_mask_tensor()[:, None].float()
        averaged = roi_align(bitmaps, torch.cat([rows, regions], dim=1), resolution, 1.0, 0)[:, 0]
        return averaged.clamp(max=1).to(device)  # rounding may exceed 1

    def get_mask_tensor(self) -> Tensor:
        """Masks of the whole image, (R, height, width) uint8 on the CPU; R may be 0."""
        width, height = (int(side) for side in self.size)
        drawn = torch.zeros((len(self), height, width), dtype=torch.uint8)
        for mask, instance in zip(drawn, self.instances, strict=True):
            mask.copy_(_rasterize(instance, height, width))
        return drawn

    def convert(self, mode: str) -> "SegmentationMask":
        """Convert all instances to bitmaps ("mask") or polygons ("poly").

        Polygons follow the outlines of the pixels at the current image size. They have no holes. An instance without
        pixels stays a bitmap.
        """
        if mode == self.mode and mode == "mask":
            return self
        converted = SegmentationMask(self.instances, self.size, mode)
        if mode == "poly":
            width, height = (int(side) for side in self.size)
            converted.instances = [
                _trace(_rasterize(instance, height, width)) or instance if isinstance(instance, Bitmap) else instance
                for instance in self.instances
            ]
        return converted

    # Devices and indexing

    def to(self, *args: Any, **kwargs: Any) -> "SegmentationMask":
        """Returns self: instances stay on the CPU, and `rasterize` copies its result to the device of the regions."""
        return self

    @classmethod
    def cat(cls, parts: Sequence["SegmentationMask"]) -> "SegmentationMask":
        """Concatenate the instances of all parts."""
        return parts[0]._like([instance for part in parts for instance in part.instances], parts[0].size)

    def __getitem__(self, item: Any) -> "SegmentationMask":
        return self._like([self.instances[index] for index in index_to_list(item, len(self))], self.size)

    def __iter__(self) -> Iterator["SegmentationMask"]:
        return (self._like([instance], self.size) for instance in self.instances)

    def __len__(self) -> int:
        return len(self.instances)

    def __repr__(self) -> str:
        width, height = self.size
        return (
            f"SegmentationMask(num_instances={len(self)}, image_width={width}, image_height={height}, mode={self.mode})"
        )

    def _like(self, instances: list[Polygons | Bitmap], size: Sequence[float]) -> "SegmentationMask":
        other = SegmentationMask.__new__(SegmentationMask)  # skips parsing
        other.size, other.mode, other.instances = check_size(size, "SegmentationMask"), self.mode, instances
        return other


def _parse_instance(instance: Any, size: tuple[float, float]) -> Polygons | Bitmap:
    """Convert one instance of any accepted type. Raises ValueError if it is malformed."""
    if isinstance(instance, (Polygons, Bitmap)):
        return instance
    if isinstance(instance, dict):
        return Bitmap.cover(_decode_run_lengths(instance), size)
    if isinstance(instance, (Tensor, np.ndarray)):
        bitmap = instance.detach().cpu().numpy() if isinstance(instance, Tensor) else instance
        if bitmap.ndim != 2 or bitmap.size == 0:
            raise ValueError(f"a bitmap is (H, W) with at least one pixel, not {bitmap.shape}")
        return Bitmap.cover(bitmap, size)
    if not isinstance(instance, (list, tuple)):
        raise ValueError(f"polygons, run lengths or a bitmap are expected, not {type(instance).__name__}")
    if not instance:
        raise ValueError("it has no polygon")
    return Polygons(tuple(_parse_polygon(part) for part in instance))


def _parse_polygon(part: Any) -> NDArray[np.float64]:
    """Convert [x0, y0, x1, y1, ...] or (P, 2) to (P, 2) float64."""
    if np.isscalar(part):
        raise ValueError("an instance is a list of polygons, each a list of coordinates, not a list of numbers")
    points = np.asarray(part.cpu() if isinstance(part, Tensor) else part, dtype=np.float64)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a polygon is [x0, y0, x1, y1, ...], not of shape {points.shape}")
    if len(points) < 3:
        raise ValueError(f"a polygon needs at least 3 points, this one has {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError("a polygon has a coordinate that is not finite")
    return points


def _decode_run_lengths(encoded: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode COCO's run lengths, compressed or not, to (H, W) uint8."""
    if "size" not in encoded or "counts" not in encoded:
        raise ValueError(f"run lengths have 'size' and 'counts', this dict has {sorted(map(str, encoded))}")
    height, width = (int(side) for side in encoded["size"])
    counts = encoded["counts"]
    if not isinstance(counts, (str, bytes)):
        counts = [int(count) for count in counts]
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"run lengths add up to {sum(counts)}, but the bitmap is {height} x {width}")
        encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    try:
        bitmap: NDArray[np.uint8] = coco_mask.decode(encoded)
    except Exception as error:  # pycocotools raises various types
        raise ValueError(f"pycocotools cannot decode the run lengths: {error}") from error
    if bitmap.size == 0:
        raise ValueError(f"the run lengths are of a bitmap without pixels, {height} x {width}")
    return bitmap


def _rasterize(instance: Polygons | Bitmap, height: int, width: int) -> Tensor:
    """One instance over the whole image, (height, width) uint8."""
    if isinstance(instance, Polygons):
        outlines = [part.ravel() for part in instance.parts]
        encoded = coco_mask.merge(coco_mask.frPyObjects(outlines, height, width))
        return torch.from_numpy(coco_mask.decode(encoded))
    drawn = torch.zeros((height, width), dtype=torch.uint8)
    x1, y1, x2, y2 = instance.extents
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
    if right > left and bottom > top:
        window = torch.tensor([[left, top, right, bottom]], dtype=torch.float64)
        drawn[top:bottom, left:right] = _resample_bitmaps([instance], window, (bottom - top, right - left))[0]
    return drawn


def _resample_bitmaps(bitmaps: Sequence[Bitmap], extents: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Each bitmap resampled over its region of `extents` (R, 4), (R, *size_hw) uint8 on the CPU."""
    distinct = list({id(bitmap): bitmap for bitmap in bitmaps}.values())
    place = {id(bitmap): position for position, bitmap in enumerate(distinct)}
    fractions = cover_fractions(
        [torch.from_numpy(bitmap.cells) for bitmap in distinct],
        torch.tensor([bitmap.extents for bitmap in distinct], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([place[id(bitmap)] for bitmap in bitmaps], dtype=torch.int64),
        extents,
        size_hw,
    )
    return at_least_half(fractions)


def _trace(bitmap: Tensor) -> Polygons | None:
    """Outlines of the pixels of a bitmap (H, W), with holes filled; None if it is empty.

    OpenCV's contours run through pixel centres, but outlines run along pixel edges. In a bitmap of twice the size,
    pixel p becomes the pixels 2p and 2p + 1, and (i + 1) // 2 maps their indices to the edges p and p + 1.
    """
    doubled = bitmap.numpy().repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [(contour[:, 0] + 1) // 2 for contour in contours]
    outlines = [outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)] for outline in outlines]
    return Polygons(tuple(outline.astype(np.float64) for outline in outlines)) if outlines else None

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
    check_affine,
    check_crop,
    check_flip,
    check_size,
    index_to_list,
    resize_ratios,
)

__all__ = ["FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "Bitmap", "Polygons", "SegmentationMask"]

_MODES = ("poly", "mask")
_NOWHERE = (math.nan,) * 4


@dataclass(frozen=True)
class Polygons:
    """One instance as a union of polygons.

    Attributes:
        parts: polygons (P, 2) with P >= 3, x and y in continuous image coordinates. They are float64 because
            pycocotools rounds to fifths of a pixel and COCO's decimals lie exactly between two of them. An instance
            without a mask has none.
    """

    parts: tuple[NDArray[np.float64], ...]

    def affine(self, scale: Sequence[float], shift: Sequence[float]) -> "Polygons":
        """Map x to scale[0] * x + shift[0] and y to scale[1] * y + shift[1]."""
        factors, offsets = np.asarray(scale), np.asarray(shift)
        return Polygons(tuple(part * factors + offsets for part in self.parts))

    def warp(self, matrix: NDArray[np.float64], size: Sequence[float]) -> "Polygons":
        """Map each point by a (2, 3) matrix, then clip to an image of `size` (width, height)."""
        from maskrcnn_benchmark.structures.polygon_shapes import clip_polygons  # needs shapely

        mapped = [part @ matrix[:, :2].T + matrix[:, 2] for part in self.parts]
        return Polygons(clip_polygons(mapped, size))

    def area(self) -> float:
        """In square pixels."""
        from maskrcnn_benchmark.structures.polygon_shapes import polygon_area  # needs shapely

        return polygon_area(self.parts)

    def bounds(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the smallest rectangle around it; NaN if it is empty."""
        if not self.parts:
            return _NOWHERE
        low = np.min([part.min(axis=0) for part in self.parts], axis=0)
        high = np.max([part.max(axis=0) for part in self.parts], axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


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
        cells = (bitmap != 0).astype(np.uint8)
        extents = (0.0, 0.0, float(size[0]), float(size[1]))
        if not cells.any():
            return cls(np.zeros((1, 1), dtype=np.uint8), extents)
        return cls(cells, extents)._tightened()

    def affine(self, scale: Sequence[float], shift: Sequence[float]) -> "Bitmap":
        """Map x to scale[0] * x + shift[0] and y to scale[1] * y + shift[1]; a negative scale flips the cells."""
        x1, y1, x2, y2 = (value * scale[side % 2] + shift[side % 2] for side, value in enumerate(self.extents))
        cells = self.cells[:: -1 if scale[1] < 0 else 1, :: -1 if scale[0] < 0 else 1]
        extents = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        return Bitmap(np.ascontiguousarray(cells), extents)

    def warp(self, matrix: NDArray[np.float64], size: Sequence[float]) -> "Bitmap":
        """Map by a (2, 3) matrix, and leave out what is outside an image of `size` (width, height).

        Scaling and shifting keep the cells; those wholly outside are left out. Any other map draws the cells in pixels
        of that image: a pixel is 1 if its centre lies in a cell that is.
        """
        if matrix[0, 1] == 0 and matrix[1, 0] == 0:
            return self.affine((matrix[0, 0], matrix[1, 1]), matrix[:, 2].tolist())._clipped(size)
        x1, y1, x2, y2 = self.extents
        corners = np.array([[x1, y1], [x2, y1], [x1, y2], [x2, y2]]) @ matrix[:, :2].T + matrix[:, 2]
        left, top = (int(side) for side in np.floor(corners.min(axis=0)).clip(0, size))
        right, bottom = (int(side) for side in np.ceil(corners.max(axis=0)).clip(0, np.ceil(size)))
        if right <= left or bottom <= top:
            return Bitmap.cover(np.zeros((1, 1)), size)
        rows, columns = self.cells.shape
        cell_scale = np.diag([(x2 - x1) / columns, (y2 - y1) / rows])
        linear = matrix[:, :2] @ cell_scale
        shift = matrix[:, :2] @ np.array([x1, y1]) + matrix[:, 2] - (left, top)
        centred = np.column_stack([linear, linear @ (0.5, 0.5) + shift - 0.5])  # OpenCV counts from pixel centres
        pixels: Any = cv2.warpAffine(self.cells, centred, (right - left, bottom - top), flags=cv2.INTER_NEAREST)
        return Bitmap(pixels, (float(left), float(top), float(right), float(bottom)))._tightened()

    def area(self) -> float:
        """In square pixels."""
        x1, y1, x2, y2 = self.extents
        return float(self.cells.mean()) * (x2 - x1) * (y2 - y1)

    def bounds(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the smallest rectangle around it; NaN if it is empty."""
        tight = self._tightened()
        return tight.extents if tight.cells.any() else _NOWHERE

    def _clipped(self, size: Sequence[float]) -> "Bitmap":
        """Without the cells wholly outside [0, width) x [0, height)."""
        rows, columns = self.cells.shape
        x1, y1, x2, y2 = self.extents
        if x1 >= 0 and y1 >= 0 and x2 <= size[0] and y2 <= size[1]:
            return self
        across, down = np.linspace(x1, x2, columns + 1), np.linspace(y1, y2, rows + 1)
        columns_inside, rows_inside = (across[1:] > 0) & (across[:-1] < size[0]), (down[1:] > 0) & (down[:-1] < size[1])
        return Bitmap(self.cells * (rows_inside[:, None] & columns_inside), self.extents)._tightened()

    def _tightened(self) -> "Bitmap":
        """The same mask over the smallest rectangle of cells around it; the whole rectangle if it is empty."""
        rows, columns = self.cells.any(axis=1).nonzero()[0], self.cells.any(axis=0).nonzero()[0]
        if len(rows) == 0:
            return self
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        if (bottom - top, right - left) == self.cells.shape:
            return self
        x1, y1, x2, y2 = self.extents
        width, height = (x2 - x1) / self.cells.shape[1], (y2 - y1) / self.cells.shape[0]
        extents = (x1 + left * width, y1 + top * height, x1 + right * width, y1 + bottom * height)
        # a copy, because a view would keep the whole bitmap in memory and in pickles
        return Bitmap(self.cells[top:bottom, left:right].copy(), extents)


class SegmentationMask:
    """Masks of R instances of one image. Every operation returns a new object.

    Args:
        instances: one entry per instance, which is one of
            - polygons: a sequence of parts, each [x0, y0, x1, y1, ...] or (P, 2), in pixels;
            - run lengths: a dict with "size" [height, width] and "counts", compressed (str, bytes) or a list;
            - a bitmap (H, W) of 0 and 1, tensor or array;
            - None for an instance without a mask, which is drawn as zeros.
            A tensor or array (R, H, W) of bitmaps and another SegmentationMask are accepted too. Bitmaps and run
            lengths cover the whole image, even if their size differs from `size`.
        size: (width, height) of the image, in pixels.
        mode: "poly" keeps polygons and bitmaps as they are, "mask" converts polygons to bitmaps.
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
                if isinstance(instance, Polygons) and instance.parts
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

    def affine(self, matrix: Any, size: Sequence[float]) -> "SegmentationMask":
        """The masks after an affine map of the image, clipped to the new image. Polygons are clipped exactly.

        Args:
            matrix: (2, 3), of continuous coordinates, in which pixel p covers [p, p + 1); see `check_affine`.
            size: (width, height) of the mapped image, in pixels.
        """
        values, size = check_affine(matrix, "SegmentationMask.affine"), check_size(size, "SegmentationMask.affine")
        return self._like([instance.warp(values, size) for instance in self.instances], size)

    def subtract(self, covers: "SegmentationMask") -> "SegmentationMask":
        """The masks without what the masks `covers`, of the same image, hide.

        Polygons are cut exactly by polygons. An instance that is a bitmap, or that a bitmap covers, becomes a bitmap
        of the image's pixels. Instances that are not covered stay as they are.
        """
        from maskrcnn_benchmark.structures.polygon_shapes import shape_of, subtract_polygons  # needs shapely

        outlines = [cover.parts for cover in covers.instances if isinstance(cover, Polygons)]
        shape = shape_of([part for parts in outlines for part in parts]) if len(outlines) == len(covers) else None
        width, height = (int(side) for side in self.size)
        visible = None
        left: list[Polygons | Bitmap] = []
        for instance in self.instances:
            if shape is not None and isinstance(instance, Polygons):
                left.append(Polygons(subtract_polygons(instance.parts, shape)))
                continue
            visible = (covers.get_mask_tensor() == 0).all(dim=0) if visible is None else visible
            drawn = _rasterize(instance, height, width).bool()
            is_covered = bool((drawn & ~visible).any())
            left.append(Bitmap.cover((drawn & visible).numpy(), self.size) if is_covered else instance)
        return self._like(left, self.size)

    def areas(self) -> Tensor:
        """Areas (R,) float64, in square pixels; also of parts outside the image."""
        return torch.tensor([instance.area() for instance in self.instances], dtype=torch.float64)

    def bounds(self) -> Tensor:
        """(R, 4) float64, the smallest half-open boxes around the masks, in pixels; NaN for an empty mask."""
        return torch.tensor([instance.bounds() for instance in self.instances], dtype=torch.float64).reshape(-1, 4)

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

        Polygons follow the outlines of the pixels at the current image size. They have no holes. A bitmap without
        pixels stays a bitmap, and an instance without a mask stays one.
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
    if instance is None:
        return Polygons(())
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
        raise ValueError("it has no polygon; an instance without a mask is None")
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
        if not instance.parts:
            return torch.zeros((height, width), dtype=torch.uint8)
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

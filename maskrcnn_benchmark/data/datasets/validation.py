"""Find what is wrong with annotations, and report all problems of a file at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

INCOMPLETE = "'id' (a whole number), 'image_id' or 'category_id' missing"
UNKNOWN_IMAGE = "unknown image id"
UNKNOWN_CATEGORY = "unknown category id"
DUPLICATE_ID = "annotation id used before"
BOX_MALFORMED = "box is not four numbers"
BOX_NOT_FINITE = "box has NaN or infinite numbers"
BOX_EMPTY = "box of zero or negative area"
BOX_OUTSIDE = "box wholly outside the image"
POLYGON_MALFORMED = "neither polygons nor run lengths"
POLYGON_ODD = "polygon with an odd number of coordinates"
POLYGON_SHORT = "polygon with fewer than 3 points"
POLYGON_NOT_FINITE = "polygon has NaN or infinite numbers"
RLE_MALFORMED = "run lengths that cannot be read"
RLE_SIZE = "run lengths of another size than the image"
RLE_EMPTY = "mask without a pixel"
KEYPOINTS_LENGTH = "keypoints of the wrong length"
KEYPOINTS_NOT_FINITE = "keypoints have NaN or infinite numbers"
KEYPOINTS_VISIBILITY = "keypoint visibility other than 0, 1 or 2"

_NUMBER_TYPES = {int, float, bool, type(None)}
NUM_EXAMPLES = 5  # annotation ids that a report names for each reason


@dataclass
class ValidationReport:
    """The problems of one annotation file.

    Attributes:
        source: name of the file.
        num_annotations: number of annotations in the file.
        crowd: number of regions marked `iscrowd`, which are not training targets; not an error.
        clipped: number of boxes that reached more than a pixel beyond the image and were cut at its border.
        skipped: number of annotations that were left out, by reason.
        ignored_masks: number of unusable masks, by place in the annotation and reason. Their annotations are used.
        examples: the first ids of the annotations, by reason.
    """

    source: str
    num_annotations: int = 0
    crowd: int = 0
    clipped: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    ignored_masks: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Any]] = field(default_factory=dict)

    def skip(self, reason: str, ids: Sequence[Any]) -> None:
        """Count annotations `ids` as left out for `reason`."""
        self._count(self.skipped, reason, ids)

    def ignore_masks(self, reason: str, ids: Sequence[Any]) -> None:
        """Count a mask of each of the annotations `ids` as unusable for `reason`, which names the mask."""
        self._count(self.ignored_masks, reason, ids)

    def _count(self, counts: dict[str, int], reason: str, ids: Sequence[Any]) -> None:
        if len(ids) == 0:
            return
        counts[reason] = counts.get(reason, 0) + len(ids)
        examples = self.examples.setdefault(reason, [])
        examples.extend(ids[: NUM_EXAMPLES - len(examples)])

    @property
    def num_skipped(self) -> int:
        return sum(self.skipped.values())

    def summary(self) -> str:
        """One line with the count and the first ids of each reason; empty if there are no problems."""
        sentences = []
        if self.skipped:
            reasons = self._reasons(self.skipped)
            sentences.append(f"skipped {self.num_skipped} of {self.num_annotations} annotations: {reasons}")
        if self.ignored_masks:
            count, reasons = sum(self.ignored_masks.values()), self._reasons(self.ignored_masks)
            sentences.append(f"{'I' if sentences else 'i'}gnored {count} masks, but not their boxes: {reasons}")
        if self.clipped:
            sentences.append(f"Cut {self.clipped} boxes at the border of their image")
        return f"{self.source}: {'. '.join(sentences)}." if sentences else ""

    def _reasons(self, counts: Mapping[str, int]) -> str:
        parts = []
        for reason, count in counts.items():
            ids = ", ".join(map(str, self.examples[reason]))
            parts.append(f"{count} x {reason} (annotation ids {ids}{', ...' if count > NUM_EXAMPLES else ''})")
        return "; ".join(parts)


def number_rows(rows: Sequence[Any], width: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Convert rows that should have `width` numbers each.

    Returns: (R, width) values, NaN in bad rows; (R,) which rows are good.
    """
    if not rows:
        return np.zeros((0, width)), np.zeros(0, dtype=bool)
    try:
        values = np.array(rows, dtype=np.float64)
        if values.shape == (len(rows), width):
            return values, np.ones(len(rows), dtype=bool)
    except (TypeError, ValueError, OverflowError):
        pass  # at least one row is bad: convert them one by one
    values, well_formed = np.full((len(rows), width), np.nan), np.zeros(len(rows), dtype=bool)
    for index, row in enumerate(rows):
        try:
            numbers = np.array(row, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
        if numbers.shape == (width,):
            values[index], well_formed[index] = numbers, True
    return values, well_formed


def check_boxes(
    rows: Sequence[Any], sizes_wh: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[tuple[str, NDArray[np.bool_]]], int]:
    """COCO boxes x, y, width, height, cut at the border of their images.

    Args:
        rows: R entries of the file.
        sizes_wh: (R, 2), the size of each box's image in pixels.
    Returns: (R, 4) boxes of the same form; the problems, each with the rows (R,) that have it, at most one per row; the
        number of good boxes that reached more than a pixel beyond their image.
    """
    boxes, well_formed = number_rows(rows, 4)
    finite = np.logical_and.reduce(np.isfinite(boxes), axis=1)
    with np.errstate(invalid="ignore"):
        near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        full = (boxes[:, 2:] > 0).all(axis=1)
        near_cut, far_cut = np.clip(near, 0, sizes_wh), np.clip(far, 0, sizes_wh)
        inside = (far_cut > near_cut).all(axis=1)
        moved = np.maximum(np.abs(near_cut - near), np.abs(far_cut - far)).max(axis=1, initial=0) > 1
    problems = [
        (BOX_MALFORMED, ~well_formed),
        (BOX_NOT_FINITE, well_formed & ~finite),
        (BOX_EMPTY, finite & ~full),
        (BOX_OUTSIDE, finite & full & ~inside),
    ]
    sound = finite & full & inside
    return np.concatenate([near_cut, far_cut - near_cut], axis=1), problems, int((moved & sound).sum())


def check_keypoints(
    rows: Sequence[Any], num_keypoints: int
) -> tuple[NDArray[np.float32], list[tuple[str, NDArray[np.bool_]]]]:
    """COCO keypoints x, y, visibility, ... of R instances -> (R, K, 3), and the problems as in `check_boxes`.

    None and an empty list mean an instance without keypoints, which gets zeros.
    """
    width = 3 * num_keypoints
    numbers, well_formed = number_rows([row if row else [0] * width for row in rows], width)
    with np.errstate(over="ignore"):
        points = numbers.astype(np.float32)
    finite = np.logical_and.reduce(np.isfinite(points), axis=1)
    visible_states = np.isin(points[:, 2::3], (0, 1, 2)).all(axis=1)
    problems = [
        (KEYPOINTS_LENGTH, ~well_formed),
        (KEYPOINTS_NOT_FINITE, well_formed & ~finite),
        (KEYPOINTS_VISIBILITY, finite & ~visible_states),
    ]
    return points.reshape(-1, num_keypoints, 3), problems


def check_numbers(values: Sequence[Any], key: str) -> tuple[NDArray[np.float32], list[tuple[str, NDArray[np.bool_]]]]:
    """The values of R annotations under `key` -> (R,) numbers, and the problems as in `check_boxes`.

    None, for an annotation without the key, becomes NaN; True and False become 1 and 0.
    """
    try:
        is_number = np.ones(len(values), dtype=bool)
        if not set(map(type, values)) <= _NUMBER_TYPES:
            is_number = np.array([type(value) in _NUMBER_TYPES for value in values], dtype=bool)
            values = [value if known else None for value, known in zip(values, is_number.tolist(), strict=True)]
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number beyond float64
        numbers = np.array([math.inf if _is_huge(value) else value for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        numbers32 = numbers.astype(np.float32)
    given = np.array([value is not None for value in values], dtype=bool)
    problems = [
        (f"'{key}' is not a number", ~is_number),
        (f"'{key}' is NaN, infinite or too large", given & ~np.isfinite(numbers32)),
    ]
    return numbers32, problems


def _is_huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > 1023


def check_polygons(polygons: Sequence[Any]) -> str | None:
    """The problem of one annotation's polygons (lists of coordinates), or None. Coordinates are not checked here."""
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple)):
            return POLYGON_MALFORMED
        if len(polygon) % 2:
            return POLYGON_ODD
        if len(polygon) < 6:
            return POLYGON_SHORT
    return None


def check_rle(rle: dict[str, Any], size_hw: tuple[int, int]) -> tuple[bytes, str | None]:
    """Check the run lengths of one annotation: COCO's compressed string, or a list of runs.

    Returns: the compressed form; the problem, or None.
    """
    counts = rle.get("counts")
    try:
        if [int(side) for side in rle["size"]] != list(size_hw):
            return b"", RLE_SIZE
        if isinstance(counts, (str, bytes)):
            compressed = counts.encode("ascii") if isinstance(counts, str) else counts
            runs = decode_runs(compressed)
        else:
            runs = np.array(counts, dtype=np.int64).reshape(-1)
            compressed = b""
    except (KeyError, TypeError, ValueError, OverflowError):
        return b"", RLE_MALFORMED
    if len(runs) == 0 or (runs < 0).any() or runs.sum() != size_hw[0] * size_hw[1]:
        return b"", RLE_MALFORMED
    if not compressed:
        compressed = mask_utils.frPyObjects({"size": list(size_hw), "counts": runs.tolist()}, *size_hw)["counts"]
    return compressed, None if runs[1::2].any() else RLE_EMPTY


def decode_runs(compressed: bytes) -> NDArray[np.int64]:
    """COCO's compressed run lengths -> lengths of the runs, background first.

    A number is written in groups of five bits, lowest first. Each group is one character with the code 48 + group; bit
    32 is set if another group follows, and bit 16 of the last group is the sign. From the fourth number on, the
    difference to the number two places before is written.

    Raises: ValueError for anything else.
    Source: the format as pycocotools writes it.
    """
    groups = np.frombuffer(compressed, dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0:
        return groups
    if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("not compressed run lengths")
    last = np.flatnonzero(groups & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    if place.max() > 10:
        raise ValueError("a run length of more than 55 bits")
    numbers = np.add.reduceat((groups & 31) << (5 * place), first)
    numbers -= np.where(groups[last] & 16, np.int64(1) << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers

"""The annotations of a data set as a few large arrays instead of millions of small objects.

Forked loader workers share these arrays with the main process. Lists and dictionaries would be copied page by page as
their reference counts change, so each worker would need as much memory as the whole data set.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_benchmark.data.datasets import validation
from maskrcnn_benchmark.data.datasets.validation import ValidationReport

RLE = dict[str, Any]
MaskPath = tuple[str, ...]  # keys that lead from an annotation to a mask

NAMED_MASKS = "segmentations"  # key of {name: mask} in an annotation
PLAIN_MASK: Mapping[str, MaskPath] = {"": ("segmentation",)}


class PackedStrings:
    """A read-only sequence of strings in one buffer."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> str:
        return self._buffer[self._ends[index] : self._ends[index + 1]].tobytes().decode()


@dataclass(frozen=True)
class PackedSegmentations:
    """Polygons or run lengths of one mask of A annotations. An annotation without this mask has neither.

    Attributes:
        coordinates: x, y, x, y, ... of all polygons in pixels; polygon p has coordinates `polygon_ends[p]` to
            `polygon_ends[p + 1]`. Double precision, as in pycocotools; else some pixels of a mask would differ.
        polygon_ends: (number of polygons + 1,) int64.
        first_polygon: (A + 1,) int64; annotation a has polygons `first_polygon[a]` to `first_polygon[a + 1]`.
        runs: COCO's compressed run lengths; mask r has bytes `run_ends[r]` to `run_ends[r + 1]`.
        run_ends: (number of masks + 1,) int64.
        first_run: (A + 1,) int64; annotation a has masks `first_run[a]` to `first_run[a + 1]`.
    """

    coordinates: NDArray[np.float64]
    polygon_ends: NDArray[np.int64]
    first_polygon: NDArray[np.int64]
    runs: NDArray[np.uint8]
    run_ends: NDArray[np.int64]
    first_run: NDArray[np.int64]

    @functools.cached_property
    def present(self) -> NDArray[np.bool_]:
        """(A,): which annotations have this mask."""
        present: NDArray[np.bool_] = np.diff(self.first_polygon) + np.diff(self.first_run) > 0
        return present

    def get(self, index: int, size_wh: tuple[int, int]) -> list[NDArray[np.float64]] | RLE | None:
        """The polygons of an annotation, each flat (2 * P,), or its run lengths as COCO's dictionary; None without."""
        run = self.first_run[index]
        if run < self.first_run[index + 1]:
            counts = self.runs[self.run_ends[run] : self.run_ends[run + 1]].tobytes()
            return {"size": [size_wh[1], size_wh[0]], "counts": counts}
        polygons = [
            self.coordinates[self.polygon_ends[polygon] : self.polygon_ends[polygon + 1]].copy()
            for polygon in range(self.first_polygon[index], self.first_polygon[index + 1])
        ]
        return polygons or None


@dataclass(frozen=True)
class PackedAnnotations:
    """The usable annotations of a dataset, ordered by image; image i has rows `first[i]` to `first[i + 1]`.

    Attributes:
        first: (number of images + 1,) int64.
        boxes: (A, 4) float32 x, y, width, height in pixels, inside the image.
        labels: (A,) int64, contiguous from 1.
        ids: (A,) int64, the ids in the file.
        segmentations: by name, the masks that were requested; the name of the plain mask is empty.
        keypoints: (A, K, 3) float32; None if keypoints were not requested.
        extra: (A,) float32 for each extra field, by field name; NaN where an annotation has no value.
    """

    first: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    segmentations: Mapping[str, PackedSegmentations]
    keypoints: NDArray[np.float32] | None
    extra: Mapping[str, NDArray[np.float32]]

    def rows(self, image: int) -> slice:
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def counts(self) -> NDArray[np.int64]:
        """(number of images,): annotations of each image."""
        return np.diff(self.first)

    def visible_keypoints(self) -> NDArray[np.int64]:
        """(number of images,): labelled keypoints (visibility 1 or 2) over all annotations of each image."""
        if self.keypoints is None:
            return np.zeros(len(self.first) - 1, dtype=np.int64)
        totals = np.concatenate([[0], np.cumsum((self.keypoints[..., 2] > 0).sum(axis=1))])
        visible: NDArray[np.int64] = totals[self.first[1:]] - totals[self.first[:-1]]
        return visible


def pack_annotations(
    annotations: Sequence[Any],
    image_rows: Mapping[Any, int],
    sizes_wh: NDArray[np.int64],
    labels: Mapping[Any, int],
    report: ValidationReport,
    *,
    masks: Mapping[str, MaskPath],
    num_keypoints: int | None,
    extra_fields: Mapping[str, str] | None = None,
) -> PackedAnnotations:
    """Check all annotations of a COCO file, leave out crowd regions and unusable ones, and pack the rest.

    Args:
        image_rows: image id -> row of `sizes_wh` (number of images, 2), in pixels.
        labels: category id -> contiguous label from 1.
        report: counts what is left out and why.
        masks: name of each mask to read -> where an annotation has it. An annotation without a mask keeps its box and
            its other fields; so does one with an unusable mask, which counts as absent and is reported.
        num_keypoints: K; None reads no keypoints.
        extra_fields: field name -> JSON key of a number of each annotation.
    """
    report.num_annotations += len(annotations)
    kept = _recognised(annotations, image_rows, labels, report)
    owners = np.array([image_rows[annotation["image_id"]] for annotation in kept], dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    kept, owners = [kept[position] for position in order.tolist()], owners[order]
    ids = np.array([annotation["id"] for annotation in kept], dtype=np.int64)
    sound = np.ones(len(kept), dtype=bool)

    def note(problems: Iterable[tuple[str, NDArray[np.bool_]]]) -> None:
        for reason, rows in problems:
            report.skip(reason, ids[rows & sound].tolist())  # only the first problem of an annotation is counted
            sound[rows] = False

    boxes, problems, clipped = validation.check_boxes([a.get("bbox") for a in kept], sizes_wh[owners])
    report.clipped += clipped
    note(problems)
    keypoints = None
    if num_keypoints is not None:
        keypoints, problems = validation.check_keypoints([a.get("keypoints") for a in kept], num_keypoints)
        note(problems)
    extra = {}
    for field, key in (extra_fields or {}).items():
        extra[field], problems = validation.check_numbers([a.get(key) for a in kept], key)
        note(problems)
    kept, owners, ids = [kept[row] for row in np.flatnonzero(sound).tolist()], owners[sound], ids[sound]
    return PackedAnnotations(
        first=np.searchsorted(owners, np.arange(len(sizes_wh) + 1)),
        boxes=boxes[sound].astype(np.float32),
        labels=np.array([labels[a["category_id"]] for a in kept], dtype=np.int64),
        ids=ids,
        segmentations=_pack_masks(kept, ids, sizes_wh[owners], masks, report),
        keypoints=None if keypoints is None else keypoints[sound],
        extra={field: values[sound] for field, values in extra.items()},
    )


def select_images(annotations: PackedAnnotations, images: NDArray[np.int64]) -> PackedAnnotations:
    """The annotations of these images, given in ascending order and renumbered from 0."""
    counts = annotations.counts()
    if len(images) == len(counts):
        return annotations
    rows = np.repeat(np.isin(np.arange(len(counts)), images), counts)
    keypoints = annotations.keypoints
    packed = {id(masks): _select_segmentations(masks, rows) for masks in annotations.segmentations.values()}
    return PackedAnnotations(
        first=np.concatenate([[0], np.cumsum(counts[images])]),
        boxes=annotations.boxes[rows],
        labels=annotations.labels[rows],
        ids=annotations.ids[rows],
        segmentations={name: packed[id(masks)] for name, masks in annotations.segmentations.items()},
        keypoints=None if keypoints is None else keypoints[rows],
        extra={field: values[rows] for field, values in annotations.extra.items()},
    )


def mask_at(annotation: Mapping[str, Any], path: MaskPath) -> Any:
    """What an annotation of the file has at this place, unchecked; None if nothing is there."""
    entry: Any = annotation
    for key in path:
        if not entry:
            return None
        if not isinstance(entry, dict):
            return _UNREADABLE
        entry = entry.get(key)
    return entry


def spell_path(path: MaskPath) -> str:
    """A place in an annotation, for messages: segmentations['visible']."""
    return path[0] + "".join(f"[{key!r}]" for key in path[1:])


_UNREADABLE = object()


def _recognised(
    annotations: Sequence[Any], image_rows: Mapping[Any, int], labels: Mapping[Any, int], report: ValidationReport
) -> list[dict[str, Any]]:
    """The annotations with a known image and category and a unique id, without crowd regions."""
    kept, seen = [], set()
    for position, annotation in enumerate(annotations):
        problem = None
        try:
            identity = annotation["id"]
            if type(identity) is not int or identity.bit_length() > 63:
                problem = validation.INCOMPLETE
            elif annotation["image_id"] not in image_rows:
                problem = validation.UNKNOWN_IMAGE
            elif annotation["category_id"] not in labels:
                problem = validation.UNKNOWN_CATEGORY
            elif identity in seen:
                problem = validation.DUPLICATE_ID
        except (KeyError, TypeError):  # a missing key, an id that is a list, an entry that is not a dictionary
            problem = validation.INCOMPLETE
        if problem is not None:
            known = isinstance(annotation, dict) and "id" in annotation
            report.skip(problem, [annotation["id"] if known else f"none, entry {position}"])
            continue
        seen.add(identity)
        if annotation.get("iscrowd"):
            report.crowd += 1
        else:
            kept.append(annotation)
    return kept


def _pack_masks(
    annotations: Sequence[Mapping[str, Any]],
    ids: NDArray[np.int64],
    sizes_wh: NDArray[np.int64],
    masks: Mapping[str, MaskPath],
    report: ValidationReport,
) -> dict[str, PackedSegmentations]:
    """Pack each mask of the annotations. Two names for the same place share their arrays."""
    packed = {}
    for path in dict.fromkeys(masks.values()):
        packed[path], problems = _pack_segmentations(
            [mask_at(annotation, path) for annotation in annotations], sizes_wh
        )
        for reason, rows in problems:
            report.ignore_masks(f"{spell_path(path)}: {reason}", ids[rows].tolist())
    return {name: packed[path] for name, path in masks.items()}


def _pack_segmentations(
    entries: Sequence[Any], sizes_wh: NDArray[np.int64]
) -> tuple[PackedSegmentations, list[tuple[str, NDArray[np.bool_]]]]:
    """Pack segmentations from the file, in their order. An unusable one becomes empty and is listed in the problems.

    Returns: the packed ones; the problems, each with the rows that have it, at most one per row.
    """
    polygons: list[Sequence[float]] = []
    runs: list[bytes] = []
    num_polygons, num_runs = np.zeros((2, len(entries)), dtype=np.int64)
    found: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            compressed, problem = validation.check_rle(entry, (int(sizes_wh[index, 1]), int(sizes_wh[index, 0])))
            if problem is None:
                runs.append(compressed)
                num_runs[index] = 1
        elif entry is None or isinstance(entry, (list, tuple)):
            problem = validation.check_polygons(entry or ())
            if entry and problem is None:
                polygons.extend(entry)
                num_polygons[index] = len(entry)
        else:
            problem = validation.POLYGON_MALFORMED
        if problem is not None:
            found.setdefault(problem, []).append(index)

    lengths = np.fromiter(map(len, polygons), dtype=np.int64, count=len(polygons))
    coordinates, unreadable = _flatten(polygons, lengths)
    owners = np.repeat(np.arange(len(entries)), num_polygons)
    finite = np.isfinite(coordinates)
    if not finite.all():
        broken = np.zeros(len(polygons), dtype=bool)
        broken[np.repeat(np.arange(len(polygons)), lengths)[~finite]] = True
        found.setdefault(validation.POLYGON_MALFORMED, []).extend(np.unique(owners[unreadable]).tolist())
        found.setdefault(validation.POLYGON_NOT_FINITE, []).extend(np.unique(owners[broken & ~unreadable]).tolist())
    packed = PackedSegmentations(
        coordinates=coordinates,
        polygon_ends=_ends(lengths),
        first_polygon=_ends(num_polygons),
        runs=np.frombuffer(b"".join(runs), dtype=np.uint8),
        run_ends=_ends(np.fromiter(map(len, runs), dtype=np.int64, count=len(runs))),
        first_run=_ends(num_runs),
    )
    usable = np.ones(len(entries), dtype=bool)
    problems = []
    for reason, rows in found.items():
        mask = np.zeros(len(entries), dtype=bool)
        mask[rows] = True
        problems.append((reason, mask & usable))
        usable[rows] = False
    return _empty_segmentations(packed, ~usable), problems


def _flatten(
    polygons: list[Sequence[float]], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """All coordinates in one array, and which polygons are not numbers; the coordinates of those are NaN."""
    unreadable = np.zeros(len(polygons), dtype=bool)
    try:
        return np.fromiter(chain.from_iterable(polygons), np.float64, count=int(lengths.sum())), unreadable
    except (TypeError, ValueError, OverflowError):
        rows: list[NDArray[np.float64]] = []
        for index, polygon in enumerate(polygons):
            values, well_formed = validation.number_rows([polygon], len(polygon))
            unreadable[index] = not well_formed[0]
            rows.append(values[0])
        return np.concatenate(rows), unreadable


def _select_segmentations(packed: PackedSegmentations, kept: NDArray[np.bool_]) -> PackedSegmentations:
    """The annotations with `kept` (A,) set."""
    if kept.all():
        return packed
    emptied = _empty_segmentations(packed, ~kept)
    return replace(
        emptied,
        first_polygon=_ends(np.diff(emptied.first_polygon)[kept]),
        first_run=_ends(np.diff(emptied.first_run)[kept]),
    )


def _empty_segmentations(packed: PackedSegmentations, emptied: NDArray[np.bool_]) -> PackedSegmentations:
    """The same annotations, without the masks of those with `emptied` (A,) set."""
    if not emptied.any():
        return packed
    num_polygons, num_runs = np.diff(packed.first_polygon), np.diff(packed.first_run)
    polygons, runs = np.repeat(~emptied, num_polygons), np.repeat(~emptied, num_runs)
    polygon_lengths, run_lengths = np.diff(packed.polygon_ends), np.diff(packed.run_ends)
    return PackedSegmentations(
        coordinates=packed.coordinates[np.repeat(polygons, polygon_lengths)],
        polygon_ends=_ends(polygon_lengths[polygons]),
        first_polygon=_ends(np.where(emptied, 0, num_polygons)),
        runs=packed.runs[np.repeat(runs, run_lengths)],
        run_ends=_ends(run_lengths[runs]),
        first_run=_ends(np.where(emptied, 0, num_runs)),
    )


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

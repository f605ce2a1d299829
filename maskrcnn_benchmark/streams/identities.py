"""A simple tracker: instances keep their number, and so their colour, from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.boxes import pairwise_iou
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList


@dataclass
class _Known:
    box: Tensor  # (4,)
    label: int
    identity: int
    unseen: int = 0  # frames since it was last detected


class Identities:
    """Numbers the instances of a video. A detection gets the number of the earlier instance, of the same label, that
    it overlaps most; without such an instance it gets a new number.

    Args:
        overlap: minimum IoU of an instance with itself in an earlier frame.
        memory: number of frames without a detection for which an instance is remembered.
    """

    def __init__(self, overlap: float = 0.3, memory: int = 15) -> None:
        self._overlap = overlap
        self._memory = memory
        self._known: list[_Known] = []
        self._next = 0

    def assign(self, detections: BoxList) -> BoxList:
        """The detections with the field IDENTITIES. LABELS, if there are any, must match."""
        boxes = detections.convert("xyxy")
        count = len(boxes)
        labels = boxes.get_field(fields.LABELS).tolist() if boxes.has_field(fields.LABELS) else [0] * count
        identities = [-1] * count
        for known, row in self._pairs(boxes, labels):
            identities[row] = known.identity
            known.box, known.unseen = boxes.bbox[row], -1
        for row in range(count):
            if identities[row] < 0:
                identities[row] = self._next
                self._known.append(_Known(boxes.bbox[row], labels[row], self._next, -1))
                self._next += 1
        for known in self._known:
            known.unseen += 1
        self._known = [known for known in self._known if known.unseen <= self._memory]
        numbered = detections.copy_with_fields(detections.fields())
        numbered.add_field(fields.IDENTITIES, torch.tensor(identities, dtype=torch.int64))
        return numbered

    def _pairs(self, boxes: BoxList, labels: list[int]) -> list[tuple[_Known, int]]:
        """Match known instances to rows greedily, largest overlap first; each is in at most one pair."""
        if not self._known or not len(boxes):
            return []
        overlaps = pairwise_iou(torch.stack([known.box for known in self._known]), boxes.bbox, boxes.offset)
        same = torch.tensor([known.label for known in self._known])[:, None] == torch.tensor(labels)
        overlaps = torch.where(same, overlaps, 0.0)
        pairs: list[tuple[_Known, int]] = []
        taken_known: set[int] = set()
        taken_rows: set[int] = set()
        for place in overlaps.flatten().argsort(descending=True, stable=True).tolist():
            index, row = divmod(place, len(boxes))
            if overlaps[index, row] < self._overlap:
                break
            if index not in taken_known and row not in taken_rows:
                taken_known.add(index)
                taken_rows.add(row)
                pairs.append((self._known[index], row))
        return pairs

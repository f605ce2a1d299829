"""What a case is, inputs that several share, and ways to compare results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE_HW = (800, 1088)


@dataclass(frozen=True)
class Peer:
    """Another implementation of an op, and the comparison that its result and ours must pass."""

    name: str
    run: Callable[[], Any]
    compare: Callable[[Any, Any], None]


@dataclass(frozen=True)
class Traffic:
    """Bytes that any implementation has to read and to write, once each."""

    read: int
    written: int


@dataclass(frozen=True)
class Contenders:
    """Closures over inputs; the fastest of the peers is the baseline."""

    ours: Callable[[], Any]
    peers: Sequence[Peer]
    traffic: Traffic | None = None


@dataclass(frozen=True)
class Case:
    """A row of the table. Inputs are made when it is run."""

    name: str
    build: Callable[[], Contenders]


def random_boxes(count: int, small: float = 16.0, large: float = 600.0) -> Tensor:
    """(count, 4) xyxy on the image, the sides spread evenly over the octaves."""
    sides = torch.exp(torch.empty(count, 2).uniform_(math.log(small), math.log(large)))
    limit = torch.tensor([IMAGE_HW[1], IMAGE_HW[0]], dtype=torch.float32)
    sides = torch.minimum(sides, limit - 1)
    corners = torch.rand(count, 2) * (limit - sides)
    return torch.cat([corners, corners + sides], dim=1)


def same_values(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def same_survivors(ours: Tensor, theirs: Tensor) -> None:
    """Indices that NMS kept; overlaps at the threshold may fall either way."""
    differing = len(set(ours.tolist()) ^ set(theirs.tolist()))
    assert differing <= 2 + len(ours) // 1000, f"{differing} of {len(ours)} survivors differ"


def same_boxes(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Per image (K, 4 or more), in any order. torchvision's coordinate offsets round the boxes: some fall otherwise."""
    for mine, other in zip(ours, theirs, strict=True):
        distance = torch.cdist(mine.float(), other.float(), p=math.inf)
        lonely = (distance.amin(dim=1) > 0.05).sum() + (distance.amin(dim=0) > 0.05).sum()
        assert lonely <= 2 + len(other) // 50, f"{lonely} of {len(mine)} and {len(other)} boxes differ"

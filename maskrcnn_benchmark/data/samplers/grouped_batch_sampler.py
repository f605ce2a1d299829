"""Batches of images of like shape, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch.utils.data.sampler import Sampler


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches whose images belong to one group, each image as early as the sampler's order and its group allow.

    A batch comes as soon as a group has filled one. What remains of the groups at the end of an epoch is put together
    into batches across groups, so that an epoch has every image of the sampler and ceil(images / batch_size) batches.

    Args:
        sampler: an order of indices with a length; `set_epoch` is passed on to it.
        group_ids: group of every image, indexed by what the sampler yields.
        batch_size: in images.
        drop_uneven: leave out the remains instead; the number of batches then differs from epoch to epoch.
    """

    def __init__(
        self,
        sampler: Sampler[int] | Collection[int],
        group_ids: Sequence[int],
        batch_size: int,
        drop_uneven: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"GroupedBatchSampler: batch_size is {batch_size}, it must be 1 or more")
        self.sampler = sampler
        self.group_ids = list(group_ids)
        self.batch_size = batch_size
        self.drop_uneven = drop_uneven

    def set_epoch(self, epoch: int) -> None:
        set_epoch(self.sampler, epoch)

    def __len__(self) -> int:
        if self.drop_uneven:
            raise TypeError("a GroupedBatchSampler that drops uneven batches has no fixed length")
        return -(-len(self.sampler) // self.batch_size)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = {}
        for index in self.sampler:
            batch = waiting.setdefault(self.group_ids[index], [])
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                waiting[self.group_ids[index]] = []
        if not self.drop_uneven:
            remains = [index for _, batch in sorted(waiting.items()) for index in batch]
            for start in range(0, len(remains), self.batch_size):
                yield remains[start : start + self.batch_size]


def set_epoch(sampler: Any, epoch: int) -> None:
    """Tell a sampler, or the one that a batch sampler draws from, which epoch comes; those that take none are left."""
    while not hasattr(sampler, "set_epoch"):
        if not hasattr(sampler, "sampler"):
            return
        sampler = sampler.sampler
    sampler.set_epoch(epoch)

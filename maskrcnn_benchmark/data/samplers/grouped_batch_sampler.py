"""Batches of images of similar shape, which need little padding."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch.utils.data.sampler import Sampler


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches whose images belong to one group.

    A batch is yielded as soon as a group has enough images for it. At the end of an epoch, the remaining images form
    batches across groups. So an epoch has every image of the sampler and ceil(images / batch_size) batches.

    Args:
        sampler: yields indices and has a length; `set_epoch` is passed on to it.
        group_ids: group of every image, by index.
        batch_size: in images.
        drop_uneven: leave out the remaining images; the number of batches then differs between epochs.
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
        return -(-len(self.sampler) // self.batch_size)  # type: ignore[arg-type]  # PyTorch's Sampler declares no length

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
    """Set the epoch of a sampler, or of the sampler inside a batch sampler, if it has `set_epoch`."""
    while not hasattr(sampler, "set_epoch"):
        if not hasattr(sampler, "sampler"):
            return
        sampler = sampler.sampler
    sampler.set_epoch(epoch)

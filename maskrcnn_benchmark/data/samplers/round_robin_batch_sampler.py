"""Batches for evaluation: every image once, over all processes together."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data.sampler import Sampler


class RoundRobinBatchSampler(Sampler[list[int]]):
    """Batches of consecutive images, dealt to the processes in turn. Every image comes exactly once.

    The images of a batch do not depend on the number of processes.

    Args:
        length: number of images.
        group_size: batches do not cross multiples of this; see `build.make_data_loader`.
        batch_size: in images, at most `group_size`.
        num_replicas, rank: number of processes, and the number of this process.
    """

    def __init__(self, length: int, group_size: int, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        if not 1 <= batch_size <= group_size:
            raise ValueError(f"batches of {batch_size} images do not fit into groups of {group_size}")
        batches = [
            list(range(start, min(start + batch_size, group + group_size, length)))
            for group in range(0, length, group_size)
            for start in range(group, min(group + group_size, length), batch_size)
        ]
        self.batches = batches[rank::num_replicas]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

"""The order of the images of an epoch, and each process's share of it."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data.sampler import Sampler

from maskrcnn_benchmark.utils import comm


class DistributedSampler(Sampler[int]):
    """Yields every image once per epoch, in an order that depends on (seed, epoch); processes take turns.

    Args:
        dataset: anything with a length.
        num_replicas, rank: number of processes, and the number of this process; None asks `utils.comm`.
        shuffle: False keeps the order of the data set.
        seed: the same in all processes.
        multiple: the share of each process is filled up to a multiple of this, with images from the start of the epoch,
            so that all shares have the same length. 0 does not fill up: the lengths differ by at most one, and no image
            comes twice.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        multiple: int = 1,
    ) -> None:
        self.num_replicas = comm.get_world_size() if num_replicas is None else num_replicas
        self.rank = comm.get_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"DistributedSampler: rank is {self.rank}, but there are {self.num_replicas} processes")
        self.length = len(dataset)
        self.shuffle = shuffle
        self.seed = seed
        self.multiple = multiple
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.multiple == 0:
            return len(range(self.rank, self.length, self.num_replicas))
        return -(-self.length // (self.num_replicas * self.multiple)) * self.multiple

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        if self.multiple:
            order = np.resize(order, len(self) * self.num_replicas)
        return iter(order[self.rank :: self.num_replicas].tolist())

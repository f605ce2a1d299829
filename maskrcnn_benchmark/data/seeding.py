"""Random numbers per sample. The augmentation of a sample depends only on the seed and its position in the run.

So training data is the same with any number of loader workers, and after a resume.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.sampler import Sampler

from maskrcnn_benchmark.data.datasets.base import Sample

_BATCH = 1  # after the position of its first sample: a stream of random numbers that no sample has


class SampleKey(NamedTuple):
    """A request for one sample, sent to a worker.

    Attributes:
        image: index in the data set.
        position: number of the sample among all samples that the processes of a run load.
    """

    image: int
    position: int


@contextmanager
def sample_randomness(seed: int, *numbers: int) -> Iterator[None]:
    """Seed the global CPU generators of `random`, NumPy and PyTorch from the seed and further numbers, none negative.

    Restores their states on exit, so that loading in the main process does not change the random numbers of training.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = np.random.SeedSequence((seed, *numbers)).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)  # torch.manual_seed would also seed the GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededDataset(Dataset[Sample]):
    """Wraps a data set: takes `SampleKey`s and seeds each sample. All other attributes are taken from the data set."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample:
        with sample_randomness(self.seed, key.position):
            sample: Sample = self.dataset[key.image]
            return sample

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not there yet during unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededBatches(SeededDataset):
    """As `SeededDataset`, with a random transform of all samples of a batch together, which is seeded too."""

    def __init__(self, dataset: Any, seed: int, transform: Callable[[Sequence[Sample]], list[Sample]]) -> None:
        super().__init__(dataset, seed)
        self.transform = transform

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Sample]:
        """The samples of a batch. PyTorch's loader calls this method, if there is one, with all keys of a batch."""
        samples = [self[key] for key in keys]
        with sample_randomness(self.seed, keys[0].position, _BATCH):
            return self.transform(samples)


class PositionedBatchSampler(Sampler[list[SampleKey]]):
    """Adds positions to the batches of this process.

    Args:
        batch_sampler: yields lists of indices; the first list belongs to iteration `start_iter`.
        batch_size: largest number of images in a batch.
        num_replicas, rank: number of processes, and the number of this process.
    """

    def __init__(
        self, batch_sampler: Any, batch_size: int, start_iter: int = 0, num_replicas: int = 1, rank: int = 0
    ) -> None:
        self.batch_sampler = batch_sampler
        self.batch_size = batch_size
        self.start_iter = start_iter
        self.num_replicas = num_replicas
        self.rank = rank

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration, batch in enumerate(self.batch_sampler, start=self.start_iter):
            yield self._keys(batch, (iteration * self.num_replicas + self.rank) * self.batch_size)

    def _keys(self, batch: Sequence[int], first: int) -> list[SampleKey]:
        return [SampleKey(image, position) for position, image in enumerate(batch, start=first)]

"""Randomness per sample: what an image is turned into depends on (seed, place in the run), not on which worker loads
it.

So the training data is the same with any number of loader workers, and after a resume.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.sampler import Sampler


class SampleKey(NamedTuple):
    """An image's index in the dataset, and its place among all samples that all processes of a run load."""

    image: int
    position: int


@contextmanager
def sample_randomness(seed: int, position: int) -> Iterator[None]:
    """Inside, the global CPU generators of `random`, NumPy and PyTorch are seeded from both numbers (not negative).

    Afterwards they go on as if nothing had happened, so that loading in the main process does not disturb training.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = np.random.SeedSequence((seed, position)).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)  # torch.manual_seed would reach for the GPU, too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededDataset(Dataset):
    """A dataset that is asked for `SampleKey`s and draws random numbers accordingly; else it is the one it wraps."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Any:
        with sample_randomness(self.seed, key.position):
            return self.dataset[key.image]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)


class PositionedBatchSampler(Sampler[list[SampleKey]]):
    """Adds the places to the batches of this process.

    Args:
        batch_sampler: yields lists of indices, the first of them for iteration `start_iter`.
        batch_size: largest number of images in a batch.
        num_replicas, rank: number of processes, and which one this is.
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

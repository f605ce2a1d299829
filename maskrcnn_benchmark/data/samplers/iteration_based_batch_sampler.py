"""Batches for a number of iterations, over as many epochs as that takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data.sampler import Sampler

from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import set_epoch


class IterationBasedBatchSampler(Sampler[list[int]]):
    """Repeats a batch sampler, epoch after epoch, up to a number of iterations.

    With `start_iter` it yields exactly the batches that a run from 0 yields from there on, also in the middle of an
    epoch. Earlier batches are skipped without reading images.

    Args:
        batch_sampler: yields the batches of one epoch, which `set_epoch` chooses. It has a length if every epoch has
            the same number of batches.
        num_iterations: iteration to stop at.
        start_iter: iteration to begin with.
    """

    def __init__(self, batch_sampler: Any, num_iterations: int, start_iter: int = 0) -> None:
        self.batch_sampler = batch_sampler
        self.num_iterations = num_iterations
        self.start_iter = start_iter

    def __len__(self) -> int:
        return max(0, self.num_iterations - self.start_iter)

    def __iter__(self) -> Iterator[list[int]]:
        iteration, epoch = 0, 0
        try:  # if the length of an epoch is known, whole epochs before start_iter are skipped at once
            epoch = self.start_iter // len(self.batch_sampler)
            iteration = epoch * len(self.batch_sampler)
        except (TypeError, ZeroDivisionError):
            pass
        while iteration < self.num_iterations:
            set_epoch(self.batch_sampler, epoch)
            before = iteration
            for batch in islice(self.batch_sampler, self.num_iterations - iteration):
                if iteration >= self.start_iter:
                    yield batch
                iteration += 1
            if iteration == before:
                raise ValueError("the batch sampler has no batch: its dataset is empty or smaller than one batch")
            epoch += 1

"""Training counts iterations, not epochs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data.sampler import Sampler

from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import set_epoch


class IterationBasedBatchSampler(Sampler[list[int]]):
    """Epoch after epoch of a batch sampler until a number of iterations is reached.

    With `start_iter` it yields exactly what a run that began at 0 yields from there on, also in the middle of an epoch:
    the batches before it are passed over without any image being read.

    Args:
        batch_sampler: yields batches, one epoch per iteration over it, `set_epoch` chooses which; has a length where
            every epoch has the same number of batches.
        num_iterations: iteration to stop at. start_iter: iteration to begin with.
    """

    def __init__(self, batch_sampler: Any, num_iterations: int, start_iter: int = 0) -> None:
        self.batch_sampler = batch_sampler
        self.num_iterations = num_iterations
        self.start_iter = start_iter

    def __len__(self) -> int:
        return max(0, self.num_iterations - self.start_iter)

    def __iter__(self) -> Iterator[list[int]]:
        iteration, epoch = 0, 0
        try:  # whole epochs before start_iter need not even be drawn where their length is known
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

"""A detector-shaped model, a loader and a checkpointer small enough for tests of the training loop."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from maskrcnn_benchmark.engine.train_loop import Hook
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList


class ToyDetector(nn.Module):
    """Losses of images (N, 3, 4, 4); means over the batch, as those of a detector. Dropout draws random numbers."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, images: ImageList, targets: list[BoxList]) -> dict[str, torch.Tensor]:
        first, second = self.net(images.tensors).unbind(1)
        wanted = torch.stack([target.bbox[0, 0] for target in targets])
        return {"loss_first": ((first - wanted) ** 2).mean(), "loss_second": second.abs().mean()}


class ToyDataset:
    """Knows what its images are called."""

    def get_img_info(self, index: int) -> dict[str, object]:
        return {"id": 1000 + index, "file_name": f"{index:04d}.jpg"}


class ToyLoader:
    """Batches that are a function of their position alone, from `start_iter` on, as make_data_loader's are."""

    def __init__(
        self, length: int, batch_size: int = 2, start_iter: int = 0, bad: dict[int, float] | None = None
    ) -> None:
        self.length, self.batch_size, self.start_iter, self.bad = length, batch_size, start_iter, bad or {}
        self.dataset = ToyDataset()

    def __iter__(self):
        torch.rand(1)  # a loader may draw from the global generator when it starts, as PyTorch's does
        return self.batches()

    def batches(self):
        for position in range(self.start_iter, self.length):
            generator = torch.Generator().manual_seed(position)
            images = torch.randn(self.batch_size, 3, 4, 4, generator=generator)
            images += self.bad.get(position, 0.0)
            targets = [BoxList([[float(position % 3), 0, 5, 5]], (4, 4)) for _ in range(self.batch_size)]
            indices = tuple(range(position * self.batch_size, (position + 1) * self.batch_size))
            yield ImageList(images, [(4, 4)] * self.batch_size), targets, indices


class Recorder(Hook):
    """Keeps the losses of each step, exactly."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def after_step(self, trainer) -> None:
        self.losses.append({name: loss.item() for name, loss in trainer.losses.items()})


class Keep:
    """A writer that remembers."""

    def __init__(self):
        self.losses = []

    def write_progress(self, progress, meters):
        self.losses.append(progress.scalars["loss"])

    def close(self):
        pass


def draws() -> tuple[float, ...]:
    """One number of each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.randn(()))

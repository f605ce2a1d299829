"""What each of two processes does in test_two_ranks.py; a module of its own, which a spawned process can import."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.engine.hooks import Hook, LogHook, LossGuard, NonFiniteLossError, StopHook
from maskrcnn_benchmark.engine.train_loop import Trainer
from maskrcnn_benchmark.structures.image_list import ImageList
from tests.engine.toy import Keep, ToyDetector, ToyLoader


class Share(ToyLoader):
    """One rank's half of the batches of a ToyLoader."""

    def batches(self):
        rank = dist.get_rank()
        for images, targets, indices in super().batches():
            half = slice(rank, None, 2)
            yield ImageList(images.tensors[half], images.image_sizes[half]), targets[half], indices[half]


def make(model, loader, hooks, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return Trainer(model, loader, optimizer, scheduler, device="cpu", hooks=hooks, **kwargs)


def work(rank: int, folder: str) -> None:
    """Spawned twice; leaves rank<N>.pth with what it saw."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", USE_LIBUV="0")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    seen = {"trained": train_together(), "message": fail_together(rank), "stopped_at": stop_together(rank)}
    torch.save(seen, Path(folder) / f"rank{rank}.pth")
    dist.destroy_process_group()


def train_together() -> dict:
    torch.manual_seed(0)
    model, keep = ToyDetector(dropout=0), Keep()
    wrapped = DistributedDataParallel(model)
    make(wrapped, Share(8, batch_size=4), [LogHook(1, [keep])], max_iter=4, accumulate=2).train()
    return {"weights": model.state_dict(), "losses": keep.losses}


def fail_together(rank: int) -> str:
    """Only rank 1 ever sees a bad image."""
    model = DistributedDataParallel(ToyDetector(dropout=0))
    loader = Share(10, batch_size=4, bad={3: float("nan")} if rank == 1 else {})
    try:
        make(model, loader, [LossGuard(10, "image{}".format)], max_iter=10).train()
    except NonFiniteLossError as error:
        return str(error)
    return ""


def stop_together(rank: int) -> int:
    """Only rank 1 gets the signal, at its third step."""

    class Signal(Hook):
        def after_step(self, trainer):
            if rank == 1 and trainer.iteration == 3:
                os.kill(os.getpid(), 15)

    trainer = make(DistributedDataParallel(ToyDetector()), Share(50), [Signal(), StopHook()], max_iter=50)
    trainer.train()
    return trainer.iteration if trainer.stop_reason == "SIGTERM" else -1

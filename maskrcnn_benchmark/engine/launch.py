"""One process among several: which GPU it has, which group it joins, how many CPU threads it takes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from maskrcnn_benchmark.utils.allocator import keep_freed_memory

logger = logging.getLogger(__name__)

# The main rank counts an evaluation while the others wait for it; pycocotools takes minutes on a large set.
_GROUP_TIMEOUT = timedelta(hours=2)


class LaunchError(RuntimeError):
    """Processes were started in a way that cannot work."""


@dataclass(frozen=True)
class Process:
    """This process's place in the run.

    rank: number of `world_size`, over all machines. local_rank: number of `local_world_size`, on this one.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def distributed(self) -> bool:
        return self.world_size > 1


def launch(device_name: str, local_rank: int | None = None) -> Process:
    """Join the run that a launcher has started (`torchrun`, `python -m torch.distributed.launch`), or run alone.

    Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which both launchers set; joins a group of processes
    over NCCL on GPUs and over gloo on CPUs; takes the GPU of this process. On CPUs freed memory is kept for reuse.

    Args:
        device_name: MODEL.DEVICE. "cuda" takes the GPU number LOCAL_RANK; where PyTorch sees no GPU the CPU is
            taken, with a warning, so that a config for GPUs can be tried on a laptop.
        local_rank: what an older launcher passed as --local_rank; the environment wins.
    Raises: LaunchError when there are more processes on this machine than GPUs, or --local_rank came without a
    launcher.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" in os.environ:
        local_rank = int(os.environ["LOCAL_RANK"])
    elif local_rank and world_size == 1:
        raise LaunchError(
            f"--local_rank is {local_rank}, but WORLD_SIZE is not set: start several processes with "
            "`torchrun --nproc_per_node=N tools/train_net.py ...`, and a single one without --local_rank."
        )
    local_rank = local_rank or 0
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    device = select_device(device_name, local_rank, local_world_size)
    if device.type == "cpu":
        _share_cpu_threads(local_world_size)
        keep_freed_memory()
    if world_size > 1 and not dist.is_initialized():
        options = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
        dist.init_process_group(init_method="env://", timeout=_GROUP_TIMEOUT, **options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    return Process(rank, local_rank, world_size, local_world_size, device)


def leave() -> None:
    """Leave the group of processes, where one was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def select_device(name: str, local_rank: int = 0, local_world_size: int = 1) -> torch.device:
    """MODEL.DEVICE -> the device of this process; a GPU becomes the current one."""
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %r, but PyTorch sees no GPU: using the CPU", name)
        return torch.device("cpu")
    if device.index is None:
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise LaunchError(
                f"{local_world_size} processes were started on this machine, but PyTorch sees {gpus} GPUs. "
                "Start one process per GPU (torchrun --nproc_per_node), or set MODEL.DEVICE cpu."
            )
        device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _share_cpu_threads(local_world_size: int) -> None:
    """Processes that each take every core slow each other down; OMP_NUM_THREADS, where set, is the user's choice."""
    if local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_world_size))

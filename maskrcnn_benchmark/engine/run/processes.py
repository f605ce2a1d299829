"""The processes of a run: the group that they form, and the device and CPU threads of each."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.utils.allocator import keep_freed_memory

from .errors import StartupError

logger = logging.getLogger(__name__)

# The other ranks wait while the main rank evaluates, which takes minutes on a large data set.
_GROUP_TIMEOUT = timedelta(hours=2)


class LaunchError(StartupError):
    """The processes were started in a way that cannot work."""


@dataclass(frozen=True)
class Process:
    """The place of this process in the run.

    Attributes:
        rank: its number among all processes, from 0.
        local_rank: its number among the processes of this machine, from 0.
        world_size: number of processes.
        local_world_size: number of processes on this machine.
        device: the GPU of this process, or the CPU.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def distributed(self) -> bool:
        return self.world_size > 1


def join_process_group(device_name: str, local_rank: int | None = None) -> Process:
    """Join the processes that a launcher has started (`torchrun`, `python -m torch.distributed.launch`), if any.

    Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which both launchers set. The group uses NCCL on GPUs and
    gloo on CPUs. On CPUs, freed memory is kept for reuse.

    Args:
        device_name: MODEL.DEVICE, see `select_device`.
        local_rank: the --local_rank of an older launcher; LOCAL_RANK in the environment wins.
    Raises: LaunchError if there are more processes on this machine than GPUs, or --local_rank came without a launcher.
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


def leave_process_group() -> None:
    """Leave the group of processes, if one was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def distribute(model: nn.Module, process: Process) -> nn.Module:
    """Wrap the model in DistributedDataParallel if there are several processes."""
    if not process.distributed:
        return model
    # Frozen statistics never change, and SyncBN keeps its own in step. Those of plain batch norm differ between ranks
    # and are copied from rank 0.
    has_local_statistics = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for module in model.modules()
    )
    return DistributedDataParallel(
        model,
        device_ids=[process.device] if process.device.type == "cuda" else None,
        broadcast_buffers=has_local_statistics,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )


def select_device(name: str, local_rank: int = 0, local_world_size: int = 1) -> torch.device:
    """Return the device of this process; a GPU becomes the current one.

    Args:
        name: MODEL.DEVICE. "cuda" means the GPU with the number `local_rank`. If PyTorch sees no GPU, it means the
            CPU, with a warning, so that a config for GPUs can be tried on a laptop.
    Raises: LaunchError if there is no such GPU.
    """
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
    """Divide the cores among the processes of this machine, unless the user has set OMP_NUM_THREADS."""
    if local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_world_size))

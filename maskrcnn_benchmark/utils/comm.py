"""Communication between the processes of a run. All functions also work in a run of one process.

Objects are sent through CPU memory with gloo, even if gradients use NCCL: the predictions for a whole data set do not
fit into GPU memory beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_cpu_groups: dict[dist.ProcessGroup, dist.ProcessGroup] = {}  # default group -> gloo group of the same processes


def _is_in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if _is_in_group() else 1


def get_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _is_in_group() else 0


def is_main_process() -> bool:
    """Is this the process that logs and writes files?"""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has called this."""
    if get_world_size() > 1:
        dist.barrier(group=_cpu_group())


def all_gather(value: T) -> list[T]:
    """Collect the values of all processes, by rank, in every process. Values must be picklable. Collective."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, value, group=_cpu_group())
    return gathered


def gather(value: T, destination: int = 0) -> list[T]:
    """Collect the values of all processes, by rank, in process `destination`; others get an empty list. Collective."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * get_world_size() if get_rank() == destination else None
    dist.gather_object(value, gathered, dst=destination, group=_cpu_group())
    return gathered if gathered is not None else []


def broadcast(value: T, source: int = 0) -> T:
    """Send the value of process `source` to all processes. Collective."""
    if get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source, group=_cpu_group())
    return box[0]


def reduce_dict(values: Mapping[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Average (or sum) each scalar tensor over all processes, with one message. Collective.

    Args:
        values: must have the same keys in every process.
    """
    if get_world_size() == 1 or not values:
        return dict(values)
    names = sorted(values)
    with torch.no_grad():
        stacked = torch.stack([values[name].detach().float() for name in names])
        dist.all_reduce(stacked)
        if average:
            stacked /= get_world_size()
    reduced = dict(zip(names, stacked.unbind(), strict=True))
    return {name: reduced[name] for name in values}


def _cpu_group() -> dist.ProcessGroup:
    """The gloo group of all processes. The first call creates it, which is collective, as all callers are."""
    world = dist.group.WORLD
    assert world is not None
    if dist.get_backend() == "gloo":
        return world
    if world not in _cpu_groups:
        _cpu_groups.clear()  # groups of an earlier run in this process do not exist any more
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup), "this process is in the group"
        _cpu_groups[world] = group
    return _cpu_groups[world]
